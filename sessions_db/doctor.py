"""What may be wrong with a database: looked for by reading it, never mended.

Every check stands for itself, so that one that can't be made does not keep the others from being made.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import Connection, Engine, exc, inspect

from sessions_db import errors, migrate, schema
from sessions_db.engine import OLDEST_POSTGRESQL, open_engine
from sessions_db.errors import SessionsError


class Outcome(StrEnum):
    """How grave it is."""

    OK = "ok"
    WARNING = "warning"
    FAILURE = "failure"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one check found, in a line."""

    check: str
    outcome: Outcome
    detail: str


_Result = tuple[Outcome, str]


def examine(url: str, *, quick: bool = False) -> Iterator[Finding]:
    """A finding for each check, as it is made; `quick` leaves out those that read every message.

    Raises:
        InvalidInput: the URL can't be read.
    """
    engine = open_engine(url, synchronous="FULL", retry_budget_s=5.0, pool_size=1, read_only=True)
    try:
        connected = _finding("connection", engine, _connection)
        yield connected
        if connected.outcome is Outcome.FAILURE:
            return
        checks = {"revision": _revision, "tables": _tables, "triggers": _triggers, "views": _views}
        checks |= _SETTINGS[engine.dialect.name]
        if not quick:
            checks |= _CONTENT
        for name, check in checks.items():
            yield _finding(name, engine, check)
    finally:
        engine.dispose()


def _finding(name: str, engine: Engine, check: Callable[[Connection], _Result]) -> Finding:
    try:
        with engine.connect() as conn:
            outcome, detail = check(conn)
    except exc.SQLAlchemyError as error:
        translated = errors.translate(error, waited_s=0.0, password=engine.url.password)
        outcome, detail = Outcome.FAILURE, str(translated)
    except SessionsError as error:
        outcome, detail = Outcome.FAILURE, str(error)
    return Finding(check=name, outcome=outcome, detail=detail)


def _value(conn: Connection, sql: str) -> object:
    return conn.exec_driver_sql(sql).scalar_one()


# What the database is


def _connection(conn: Connection) -> _Result:
    if conn.dialect.name == "sqlite":
        return Outcome.OK, f"SQLite {sqlite3.sqlite_version}"
    return Outcome.OK, f"PostgreSQL {_value(conn, 'SHOW server_version')}"


def _revision(conn: Connection) -> _Result:
    found, head = migrate.current_revision(conn), migrate.head_revision()
    if found == head:
        return Outcome.OK, f"{found}, which this release needs"
    return (
        Outcome.FAILURE,
        f"{found or 'none'}, this release needs {head}: run `sessions-db upgrade`, or a newer release",
    )


def _tables(conn: Connection) -> _Result:
    inspector = inspect(conn)
    existing = set(inspector.get_table_names())
    missing = []
    for table in schema.tables_of(conn.dialect.name):
        if table.name not in existing:
            missing.append(f"table {table.name}")
            continue
        there = {index["name"] for index in inspector.get_indexes(table.name)}
        missing += [f"index {index.name}" for index in table.indexes if index.name not in there]
    return _nothing_but(missing, "missing", f"all {len(schema.tables_of(conn.dialect.name))}, with their indexes")


def _triggers(conn: Connection) -> _Result:
    faults = [f"{name} is {fault}" for name, fault in migrate.trigger_faults(conn)]
    return _nothing_but(faults, "not as they should be", "all are there, as this release made them")


def _views(conn: Connection) -> _Result:
    expected = schema.VIEWS[conn.dialect.name]
    existing = set(inspect(conn).get_view_names())
    missing = [name for name in expected if name not in existing]
    return _nothing_but(missing, "missing", f"all {len(expected)}")


def _nothing_but(faults: list[str], what: str, otherwise: str) -> _Result:
    if faults:
        return Outcome.FAILURE, f"{what}: {', '.join(faults)}"
    return Outcome.OK, otherwise


# How the database is set up


def _journal_mode(conn: Connection) -> _Result:
    mode = _value(conn, "PRAGMA journal_mode")
    if mode == "wal":
        return Outcome.OK, "WAL"
    return Outcome.WARNING, f"{mode}: the next SessionManager that writes makes it WAL, where the file system can"


def _foreign_keys(conn: Connection) -> _Result:
    if _value(conn, "PRAGMA foreign_keys") == 1:
        return Outcome.OK, "on, in this library's connections"
    return Outcome.FAILURE, "off: this SQLite was built without them"


def _sqlite_version(_conn: Connection) -> _Result:
    # https://sqlite.org/wal.html, "The WAL-Reset Bug"
    if (3, 7, 0) <= sqlite3.sqlite_version_info < (3, 51, 3):
        return Outcome.WARNING, (
            f"{sqlite3.sqlite_version} has the WAL-reset bug, which can damage a file that several connections write "
            "to at once; 3.51.3 has it mended"
        )
    return Outcome.OK, sqlite3.sqlite_version


def _integrity(conn: Connection) -> _Result:
    found = [str(row[0]) for row in conn.exec_driver_sql("PRAGMA quick_check(5)")]
    if found == ["ok"]:
        return Outcome.OK, "the file is sound"
    return Outcome.FAILURE, "; ".join(found)


def _actor_left_over(conn: Connection) -> _Result:
    names = [str(row[0]) for row in conn.exec_driver_sql("SELECT name FROM event_actor")]
    if names:
        return Outcome.WARNING, f"the log names {', '.join(names)} for whoever gives no name: empty event_actor"
    return Outcome.OK, "nobody is named but by a manager"


def _server_version(conn: Connection) -> _Result:
    number = int(str(_value(conn, "SHOW server_version_num")))
    if number // 10_000 < OLDEST_POSTGRESQL:
        return Outcome.FAILURE, f"older than PostgreSQL {OLDEST_POSTGRESQL}, the oldest that this release works with"
    return Outcome.OK, f"PostgreSQL {OLDEST_POSTGRESQL} or newer"


def _durability(conn: Connection) -> _Result:
    risky = [
        name for name in ("fsync", "full_page_writes", "synchronous_commit") if _value(conn, f"SHOW {name}") == "off"
    ]
    if risky:
        return Outcome.WARNING, f"{', '.join(risky)} off: what was committed can be lost in a crash"
    return Outcome.OK, f"synchronous_commit {_value(conn, 'SHOW synchronous_commit')}, fsync and full_page_writes on"


def _autovacuum(conn: Connection) -> _Result:
    if _value(conn, "SHOW autovacuum") == "on":
        return Outcome.OK, "on"
    return Outcome.WARNING, "off: every append leaves dead rows, and only VACUUM takes them away"


_SETTINGS: dict[str, dict[str, Callable[[Connection], _Result]]] = {
    "sqlite": {
        "journal mode": _journal_mode,
        "foreign keys": _foreign_keys,
        "SQLite version": _sqlite_version,
        "integrity": _integrity,
        "actor": _actor_left_over,
    },
    "postgresql": {"server version": _server_version, "durability": _durability, "autovacuum": _autovacuum},
}


# What is in it


def _counted(what: str, sql: str, outcome: Outcome, otherwise: str) -> Callable[[Connection], _Result]:
    """A check that a query, which gives keys, gives none."""

    def check(conn: Connection) -> _Result:
        number, first = conn.exec_driver_sql(f"SELECT count(*), min(key) FROM ({sql}) AS found").one()
        return (outcome, f"{number} {what}, {first} for one") if number else (Outcome.OK, otherwise)

    return check


_RETAINED = "FROM sessions AS s JOIN messages AS m ON m.session_key = s.key GROUP BY s.key"

_CONTENT: dict[str, Callable[[Connection], _Result]] = {
    "cap": _counted(
        "sessions retain more messages than their message_cap",
        f"SELECT s.key {_RETAINED} HAVING count(*) > s.message_cap",
        Outcome.FAILURE,
        "no session retains more messages than its message_cap",
    ),
    "counters": _counted(
        "sessions have a message beyond last_seq or after last_activity_ms",
        f"SELECT s.key {_RETAINED} HAVING max(m.seq) > s.last_seq OR max(m.timestamp_ms) > s.last_activity_ms",
        Outcome.FAILURE,
        "last_seq and last_activity_ms agree with the messages",
    ),
    "gaps": _counted(
        "sessions lack messages in between: somebody deleted them",
        f"SELECT s.key {_RETAINED} HAVING count(*) <> s.last_seq - min(m.seq) + 1",
        Outcome.WARNING,
        "the numbers of each session's messages have no gaps",
    ),
    "orphans": _counted(
        "rows belong to no session",
        " UNION ALL ".join(
            f"SELECT session_key AS key FROM {table} WHERE NOT EXISTS (SELECT 1 FROM sessions WHERE key = session_key)"
            for table in ("messages", "archived_messages", "labels")
        ),
        Outcome.FAILURE,
        "every message and label belongs to a session",
    ),
    "labels": _counted(
        "labels point to a session that was given another",
        "SELECT l.session_key AS key FROM labels AS l JOIN sessions AS s ON s.key = l.session_key"
        " WHERE s.label IS NULL OR s.label <> l.label",
        Outcome.WARNING,
        "every label points to a session that was given it",
    ),
}

"""Databases with many sessions in them, filled past the library by the databases' own bulk means.

A filled session is as the library would have left it: its numbers go on from where its messages end. Only the trigger
that numbers appends is out of the way meanwhile, all other triggers do their work.
"""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import Any

import psycopg
from psycopg import sql
from sqlalchemy import URL

from benchmarks.databases import conninfo

AGENTS = 100

_SESSION_COLUMNS = (
    "key",
    "agent_id",
    "kind",
    "status",
    "label",
    "task",
    "run_id",
    "created_ms",
    "finished_ms",
    "last_seq",
    "last_activity_ms",
)
_MESSAGE_COLUMNS = ("session_key", "seq", "role", "content", "tool_name", "timestamp_ms")
_LABEL_COLUMNS = ("label", "session_key", "assigned_ms")

_LABELLED = 10
"""One session in this many has a label."""

_FIRST_MS = 1_767_225_600_000  # 2026-01-01
_STEP_MS = 1_000


def key(number: int) -> str:
    """The key of the session of that number. Numbers follow the sessions' ages, as version 7 UUIDs do."""
    return f"agent:{_agent_id(number)}:subagent:{_uuid(number, 8)}"


def label(number: int) -> str:
    """The label of a session near that one."""
    return f"label-{number - number % _LABELLED}"


def fill(url: URL, start: int, stop: int) -> None:
    """Add the sessions of the numbers from `start` up to `stop`, and let the database take their measure."""
    if url.get_backend_name() == "sqlite":
        _fill_sqlite(url, range(start, stop))
    else:
        _fill_postgresql(url, range(start, stop))


def _fill_sqlite(url: URL, numbers: range) -> None:
    with closing(sqlite3.connect(str(url.database), isolation_level=None)) as connection:
        connection.execute("PRAGMA cache_size = -500000")
        connection.execute("BEGIN IMMEDIATE")
        ((trigger,),) = connection.execute("SELECT sql FROM sqlite_schema WHERE name = 'messages_append'").fetchall()
        connection.execute("DROP TRIGGER messages_append")
        for table, columns, rows in _tables(numbers):
            places = ", ".join("?" * len(columns))
            statement = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({places})"  # noqa: S608  # our own names
            connection.executemany(statement, rows)
        connection.execute(trigger)
        connection.execute("COMMIT")
        connection.execute("ANALYZE")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _fill_postgresql(url: URL, numbers: range) -> None:
    with psycopg.connect(conninfo(url), autocommit=True) as connection:
        with connection.transaction(), connection.cursor() as cursor:
            cursor.execute("ALTER TABLE messages DISABLE TRIGGER messages_append")
            for table, columns, rows in _tables(numbers):
                names = sql.SQL(", ").join(map(sql.Identifier, columns))
                with cursor.copy(sql.SQL("COPY {} ({}) FROM STDIN").format(sql.Identifier(table), names)) as copy:
                    for row in rows:
                        copy.write_row(row)
            cursor.execute("ALTER TABLE messages ENABLE TRIGGER messages_append")
        connection.execute("VACUUM ANALYZE")
        connection.execute("CHECKPOINT")


def _tables(numbers: range) -> Iterator[tuple[str, tuple[str, ...], Iterable[tuple[Any, ...]]]]:
    yield "sessions", _SESSION_COLUMNS, map(_session, numbers)
    yield "messages", _MESSAGE_COLUMNS, itertools.chain.from_iterable(map(_messages, numbers))
    yield "labels", _LABEL_COLUMNS, (_label(number) for number in numbers if number % _LABELLED == 0)


def _session(number: int) -> tuple[Any, ...]:
    created_ms = _FIRST_MS + number * _STEP_MS
    is_active = number % 4 == 0
    last_activity_ms = created_ms + _STEP_MS
    return (
        key(number),
        _agent_id(number),
        "subagent",
        "active" if is_active else "completed",
        label(number) if number % _LABELLED == 0 else None,
        "Find the cheapest flight on the day that the user named, and book it with the card on file",
        _uuid(number, 9),
        created_ms,
        None if is_active else last_activity_ms,
        _size(number),
        last_activity_ms,
    )


_TURN = (
    ("user", "I would like to fly from New York to Seattle on May 20th, one way, in economy.", None),
    ("tool", '[{"flight_number": "HAT069", "origin": "JFK", "destination": "SEA", "status": "available"}]', "search"),
    ("assistant", "There is one flight on that day, HAT069, which leaves at 06:00. Shall I book it for you?", None),
)


def _messages(number: int) -> Iterator[tuple[Any, ...]]:
    at_ms = _FIRST_MS + number * _STEP_MS
    for seq, (role, content, tool_name) in enumerate(_TURN[: _size(number)], start=1):
        yield key(number), seq, role, content, tool_name, at_ms + seq


def _size(number: int) -> int:
    """Two or three messages a session."""
    return 2 + number % 2


def _label(number: int) -> tuple[Any, ...]:
    return label(number), key(number), _FIRST_MS + number * _STEP_MS


def _agent_id(number: int) -> str:
    return f"agent-{number % AGENTS:03}"


def _uuid(number: int, variant: int) -> str:
    """A version 7 UUID for that number, another one for each variant (8, 9)."""
    at_ms = _FIRST_MS + number * _STEP_MS
    # Scattered, so that nothing but the time is in order.
    scattered = number * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF
    head, tail = at_ms >> 16, at_ms & 0xFFFF
    return (
        f"{head:08x}-{tail:04x}-7{scattered & 0xFFF:03x}-{variant}{scattered >> 12 & 0xFFF:03x}-{scattered >> 16:012x}"
    )

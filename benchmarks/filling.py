"""Databases with many sessions, filled by bulk SQL instead of through the library.

The rows are as the library would have left them. Only the trigger that numbers and trims messages is out of the way
meanwhile; all others do their work.
"""

from __future__ import annotations

import itertools
import sqlite3
import uuid
from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import Any, TypeAlias

import psycopg
from sqlalchemy import URL

from benchmarks.databases import conninfo

AGENTS = 100

_Table: TypeAlias = tuple[str, str, Iterable[tuple[Any, ...]]]
"""A table's name, its columns and rows."""

_LABELLED = 10
"""One session in this many has a label."""

_FIRST_MS = 1_767_225_600_000  # 2026-01-01
_STEP_MS = 1_000

_TASK = "Find the cheapest flight on the day that the user named, and book it with the card on file"
_TURN = (
    ("user", "I would like to fly from New York to Seattle on May 20th, one way, in economy.", None),
    ("tool", '[{"flight_number": "HAT069", "origin": "JFK", "destination": "SEA", "status": "available"}]', "search"),
    ("assistant", "There is one flight on that day, HAT069, which leaves at 06:00. Shall I book it for you?", None),
)


def key(number: int) -> str:
    """The key of a session. As with version 7 UUIDs, keys are in the order of creation."""
    return f"agent:{_agent_id(number)}:subagent:{_uuid(number)}"


def label(number: int) -> str:
    """The label of this session or of the nearest one before it that has one."""
    return f"label-{number - number % _LABELLED}"


def fill(url: URL, start: int, stop: int) -> None:
    """Add the sessions numbered from `start` to before `stop`, then update the planner's statistics."""
    fill_backend = _fill_sqlite if url.get_backend_name() == "sqlite" else _fill_postgresql
    fill_backend(url, _tables(range(start, stop)))


def _fill_sqlite(url: URL, tables: Iterable[_Table]) -> None:
    with closing(sqlite3.connect(str(url.database), isolation_level=None)) as connection:
        connection.execute("PRAGMA cache_size = -500000")
        connection.execute("BEGIN IMMEDIATE")
        ((trigger,),) = connection.execute("SELECT sql FROM sqlite_schema WHERE name = 'messages_append'").fetchall()
        connection.execute("DROP TRIGGER messages_append")
        for table, columns, rows in tables:
            places = ", ".join("?" * len(columns.split(",")))
            connection.executemany(f"INSERT INTO {table} ({columns}) VALUES ({places})", rows)  # noqa: S608  # constants
        connection.execute(trigger)
        connection.execute("COMMIT")
        connection.execute("ANALYZE")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _fill_postgresql(url: URL, tables: Iterable[_Table]) -> None:
    with psycopg.connect(conninfo(url), autocommit=True) as connection:
        with connection.transaction(), connection.cursor() as cursor:
            cursor.execute("ALTER TABLE messages DISABLE TRIGGER messages_append")
            for table, columns, rows in tables:
                with cursor.copy(f"COPY {table} ({columns}) FROM STDIN".encode()) as copy:
                    for row in rows:
                        copy.write_row(row)
            cursor.execute("ALTER TABLE messages ENABLE TRIGGER messages_append")
        connection.execute("VACUUM ANALYZE")
        connection.execute("CHECKPOINT")


def _tables(numbers: range) -> Iterator[_Table]:
    columns = "key, agent_id, kind, status, label, task, run_id, created_ms, finished_ms, last_seq, last_activity_ms"
    yield "sessions", columns, map(_session, numbers)
    messages = itertools.chain.from_iterable(map(_messages, numbers))
    yield "messages", "session_key, seq, role, content, tool_name, timestamp_ms", messages
    labelled = (number for number in numbers if number % _LABELLED == 0)
    yield "labels", "label, session_key, assigned_ms", ((label(n), key(n), _created_ms(n)) for n in labelled)


def _session(number: int) -> tuple[Any, ...]:
    is_active = number % 4 == 0
    created_ms = _created_ms(number)
    last_activity_ms = created_ms + _STEP_MS
    return (
        key(number),
        _agent_id(number),
        "subagent",
        "active" if is_active else "completed",
        label(number) if number % _LABELLED == 0 else None,
        _TASK,
        _uuid(number),
        created_ms,
        None if is_active else last_activity_ms,
        _size(number),
        last_activity_ms,
    )


def _messages(number: int) -> Iterator[tuple[Any, ...]]:
    for seq, (role, content, tool_name) in enumerate(_TURN[: _size(number)], start=1):
        yield key(number), seq, role, content, tool_name, _created_ms(number) + seq


def _size(number: int) -> int:
    """Two or three messages per session."""
    return 2 + number % 2


def _agent_id(number: int) -> str:
    return f"agent-{number % AGENTS:03}"


def _created_ms(number: int) -> int:
    return _FIRST_MS + number * _STEP_MS


def _uuid(number: int) -> str:
    """A version 7 UUID with the session's time. Its other bits are scattered, as random ones are."""
    scattered = number * 0x9E3779B97F4A7C15 % 2**62
    return str(uuid.UUID(int=_created_ms(number) << 80 | 7 << 76 | 0b10 << 62 | scattered))

"""The floor: the same work by a plain driver, its parameters ready before the clock starts."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any, TypeAlias

import psycopg
from sqlalchemy import URL

from benchmarks.conversations import ChatMessage
from benchmarks.databases import BACKENDS, Durability, conninfo, durability
from benchmarks.managers import durability_of, full_session, inhabited, new_message, opened
from benchmarks.rounds import Subject, interleaved, speed
from benchmarks.sections import READ_LIMIT, RETAINED, Bench, Results
from benchmarks.statements import Statements
from sessions_db import SessionManager

Operation: TypeAlias = Callable[[int], object]

OURS, RAW, RAW_ONE_STATEMENT, RAW_PARSED = "sessions_db", "raw", "raw, one statement", "raw, metadata parsed"

APPEND_ROUNDS = 15
READ_ROUNDS = 11
BATCH_ROUNDS = 11
BATCH = 20

# Reading the clock is not what is measured.
AT_MS = time.time_ns() // 1_000_000


def run(bench: Bench) -> Results:
    """Appends and reads against the drivers, a batch against single appends, on both databases."""
    newest = bench.messages[-READ_LIMIT:]
    results = Results(notes={"with_metadata": sum(message.metadata is not None for message in newest)})
    for synchronous in ("FULL", "NORMAL"):
        _sqlite(bench, results, synchronous)
    _postgresql(bench, results)
    for backend in BACKENDS:
        _batch(bench, results, backend)
    return results


def _sqlite(bench: Bench, results: Results, synchronous: str) -> None:
    urls = [inhabited(bench, "sqlite") for _ in range(3)]
    keys = []
    for url in urls:
        with opened(url) as manager:
            keys.append(full_session(manager, bench.messages))
    statements = Statements(bench.databases.create("sqlite"))
    with (
        opened(urls[0], synchronous=synchronous) as manager,
        closing(sqlite_connection(urls[1], synchronous)) as raw,
        closing(sqlite_connection(urls[2], synchronous)) as raw_triggers,
    ):
        _drop_triggers(raw)
        subjects = [
            Subject(OURS, append(manager, keys[0], bench.messages)),
            Subject(RAW, _raw_three_statements(raw, statements, keys[1], bench.messages)),
            Subject(RAW_ONE_STATEMENT, raw_append(raw_triggers, statements, keys[2], bench.messages)),
        ]
        times = interleaved(subjects, bench.plan(APPEND_ROUNDS), bench.runner)
        where = f"sqlite.{synchronous}"
        results.figures[f"{where}.append"] = speed(times, OURS, RAW)
        results.figures[f"{where}.append.one_statement"] = speed(times, OURS, RAW_ONE_STATEMENT)
        results.durability[f"SQLite, {synchronous}: sessions_db"] = durability_of(manager)
        for name, connection in (("three statements", raw), ("one statement", raw_triggers)):
            results.durability[f"SQLite, {synchronous}: sqlite3, {name}"] = driver_durability(connection, "sqlite")
        if synchronous == "FULL":
            _reads(bench, results, "sqlite", manager, raw, statements, keys)


def _postgresql(bench: Bench, results: Results) -> None:
    url = inhabited(bench, "postgresql")
    with opened(url) as manager, postgresql_connection(url) as raw:
        statements = Statements(url)
        keys = [full_session(manager, bench.messages) for _ in range(2)]
        subjects = [
            Subject(OURS, append(manager, keys[0], bench.messages)),
            Subject(RAW, raw_append(raw, statements, keys[1], bench.messages)),
        ]
        times = interleaved(subjects, bench.plan(APPEND_ROUNDS), bench.runner)
        results.figures["postgresql.append"] = speed(times, OURS, RAW)
        _reads(bench, results, "postgresql", manager, raw, statements, keys)
        results.durability["Postgres: sessions_db"] = durability_of(manager)
        results.durability["Postgres: psycopg"] = driver_durability(raw, "postgresql")


def _reads(
    bench: Bench,
    results: Results,
    backend: str,
    manager: SessionManager,
    raw: Any,
    statements: Statements,
    keys: Sequence[str],
) -> None:
    subjects = [
        Subject(OURS, _read(manager, keys[0])),
        Subject(RAW, raw_read(raw, statements, keys[1])),
        Subject(RAW_PARSED, _parsed(raw, statements, keys[1])),
    ]
    times = interleaved(subjects, bench.plan(READ_ROUNDS), bench.runner)
    results.figures[f"{backend}.read"] = speed(times, OURS, RAW)
    results.figures[f"{backend}.read.parsed"] = speed(times, OURS, RAW_PARSED)


def _batch(bench: Bench, results: Results, backend: str) -> None:
    with opened(inhabited(bench, backend)) as manager:
        keys = [full_session(manager, bench.messages) for _ in range(2)]
        batches = [
            [new_message(message) for message in bench.messages[first : first + BATCH]]
            for first in range(0, len(bench.messages), BATCH)
        ]

        def together(number: int) -> None:
            if number % BATCH == 0:
                manager.add_messages(keys[0], batches[number // BATCH])

        subjects = [Subject("together", together), Subject("one by one", append(manager, keys[1], bench.messages))]
        times = interleaved(subjects, bench.plan(BATCH_ROUNDS), bench.runner)
        results.figures[f"{backend}.batch"] = speed(times, "together", "one by one")


def append(manager: SessionManager, key: str, messages: Sequence[ChatMessage]) -> Operation:
    """An append by the library."""
    ready = [(message.role, message.content, message.tool_name, message.metadata) for message in messages]

    def operation(number: int) -> object:
        role, content, tool_name, metadata = ready[number]
        return manager.add_message(key, role, content, tool_name=tool_name, metadata=metadata)

    return operation


def _read(manager: SessionManager, key: str) -> Operation:
    return lambda _number: manager.history(key, READ_LIMIT, include_tools=True)


def raw_append(raw: Any, statements: Statements, key: str, messages: Sequence[ChatMessage]) -> Operation:
    """An append by the library's statement."""
    sql = statements.append_sql
    ready = [statements.append_parameters(key, message, AT_MS) for message in messages]
    return lambda number: raw.execute(sql, ready[number]).fetchall()


def _raw_three_statements(raw: Any, statements: Statements, key: str, messages: Sequence[ChatMessage]) -> Operation:
    sql = statements.append_sql
    ready = [statements.append_parameters(key, message, AT_MS) for message in messages]

    def operation(number: int) -> None:
        raw.execute("BEGIN IMMEDIATE")
        ((seq,),) = raw.execute(sql, ready[number]).fetchall()
        raw.execute(
            "UPDATE sessions SET last_seq = ?, last_activity_ms = max(last_activity_ms, ?) WHERE key = ?",
            (seq, AT_MS, key),
        )
        raw.execute("DELETE FROM messages WHERE session_key = ? AND seq <= ?", (key, seq - RETAINED))
        raw.execute("COMMIT")

    return operation


def raw_read(raw: Any, statements: Statements, key: str) -> Callable[[int], list[Any]]:
    """A read by the library's statement."""
    sql, parameters = statements.read_sql, statements.read_parameters(key)
    return lambda _number: raw.execute(sql, parameters).fetchall()


def _parsed(raw: Any, statements: Statements, key: str) -> Operation:
    """The read, and the JSON of each row's metadata, where the driver has not read it."""
    sql, parameters = statements.read_sql, statements.read_parameters(key)
    metadata = [name for name, *_ in raw.execute(sql, parameters).description].index("metadata")

    def operation(_number: int) -> list[Any]:
        rows = raw.execute(sql, parameters).fetchall()
        return [json.loads(row[metadata]) if isinstance(row[metadata], str) else row[metadata] for row in rows]

    return operation


def sqlite_connection(url: URL, synchronous: str) -> sqlite3.Connection:
    """A connection in autocommit mode with the library's settings."""
    connection = sqlite3.connect(str(url.database), isolation_level=None)
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA synchronous = {synchronous}")
    return connection


def postgresql_connection(url: URL) -> psycopg.Connection[Any]:
    """A connection in autocommit mode that prepares a statement when it first executes it, not the sixth time."""
    connection = psycopg.connect(conninfo(url), autocommit=True)
    connection.prepare_threshold = 0
    return connection


def _drop_triggers(connection: sqlite3.Connection) -> None:
    for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetchall():
        connection.execute(f"DROP TRIGGER {name}")


def driver_durability(connection: Any, backend: str) -> Durability:
    """What a driver's connection has in force."""
    return durability(backend, lambda query: connection.execute(query).fetchone()[0])

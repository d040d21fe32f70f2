"""The floor: the same work done by a plain driver, and where the rest of an append's time goes."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from typing import Any

from sqlalchemy import URL

from benchmarks import driver
from benchmarks.conversations import ChatMessage
from benchmarks.databases import BACKENDS, TITLES, driver_durability
from benchmarks.driver import Statements
from benchmarks.managers import append, durability_of, full_session, inhabited, new_message, read
from benchmarks.names import OURS, ROW, ROW_ON_DISK, STATEMENT, THREE_STATEMENTS
from benchmarks.rounds import Operation, cost, interleaved
from benchmarks.sections import READ_LIMIT, RETAINED, Bench, Results
from sessions_db import SessionManager

APPEND_ROUNDS = 15
ROUNDS = 11
BATCH = 20

# Constant: reading the clock is not what is measured.
_AT_MS = time.time_ns() // 1_000_000

_BARE = {
    "sqlite": "CREATE TABLE bare (session_key TEXT, seq INTEGER, role TEXT, content TEXT, tool_name TEXT,"
    " metadata TEXT, timestamp_ms INTEGER, PRIMARY KEY (session_key, seq)) STRICT, WITHOUT ROWID",
    "postgresql": "CREATE TABLE bare (session_key text, seq bigint, role text, content text, tool_name text,"
    " metadata json, timestamp_ms bigint, PRIMARY KEY (session_key, seq))",
}
_INSERT = {
    "sqlite": "INSERT INTO bare VALUES (?, ?, ?, ?, ?, ?, ?)",
    "postgresql": "INSERT INTO bare VALUES (%s, %s, %s, %s, %s, %s::json, %s)",
}


def run(bench: Bench) -> Results:
    """Appends and reads against the driver, and a batch against single appends, on both databases."""
    newest = bench.messages[-READ_LIMIT:]
    results = Results(notes={"with_metadata": sum(message.metadata is not None for message in newest)})
    _appends(bench, results, "sqlite", "FULL")
    _appends(bench, results, "sqlite", "NORMAL")
    _appends(bench, results, "postgresql", "FULL")
    for backend in BACKENDS:
        _reads(bench, results, backend)
        _batch(bench, results, backend)
    return results


def _appends(bench: Bench, results: Results, backend: str, synchronous: str) -> None:
    messages = bench.messages
    with ExitStack() as stack:

        def connect(url: URL, synchronous: str = synchronous) -> Any:
            return stack.enter_context(closing(driver.connect(url, synchronous)))

        url, key = _full(bench, backend)
        manager = stack.enter_context(SessionManager(url, synchronous=synchronous))
        subjects = {OURS: append(manager, key, messages)}
        connections = {}
        url, key = _full(bench, backend)
        statements = Statements(url)
        connections[STATEMENT] = connect(url)
        subjects[STATEMENT] = driver.append(connections[STATEMENT], statements, key, messages)
        if backend == "sqlite":
            url, key = _full(bench, backend)
            connections[THREE_STATEMENTS] = connect(url)
            subjects[THREE_STATEMENTS] = _three_statements(connections[THREE_STATEMENTS], statements, key, messages)
        if synchronous == "FULL":
            for name, when in ((ROW_ON_DISK, "FULL"), (ROW, "NORMAL")):
                connections[name] = connect(bench.databases.create(backend), when)
                subjects[name] = _row(connections[name], backend, messages)

        times = interleaved(subjects, bench.plan(APPEND_ROUNDS), bench.runner)
        title = TITLES[backend] if synchronous == "FULL" else f"{TITLES[backend]}, {synchronous}"
        results.durability[f"{title}: {OURS}"] = durability_of(manager)
        for name, connection in connections.items():
            results.figures[f"{backend}.{synchronous}.append.{name}"] = cost(times, name, against=OURS)
            results.durability[f"{title}: {name}"] = driver_durability(connection)


def _reads(bench: Bench, results: Results, backend: str) -> None:
    url, key = _full(bench, backend)
    statements = Statements(url)
    with SessionManager(url) as manager, closing(driver.connect(url)) as connection:
        subjects = {
            OURS: read(manager, key),
            "rows": driver.read(connection, statements, key),
            "parsed": _parsed(connection, statements, key),
        }
        times = interleaved(subjects, bench.plan(ROUNDS), bench.runner)
    for name in ("rows", "parsed"):
        results.figures[f"{backend}.read.{name}"] = cost(times, name, against=OURS)


def _batch(bench: Bench, results: Results, backend: str) -> None:
    with SessionManager(inhabited(bench, backend)) as manager:
        keys = [full_session(manager, bench.messages) for _ in range(2)]
        ready = [new_message(message) for message in bench.messages]
        batches = [ready[start : start + BATCH] for start in range(0, len(ready), BATCH)]

        def together(number: int) -> None:
            if number % BATCH == 0:
                manager.add_messages(keys[0], batches[number // BATCH])

        subjects = {"together": together, "one by one": append(manager, keys[1], bench.messages)}
        times = interleaved(subjects, bench.plan(ROUNDS), bench.runner)
    results.figures[f"{backend}.batch"] = cost(times, "one by one", against="together")


def _full(bench: Bench, backend: str) -> tuple[URL, str]:
    """An inhabited database, and the key of a full session in it."""
    url = inhabited(bench, backend)
    with SessionManager(url) as manager:
        return url, full_session(manager, bench.messages)


def _three_statements(connection: Any, statements: Statements, key: str, messages: Sequence[ChatMessage]) -> Operation:
    """Appends, counts and trims by hand, in a database without triggers. SQLite only."""
    for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetchall():
        connection.execute(f"DROP TRIGGER {name}")
    insert = statements.append_sql
    ready = [statements.append_parameters(key, message) for message in messages]

    def operation(number: int) -> None:
        connection.execute("BEGIN IMMEDIATE")
        ((seq,),) = connection.execute(insert, ready[number]).fetchall()
        connection.execute(
            "UPDATE sessions SET last_seq = ?, last_activity_ms = max(last_activity_ms, ?) WHERE key = ?",
            (seq, _AT_MS, key),
        )
        connection.execute("DELETE FROM messages WHERE session_key = ? AND seq <= ?", (key, seq - RETAINED))
        connection.execute("COMMIT")

    return operation


def _row(connection: Any, backend: str, messages: Sequence[ChatMessage]) -> Operation:
    """Inserts the row into a table that has a primary key and nothing else."""
    connection.execute(_BARE[backend])
    insert = _INSERT[backend]
    numbers = itertools.count(1)
    ready = [(message.role, message.content, message.tool_name, message.metadata_json, _AT_MS) for message in messages]
    return lambda number: connection.execute(insert, ("the key", next(numbers), *ready[number]))


def _parsed(connection: Any, statements: Statements, key: str) -> Operation:
    """Reads, and parses each row's metadata where the driver leaves it as text."""
    sql, parameters = statements.read_sql, statements.read_parameters(key)
    metadata = [name for name, *_ in connection.execute(sql, parameters).description].index("metadata")

    def operation(_number: int) -> list[Any]:
        rows = connection.execute(sql, parameters).fetchall()
        return [json.loads(row[metadata]) if isinstance(row[metadata], str) else row[metadata] for row in rows]

    return operation

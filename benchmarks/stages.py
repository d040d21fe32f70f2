"""Where the time of an append goes: the same message, with ever more of what the library does with it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import closing
from typing import Any, Final

from sqlalchemy import URL

from benchmarks import floor
from benchmarks.conversations import ChatMessage
from benchmarks.databases import BACKENDS, TITLES
from benchmarks.managers import durability_of, full_session, inhabited, opened
from benchmarks.peers.names import OURS
from benchmarks.rounds import Subject, cost, interleaved
from benchmarks.sections import Bench, Results
from benchmarks.statements import Statements

ROW: Final = "row"
ROW_ON_DISK: Final = "row on the disk"
STATEMENT: Final = "statement"
STAGES: Final = (ROW, ROW_ON_DISK, STATEMENT, OURS)

ROUNDS = 15

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
    """The stages of an append on both databases."""
    results = Results()
    for backend in BACKENDS:
        _measure(bench, results, backend)
    return results


def _measure(bench: Bench, results: Results, backend: str) -> None:
    urls = [inhabited(bench, backend) for _ in range(3)]
    with (
        opened(urls[0]) as manager,
        closing(_connection(urls[1], on_disk=True)) as on_disk,
        closing(_connection(urls[2], on_disk=False)) as cached,
    ):
        keys = [full_session(manager, bench.messages)]
        with opened(urls[1]) as other:
            keys.append(full_session(other, bench.messages))
        statements = Statements(urls[2])
        for connection in (on_disk, cached):
            connection.execute(_BARE[backend])
        subjects = [
            Subject(ROW, _insert(cached, backend, bench.messages)),
            Subject(ROW_ON_DISK, _insert(on_disk, backend, bench.messages)),
            Subject(STATEMENT, floor.raw_append(on_disk, statements, keys[1], bench.messages)),
            Subject(OURS, floor.append(manager, keys[0], bench.messages)),
        ]
        times = interleaved(subjects, bench.plan(ROUNDS), bench.runner)
        for stage in STAGES:
            results.figures[f"{backend}.{stage}"] = cost(times, stage, against=OURS)
        results.durability[f"{TITLES[backend]}: {OURS}"] = durability_of(manager)
        for stages, connection in ((f"{ROW_ON_DISK}, {STATEMENT}", on_disk), (ROW, cached)):
            results.durability[f"{TITLES[backend]}: {stages}"] = floor.driver_durability(connection, backend)


def _connection(url: URL, *, on_disk: bool) -> Any:
    """A connection with the library's settings, whose commits are on the disk at once or soon."""
    if url.get_backend_name() == "sqlite":
        return floor.sqlite_connection(url, "FULL" if on_disk else "NORMAL")
    connection = floor.postgresql_connection(url)
    if not on_disk:
        connection.execute("SET synchronous_commit = off")
    return connection


def _insert(connection: Any, backend: str, messages: Sequence[ChatMessage]) -> floor.Operation:
    """The row in a table that has a primary key and nothing else."""
    sql = _INSERT[backend]
    numbers = itertools.count(1)
    ready = [
        (message.role, message.content, message.tool_name, message.metadata_json, floor.AT_MS) for message in messages
    ]
    return lambda number: connection.execute(sql, ("the key", next(numbers), *ready[number]))

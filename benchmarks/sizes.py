"""`python -m benchmarks.sizes [FILE]`: how many bytes each kind of row takes, for the arithmetic in docs/operations.md.

Everything is written through the library, a message at a time; only the digests, of which the length is known, are
filled in. Sizes are the databases' own account of their pages, indexes and free space within them included, divided by
the rows there are. FILE has conversations as `python -m benchmarks --conversations` takes them.
"""

from __future__ import annotations

import json
import sqlite3
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import cycle, islice
from pathlib import Path

import psycopg
from sqlalchemy import URL

from benchmarks.conversations import ChatMessage, load
from benchmarks.databases import BACKENDS, TITLES, Databases, conninfo
from sessions_db import SessionManager

_TABLES = ("sessions", "messages", "archived_messages", "labels", "session_events", "event_digests")

_STORED = 2_862
_SESSIONS = 2_000
_MESSAGES_EACH = 29
_LONG_SESSIONS = 20
_LONG = 1_000
_LOGGED = 100


def main() -> None:
    """Print the figures of both databases."""
    stored = load(Path(sys.argv[1]) if len(sys.argv) > 1 else None, _STORED)
    print(f"{len(stored)} messages, {_text(stored) / len(stored):.0f} bytes of text, tool name and metadata each")
    with Databases() as databases:
        for backend in BACKENDS:
            _short_sessions(databases.create(backend), stored)
            for archive in (False, True):
                _long_sessions(databases.create(backend), stored, archive=archive)


def _short_sessions(url: URL, stored: Sequence[ChatMessage]) -> None:
    messages = cycle(stored)
    written: list[ChatMessage] = []
    keys: list[str] = []
    print(f"{TITLES[url.get_backend_name()]}, {_SESSIONS} sessions of {_MESSAGES_EACH + 1} messages")
    with _opened(url) as (manager, logged):
        parent = manager.get_or_create_main("assistant").key

        def start(label: str) -> str:
            return manager.spawn_subagent("assistant", "Find three sources for it", label=label, parent_key=parent)

        def append(key: str) -> None:
            written.append(next(messages))
            _add(manager, key, written[-1])

        for number in range(_SESSIONS):
            keys.append(start(f"label-{number}"))
            for _ in range(_MESSAGES_EACH):
                append(keys[-1])
            manager.complete_session(keys[-1], "three sources found")
        before = logged()
        for key in keys:
            append(key)
        print(f"  write-ahead log: {(logged() - before) / len(keys):.0f} bytes an append")
        before = logged()
        for number in range(_LOGGED):
            manager.complete_session(start(f"logged-{number}"), "three sources found")
        print(f"  write-ahead log: {(logged() - before) / _LOGGED:.0f} bytes for a start with a label and an end")
        sizes = _sizes(url)
    _print(sizes, written)


def _long_sessions(url: URL, stored: Sequence[ChatMessage], *, archive: bool) -> None:
    messages = cycle(stored)
    written: list[ChatMessage] = []
    print(f"{TITLES[url.get_backend_name()]}, {_LONG_SESSIONS} sessions of {_LONG} messages, archived: {archive}")
    with _opened(url) as (manager, logged):
        keys = [manager.spawn_subagent("assistant", "Look", archive_trimmed=archive) for _ in range(_LONG_SESSIONS)]
        before = 0
        for number in range(_LONG):
            if number == _LONG - _LOGGED:
                before = logged()
            for key, message in zip(keys, islice(messages, len(keys)), strict=True):
                _add(manager, key, message)
                written.append(message)
        print(f"  write-ahead log: {(logged() - before) / (_LOGGED * len(keys)):.0f} bytes an append")
        sizes = _sizes(url)
    _print({table: size for table, size in sizes.items() if "messages" in table}, written)


def _add(manager: SessionManager, key: str, message: ChatMessage) -> None:
    manager.add_message(key, message.role, message.content, tool_name=message.tool_name, metadata=message.metadata)


def _text(messages: Sequence[ChatMessage]) -> int:
    """Bytes that the writer gave."""
    parts = []
    for message in messages:
        parts += [message.content, message.tool_name or ""]
        parts += [] if message.metadata is None else [json.dumps(message.metadata, ensure_ascii=False)]
    return sum(len(part.encode()) for part in parts)


def _print(sizes: dict[str, tuple[int, int]], written: Sequence[ChatMessage]) -> None:
    average = _text(written) / len(written)
    for table, (rows, size) in sizes.items():
        if rows:
            more = f", {size / rows - average:.0f} more than the text" if "messages" in table else ""
            print(f"  {table}: {rows} rows, {size / rows:.0f} bytes each{more}")


@contextmanager
def _opened(url: URL) -> Iterator[tuple[SessionManager, Callable[[], int]]]:
    """A manager, and what tells how many bytes of the write-ahead log have been written."""
    if url.get_backend_name() == "sqlite":
        with SessionManager(url, pool_size=1, synchronous="NORMAL") as manager:
            with manager.transaction() as tx:
                tx.connection.exec_driver_sql("PRAGMA wal_autocheckpoint = 0")
            yield manager, lambda: Path(f"{url.database}-wal").stat().st_size
    else:
        with psycopg.connect(conninfo(url), autocommit=True) as connection, SessionManager(url) as manager:
            yield manager, lambda: _first(connection.execute("SELECT pg_current_wal_insert_lsn() - '0/0'").fetchone())


def _sizes(url: URL) -> dict[str, tuple[int, int]]:
    """Rows and bytes of each table, its indexes included."""
    counts = {table: f"SELECT count(*) FROM {table}" for table in _TABLES}  # noqa: S608  # names from above
    digests = "INSERT INTO event_digests SELECT id, at_ms, '{}' FROM session_events".format("0" * 64)  # noqa: S608
    if url.get_backend_name() == "sqlite":
        pages = "SELECT sum(pgsize) FROM dbstat WHERE name IN (SELECT name FROM sqlite_master WHERE tbl_name = '{}')"
        with closing(sqlite3.connect(str(url.database), isolation_level=None)) as client:
            client.execute(digests)
            return {
                table: (
                    _first(client.execute(counts[table]).fetchone()),
                    _first(client.execute(pages.format(table)).fetchone()),
                )
                for table in _TABLES
            }
    with psycopg.connect(conninfo(url), autocommit=True) as connection:
        connection.execute(digests)
        return {
            table: (
                _first(connection.execute(counts[table]).fetchone()),
                _first(connection.execute(f"SELECT pg_total_relation_size('{table}')").fetchone()),
            )
            for table in _TABLES
        }


def _first(row: Sequence[object] | None) -> int:
    assert row is not None
    return int(str(row[0]))


if __name__ == "__main__":
    main()

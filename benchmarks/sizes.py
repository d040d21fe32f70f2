"""`python -m benchmarks.sizes [FILE]`: how many bytes a row of each kind takes, for docs/operations.md.

Everything is written through the library, one message at a time, except the digests, whose length is known. Sizes are
what the databases report for a table and its indexes, free space within pages included, divided by the rows. FILE holds
conversations, as for `python -m benchmarks --conversations`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import cycle, islice
from pathlib import Path

from sqlalchemy import URL

from benchmarks import driver
from benchmarks.conversations import ChatMessage, load
from benchmarks.databases import BACKENDS, TITLES, Databases
from sessions_db import SessionManager

_TABLES = ("sessions", "messages", "archived_messages", "labels", "session_events", "event_digests")

_BYTES = {
    "sqlite": "SELECT sum(pgsize) FROM dbstat WHERE name IN (SELECT name FROM sqlite_master WHERE tbl_name = '{}')",
    "postgresql": "SELECT pg_total_relation_size('{}')",
}

_STORED = 2_862
_LOGGED_APPENDS = 2_000
_LOGGED_SESSIONS = 100


def main() -> None:
    """Print the figures of both databases."""
    stored = load(Path(sys.argv[1]) if len(sys.argv) > 1 else None, _STORED)
    print(f"{len(stored)} messages, {_average(stored):.0f} bytes of text, tool name and metadata each")
    with Databases() as databases:
        for backend in BACKENDS:
            _measure(databases.create(backend), stored, sessions=2_000, messages=30)
            # These trim.
            for archive in (False, True):
                _measure(databases.create(backend), stored, sessions=20, messages=1_000, archive=archive)


def _measure(url: URL, stored: Sequence[ChatMessage], *, sessions: int, messages: int, archive: bool = False) -> None:
    """Fill a database with sessions that each have a label, a parent and an end, and print what its rows take."""
    print(f"{TITLES[url.get_backend_name()]}, {sessions} sessions of {messages} messages, archived: {archive}")
    source = cycle(stored)
    written: list[ChatMessage] = []
    with _opened(url) as (manager, logged):
        parent = manager.get_or_create_main("assistant").key

        def start(label: str) -> str:
            return manager.spawn_subagent(
                "assistant", "Find three sources for it", label=label, parent_key=parent, archive_trimmed=archive
            )

        def append(key: str) -> None:
            new = next(source)
            manager.add_message(key, new.role, new.content, tool_name=new.tool_name, metadata=new.metadata)
            written.append(new)

        keys = []
        for number in range(sessions):
            keys.append(start(f"label-{number}"))
            for _ in range(messages - _LOGGED_APPENDS // sessions):
                append(keys[-1])
            manager.complete_session(keys[-1], "three sources found")
        before = logged()
        for key in islice(cycle(keys), _LOGGED_APPENDS):
            append(key)
        print(f"  write-ahead log: {(logged() - before) / _LOGGED_APPENDS:.0f} bytes per append")
        before = logged()
        for number in range(_LOGGED_SESSIONS):
            manager.complete_session(start(f"logged-{number}"), "three sources found")
        print(f"  write-ahead log: {(logged() - before) / _LOGGED_SESSIONS:.0f} bytes per start with a label and end")
        _print_sizes(url, written)


def _average(messages: Sequence[ChatMessage]) -> float:
    """Bytes that the writer gave for a message."""
    parts = [part for new in messages for part in (new.content, new.tool_name, new.metadata_json) if part]
    return sum(len(part.encode()) for part in parts) / len(messages)


@contextmanager
def _opened(url: URL) -> Iterator[tuple[SessionManager, Callable[[], int]]]:
    """A manager, and a function that returns how many bytes of write-ahead log have been written."""
    if url.get_backend_name() == "sqlite":
        # One connection, which never empties the log.
        with SessionManager(url, pool_size=1, synchronous="NORMAL") as manager:
            with manager.transaction() as tx:
                tx.connection.exec_driver_sql("PRAGMA wal_autocheckpoint = 0")
            yield manager, lambda: Path(f"{url.database}-wal").stat().st_size
    else:
        with closing(driver.connect(url)) as connection, SessionManager(url) as manager:
            position = "SELECT pg_current_wal_insert_lsn() - '0/0'"
            yield manager, lambda: int(connection.execute(position).fetchone()[0])


def _print_sizes(url: URL, written: Sequence[ChatMessage]) -> None:
    digests = "INSERT INTO event_digests SELECT id, at_ms, '{}' FROM session_events".format("0" * 64)  # noqa: S608
    with closing(driver.connect(url)) as connection:
        connection.execute(digests)
        for table in _TABLES:
            (rows,) = connection.execute(f"SELECT count(*) FROM {table}").fetchone()  # noqa: S608  # constants
            (size,) = connection.execute(_BYTES[url.get_backend_name()].format(table)).fetchone()
            if rows:
                more = f", {size / rows - _average(written):.0f} more than the text" if "messages" in table else ""
                print(f"  {table}: {rows} rows, {size / rows:.0f} bytes each{more}")


if __name__ == "__main__":
    main()

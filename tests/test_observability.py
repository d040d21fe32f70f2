"""What operators see: the log, traces, the state of the pool, and the repr of values."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from opentelemetry.instrumentation.sqlalchemy import SQLAlchemyInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from sessions_db import AsyncSessionManager, NewMessage, PoolStatus, ReadOnly, SessionManager
from tests.support.client import PlainClient
from tests.support.servers import wait_until

SECRET = "what the user said"  # not a password


@pytest.fixture
def messages(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What the library has logged so far."""
    caplog.set_level(logging.DEBUG, "sessions_db")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "sessions_db"]


# The log


def test_logger_is_quiet_by_default() -> None:
    handlers = logging.getLogger("sessions_db").handlers

    assert [type(handler) for handler in handlers] == [logging.NullHandler]


def test_migration_is_logged(empty_url: str, messages: Callable[[], list[str]]) -> None:
    SessionManager(empty_url).close()

    assert messages() == [f"Migrated the database from revision None to {head(empty_url)}"]


def head(url: str) -> str | None:
    with SessionManager(url) as manager:
        return manager.revision


def test_sweeps_are_logged(manager: SessionManager, messages: Callable[[], list[str]]) -> None:
    manager.complete_session(manager.spawn_subagent("main", SECRET))
    time.sleep(0.002)  # what ended in this millisecond is not deleted
    manager.prune(before=datetime.now(UTC))
    manager.timeout_idle(timedelta(days=1))

    assert messages() == ["Sweep: 1 sessions deleted", "Sweep: 0 sessions timed out"]


def test_retry_that_succeeded_is_logged_with_its_reason(
    manager: SessionManager, plain: PlainClient, messages: Callable[[], list[str]]
) -> None:
    key = manager.get_or_create_main("main").key
    locking = plain.backend == "sqlite"
    if locking:
        plain("BEGIN IMMEDIATE")
    else:
        # Each statement of the role fails at once while another transaction holds the row.
        plain("BEGIN")
        plain("SELECT * FROM sessions FOR UPDATE")
    options = {} if locking else {"options": "-c lock_timeout=50"}
    url = manager._engine.url.update_query_dict(options)
    with SessionManager(url) as waiting:
        sender = threading.Thread(target=waiting.send_message, args=(key, SECRET))
        sender.start()
        time.sleep(0.3)  # longer than either database waits before it gives up
        plain("COMMIT")
        sender.join()

    (message,) = messages()
    assert message.startswith("Succeeded after ")
    assert ("database is locked" if locking else "canceling statement due to lock timeout") in message
    assert SECRET not in message


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_broken_connection_is_logged_without_secrets(
    manager: SessionManager, plain: PlainClient, messages: Callable[[], list[str]]
) -> None:
    manager.get_or_create_main("main")
    plain("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
          " AND pid <> pg_backend_pid()")  # fmt: skip

    assert manager.get("agent:main:main") is not None
    assert any(message.startswith("A connection broke and is replaced") for message in messages())


# Traces


@pytest.fixture
def spans() -> Iterator[Callable[[], list[str]]]:
    """The statements that OpenTelemetry has seen since the last call."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    instrumentor = SQLAlchemyInstrumentor()

    def seen() -> list[str]:
        attributes = [span.attributes or {} for span in exporter.get_finished_spans()]
        statements = [str(each["db.statement"]) for each in attributes if "db.statement" in each]
        exporter.clear()
        return statements

    # Version 0.66b1 supports SQLAlchemy only up to 2.0.
    instrumentor.instrument(tracer_provider=provider, skip_dep_check=True)
    yield seen
    instrumentor.uninstrument()


@pytest.mark.parametrize("own", [True, False], ids=["manager's engine", "caller's engine"])
def test_statements_are_traced_without_their_values(url: str, spans: Callable[[], list[str]], own: bool) -> None:
    engine = sa.create_engine(sa.make_url(url).set(drivername=DRIVERS[sa.make_url(url).get_backend_name()]))
    with SessionManager(url if own else engine) as manager:
        key = manager.get_or_create_main("main").key
        spans()
        manager.send_message(key, SECRET)
        manager.history(key)
    engine.dispose()

    statements = spans()
    assert [statement.split()[0] for statement in statements] == ["INSERT", "SELECT"]
    assert SECRET not in "".join(statements)


DRIVERS = {"sqlite": "sqlite+pysqlite", "postgresql": "postgresql+psycopg"}


# The pool


def test_pool_status_counts_what_is_used_and_who_waits(url: str) -> None:
    with SessionManager(url, pool_size=1) as manager:
        manager.get_or_create_main("main")
        assert manager.pool_status() == PoolStatus(size=1, in_use=0, idle=1, waiting=0)

        with manager.transaction():
            waiting = threading.Thread(target=manager.get_or_create_main, args=("other",))
            waiting.start()
            wait_until(lambda: manager.pool_status().waiting == 1)
            assert manager.pool_status() == PoolStatus(size=1, in_use=1, idle=0, waiting=1)
        waiting.join()

        assert manager.pool_status().in_use == 0
        assert manager.pool_status().waiting == 0


# What is printed


def test_manager_prints_its_database_without_the_password(url: str) -> None:
    with SessionManager(url, message_cap=7) as manager:
        shown = repr(manager)
        assert "message_cap 7" in shown
        assert str(manager.revision) in shown
        password = sa.make_url(url).password
        assert not password or password not in shown
    assert repr(manager).endswith(", closed>")


def test_session_prints_without_its_messages(manager: SessionManager) -> None:
    key = manager.get_or_create_main("main").key
    manager.add_messages(key, [NewMessage("user", SECRET)] * 100)

    shown = repr(manager.get(key))

    assert SECRET not in shown
    assert "message_count=100" in shown


def test_manager_that_was_never_closed_is_collected_with_a_warning(url: str) -> None:
    manager = SessionManager(url)
    manager.get_or_create_main("main")
    with pytest.warns(ResourceWarning, match="unclosed <SessionManager"):
        del manager


async def open_and_forget(url: str) -> weakref.ref[AsyncSessionManager]:
    manager = AsyncSessionManager(url)
    await manager.get_or_create_main("main")
    return weakref.ref(manager)


def test_async_manager_that_was_never_closed_is_collected_with_a_warning(url: str) -> None:
    with pytest.warns(ResourceWarning, match="unclosed <AsyncSessionManager"):  # noqa: PT031
        manager = asyncio.run(open_and_forget(url))
        # Its thread may be the last to drop it. From then on, the recorded warning keeps it alive.
        wait_until(lambda: (found := manager()) is None or found.closed)


# Snapshots and times


def test_snapshot_sees_one_moment_and_blocks_no_writer(manager: SessionManager) -> None:
    key = manager.get_or_create_main("main").key
    with manager.snapshot() as tx:
        assert tx.count() == 1
        manager.spawn_subagent("main", "Meanwhile", parent_key=key)
        assert tx.count() == 1

    assert manager.count() == 2


def test_snapshot_refuses_to_write(manager: SessionManager, plain: PlainClient) -> None:
    key = manager.get_or_create_main("main").key
    with manager.snapshot() as tx, pytest.raises(ReadOnly):
        tx.send_message(key, "Hello")

    with pytest.raises(sa.exc.DBAPIError), manager.snapshot() as tx:
        tx.connection.exec_driver_sql("DELETE FROM sessions")

    assert plain("SELECT count(*) FROM sessions") == [(1,)]
    manager.send_message(key, "The manager still writes.")


def test_values_offer_aware_datetimes(manager: SessionManager) -> None:
    key = manager.spawn_subagent("main", "Test", message_cap=1, archive_trimmed=True)
    manager.add_messages(key, [NewMessage("user", "one"), NewMessage("user", "two")])
    manager.complete_session(key)
    session = manager.get(key)
    archived, _ = manager.history(key, archived=True) or []
    event = manager.events()[-1]
    seal = manager.seal_log()
    assert session is not None
    assert seal is not None

    pairs = [
        (session.created_at, session.created_ms),
        (session.finished_at, session.finished_ms),
        (session.last_activity_at, session.last_activity_ms),
        (session.messages[0].sent_at, session.messages[0].timestamp_ms),
        (archived.archived_at, archived.archived_ms),
        (event.at, event.at_ms),
        (seal.sealed_at, seal.sealed_ms),
    ]
    for at, at_ms in pairs:
        assert at is not None
        assert at.tzinfo is UTC
        assert at_ms is not None
        assert at == datetime.fromtimestamp(at_ms // 1000, UTC) + timedelta(milliseconds=at_ms % 1000)

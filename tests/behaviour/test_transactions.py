"""Groups of operations in one transaction, and the caller's own engines."""

from __future__ import annotations

import threading
import types
from pathlib import Path

import pytest
import sqlalchemy as sa

from sessions_db import (
    IdempotencyConflict,
    InvalidInput,
    LabelInUse,
    ManagerClosed,
    NewMessage,
    SessionManager,
    SessionNotFound,
    SessionsError,
)
from tests.support.client import PlainClient
from tests.support.clock import Clock, at
from tests.support.threads import run_together


def test_block_is_committed_as_a_whole(manager: SessionManager, plain: PlainClient) -> None:
    with manager.transaction() as tx:
        main = tx.get_or_create_main("main").key
        key = tx.spawn_subagent("main", "Test", "research", main)
        tx.send_message(key, "Hello")
        tx.complete_session(key)
        assert tx.history(key) is not None
        assert plain("SELECT count(*) FROM sessions") == [(0,)]

    assert plain("SELECT key, status FROM sessions ORDER BY key") == [(main, "active"), (key, "completed")]
    assert plain("SELECT content FROM messages") == [("Hello",)]


def test_block_that_raises_stores_nothing(manager: SessionManager) -> None:
    def fail() -> None:
        with manager.transaction() as tx:
            tx.spawn_subagent("main", "Test", "research")
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        fail()

    assert manager.list() == []
    assert manager.get_by_label("research") is None


def test_operation_that_raises_stores_nothing_and_the_block_continues(manager: SessionManager) -> None:
    owner = manager.spawn_subagent("main", "Test", "research")
    with manager.transaction() as tx:
        with pytest.raises(LabelInUse):
            tx.spawn_subagent("main", "Test", "research", on_label_conflict="error")
        with pytest.raises(SessionNotFound):
            tx.add_messages("agent:nobody:main", [NewMessage("user", "lost", idempotency_key="1")])
        with pytest.raises(InvalidInput):
            tx.send_message(owner, "\x00")
        kept = tx.spawn_subagent("main", "Test")

    assert {session.key for session in manager.list()} == {owner, kept}


def test_idempotent_append_works_in_a_block(manager: SessionManager) -> None:
    key = manager.spawn_subagent("main", "Test")
    with manager.transaction() as tx:
        first = tx.add_message(key, "user", "once", idempotency_key="1")
        assert tx.add_message(key, "user", "once", idempotency_key="1") == first
        assert tx.add_messages(key, [NewMessage("user", "once", idempotency_key="1")]) == [first]
        with pytest.raises(IdempotencyConflict):
            tx.add_messages(key, [NewMessage("user", "lost"), NewMessage("user", "again", idempotency_key="1")])
        tx.send_message(key, "twice")

    history = manager.history(key)
    assert history is not None
    assert [message.content for message in history] == ["once", "twice"]


def test_transaction_is_over_after_its_block(manager: SessionManager) -> None:
    with manager.transaction() as tx:
        pass

    with pytest.raises(SessionsError, match="This transaction is over"):
        tx.list()


def test_blocks_of_several_threads_do_not_mix(manager: SessionManager) -> None:
    key = manager.spawn_subagent("main", "Test", message_cap=1000)

    def append(writer: int) -> None:
        for _ in range(10):
            with manager.transaction() as tx:
                for number in range(5):
                    tx.add_message(key, "user", f"{writer}/{number}")

    run_together([threading.Thread(target=append, args=(writer,)) for writer in range(4)])

    history = manager.history(key)
    assert history is not None
    contents = [message.content for message in history]
    for start in range(0, 200, 5):
        writer = contents[start].split("/")[0]
        assert contents[start : start + 5] == [f"{writer}/{number}" for number in range(5)]


def test_error_of_the_callers_own_database_passes_unchanged(manager: SessionManager) -> None:
    own = sa.create_engine("sqlite://")
    with pytest.raises(sa.exc.OperationalError), manager.transaction(), own.connect() as connection:
        connection.execute(sa.text("SELECT * FROM missing"))
    own.dispose()


def test_prune_in_a_block_is_undone_with_it(manager: SessionManager, clock: Clock) -> None:
    key = manager.spawn_subagent("main", "Test")
    manager.complete_session(key)
    clock.now_ms += 1

    def fail() -> None:
        with manager.transaction() as tx:
            assert tx.prune(before=at(clock.now_ms)) == [key]
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        fail()

    assert manager.get(key) is not None


def test_options_that_a_block_sets_on_its_connection_end_with_it(url: str) -> None:
    with SessionManager(url, pool_size=1) as manager:
        with manager.transaction() as tx:
            key = tx.get_or_create_main("main").key
            tx.connection.execution_options(schema_translate_map={None: "elsewhere"})

        assert [session.key for session in manager.list()] == [key]


def test_statements_are_logged_as_soon_as_logging_is_turned_on(url: str, caplog: pytest.LogCaptureFixture) -> None:
    with SessionManager(url, pool_size=1) as manager:
        key = manager.get_or_create_main("main").key
        for level, logged in (("INFO", True), ("WARNING", False)):
            caplog.set_level(level, "sqlalchemy.engine")
            caplog.clear()
            manager.send_message(key, "Hello")

            assert any("INSERT INTO messages" in line for line in caplog.messages) is logged


# The caller's own engines


def own_engine(url: str) -> sa.Engine:
    # Behind PgBouncer, one that prepares statements is refused.
    options = {} if url.startswith("sqlite") else {"prepare_threshold": None}
    return sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://"), connect_args=options)


def test_callers_engine_is_used_and_left_open(url: str) -> None:
    engine = own_engine(url)
    with SessionManager(engine) as manager:
        key = manager.spawn_subagent("main", "Test", "research")
        manager.send_message(key, "Hello")
        with manager.transaction() as tx:
            tx.complete_session(key)

    with engine.connect() as connection:
        assert connection.execute(sa.text("SELECT status, last_seq FROM sessions")).all() == [("completed", 1)]
        # The caller's own transactions work as before: this one is not committed.
        connection.execute(sa.text("DELETE FROM sessions"))
    with engine.connect() as connection:
        assert connection.execute(sa.text("SELECT count(*) FROM sessions")).scalar() == 1
    engine.dispose()


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_delete_is_complete_even_if_the_callers_engine_has_foreign_keys_off(url: str) -> None:
    engine = own_engine(url)
    with SessionManager(engine) as manager:
        key = manager.spawn_subagent("main", "Test", "research")
        manager.send_message(key, "Hello")
        manager.delete_session(key)

    with engine.connect() as connection:
        assert connection.execute(sa.text("PRAGMA foreign_keys")).scalar() == 0
        assert connection.execute(sa.text("SELECT count(*) FROM messages")).scalar() == 0
        assert connection.execute(sa.text("SELECT count(*) FROM labels")).scalar() == 0
    engine.dispose()


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_engine_that_begins_transactions_by_itself_loses_no_write(url: str, plain: PlainClient) -> None:
    engine = own_engine(url)
    sa.event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    with SessionManager(engine) as manager:
        key = manager.spawn_subagent("main", "Test", "research")
        manager.send_message(key, "Hello")
        with manager.transaction() as tx:
            tx.send_message(key, "again")

    assert plain("SELECT content FROM messages ORDER BY seq") == [("Hello",), ("again",)]
    engine.dispose()


def test_anything_but_a_url_or_an_engine_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"must be a URL or a sqlalchemy\.Engine"):
        SessionManager(Path("sessions.db"))  # type: ignore[arg-type]


def test_engine_of_another_database_is_refused() -> None:
    engine = sa.create_engine("mysql+pymysql://", module=types.SimpleNamespace(paramstyle="format"))

    with pytest.raises(InvalidInput, match="must be a SQLite or Postgres URL"):
        SessionManager(engine)


@pytest.mark.parametrize("url", ["mysql://host/db", "postgresql+psycopg2://host/db", "sqlite+aiosqlite:///x.db", "x"])
def test_url_of_another_database_or_driver_is_refused(url: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        SessionManager(url)

    assert caught.value.argument == "database"


# Databases in memory


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:///file::memory:?uri=true",
        "sqlite:///file::memory:?cache=shared&uri=true",
        "sqlite:///file:?uri=true",
        "sqlite:///file:shared?mode=memory&cache=shared&uri=true",
    ],
)
def test_database_in_memory_is_shared_by_threads(url: str) -> None:
    with SessionManager(url) as manager:
        key = manager.get_or_create_main("main").key
        run_together([threading.Thread(target=manager.send_message, args=(key, "Hello")) for _ in range(8)])

        session = manager.get(key)

    assert session is not None
    assert [message.seq for message in session.messages] == list(range(1, 9))


# Closing


def test_closed_manager_says_so(url: str) -> None:
    manager = SessionManager(url)
    manager.close()
    manager.close()

    assert manager.closed
    with pytest.raises(ManagerClosed, match="This manager is closed"):
        manager.list()
    with pytest.raises(ManagerClosed, match="This manager is closed"), manager.transaction():
        pass


@pytest.mark.parametrize("synchronous", ["FULL", "NORMAL"])
def test_sqlite_runs_with_wal_foreign_keys_and_the_requested_durability(tmp_path: Path, synchronous: str) -> None:
    url = f"sqlite:///{tmp_path / 'sessions.db'}"
    with SessionManager(url, synchronous=synchronous) as manager, manager.transaction() as tx:
        settings = {
            name: tx.connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "foreign_keys", "synchronous")
        }

    assert settings == {"journal_mode": "wal", "foreign_keys": 1, "synchronous": {"FULL": 2, "NORMAL": 1}[synchronous]}

"""Engines of the caller's: each works, or is refused when the manager is opened, and is left as it was."""

from __future__ import annotations

import gc
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from psycopg.rows import dict_row
from sqlalchemy.pool import NullPool, Pool, QueuePool, SingletonThreadPool, StaticPool

from sessions_db import InvalidInput, NewMessage, SchemaMismatch, SessionManager, TransactionRolledBack, UnsafeFork
from tests.support.client import PlainClient
from tests.support.threads import run_together

OpenEngine = Callable[..., sa.Engine]

ANY_THREAD = {"check_same_thread": False}


@pytest.fixture
def open_engine() -> Iterator[OpenEngine]:
    """A function that makes an engine, which is disposed of in the end."""
    engines = []

    def open_(url: str, **options: Any) -> sa.Engine:
        engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"), **options)
        engines.append(engine)
        return engine

    yield open_
    for engine in engines:
        engine.dispose()


def path_of(url: str) -> str:
    return str(sa.make_url(url).database)


# What works


OPTIONS: dict[str, dict[str, Any]] = {
    "yield_per": {"execution_options": {"yield_per": 2}},
    "stream_results": {"execution_options": {"stream_results": True, "max_row_buffer": 1}},
    "no_parameters": {"execution_options": {"no_parameters": True}},
    "no cache": {"execution_options": {"compiled_cache": None}, "query_cache_size": 0},
    "logging_token": {"execution_options": {"logging_token": "own"}},
    "small pages": {"insertmanyvalues_page_size": 1, "execution_options": {"insertmanyvalues_page_size": 1}},
    "another schema is translated": {"execution_options": {"schema_translate_map": {"theirs": "ours"}}},
    "serializable": {"isolation_level": "SERIALIZABLE"},
    "autocommit": {"isolation_level": "AUTOCOMMIT", "skip_autocommit_rollback": True},
    "no reset": {"pool_reset_on_return": None},
    "NullPool": {"poolclass": NullPool},
    "StaticPool": {"poolclass": StaticPool},
    "SingletonThreadPool": {"poolclass": SingletonThreadPool},
}
DRIVERS_OPTIONS: dict[str, dict[str, dict[str, Any]]] = {
    "sqlite": {
        "isolation_level": {"isolation_level": "EXCLUSIVE"},
        "no isolation_level": {"isolation_level": None},
        "cached_statements": {"cached_statements": 0},
        "detect_types": {"detect_types": sqlite3.PARSE_DECLTYPES | sqlite3.PARSE_COLNAMES},
    },
    "postgresql": {
        "prepare everything": {"prepare_threshold": 0},
        "prepare nothing": {"prepare_threshold": None},
        "autocommit": {"autocommit": True},
        "cursor_factory": {"cursor_factory": psycopg.ClientCursor},
        "serializable": {"options": "-c default_transaction_isolation=serializable"},
    },
}


def send_and_fail(manager: SessionManager, key: str) -> None:
    with manager.transaction() as tx:
        tx.send_message(key, "undone")
        raise KeyError("undone")


def use(engine: sa.Engine, plain: PlainClient) -> None:
    """Calls of each kind, of which everything must be stored."""
    with SessionManager(engine, actor="own") as manager:
        main = manager.get_or_create_main("main").key
        key = manager.spawn_subagent("main", "Test", "research", parent_key=main, message_cap=5, archive_trimmed=True)
        manager.add_messages(key, [NewMessage("user", str(number)) for number in range(20)])
        manager.add_message(key, "tool", "found", tool_name="search", metadata={"a": [1, None]}, idempotency_key="1")
        with manager.transaction() as tx:
            tx.send_message(key, "Hello")
        with pytest.raises(KeyError, match="undone"):
            send_and_fail(manager, key)
        with manager.snapshot() as tx:
            found = tx.list(message_limit=3)
            assert tx.get_by_label("research") == tx.get(key)
        assert [(session.key, len(session.messages)) for session in found] == [(key, 3), (main, 0)]
        assert [message.seq for message in manager.history(key, include_tools=True, archived=True) or []] == [
            *range(1, 23)
        ]
        manager.complete_session(key)
        exported = list(manager.export_sessions())
        manager.prune(older_than=timedelta(milliseconds=1))
        assert manager.get(key) is None
        assert manager.import_session(next(session for session in exported if session.key == key))
        manager.seal_log()
        assert manager.verify_log().fault is None

    assert plain("SELECT key, last_seq FROM sessions ORDER BY last_seq") == [(main, 0), (key, 22)]
    assert plain("SELECT count(*), max(seq) FROM messages") == [(5, 22)]


@pytest.mark.parametrize("name", OPTIONS)
def test_engine_works_on_an_empty_database(empty_url: str, open_engine: OpenEngine, name: str) -> None:
    plain = PlainClient(empty_url)
    use(open_engine(empty_url, **OPTIONS[name]), plain)
    plain.close()


@pytest.mark.parametrize(
    ("backend", "name"),
    [(backend, name) for backend, options in DRIVERS_OPTIONS.items() for name in options],
    indirect=["backend"],
)
def test_option_of_the_driver_works_on_an_empty_database(
    empty_url: str, open_engine: OpenEngine, backend: str, name: str
) -> None:
    plain = PlainClient(empty_url)
    use(open_engine(empty_url, connect_args=DRIVERS_OPTIONS[backend][name]), plain)
    plain.close()


# What is refused


def assert_refused(engine: sa.Engine, reason: str, **options: Any) -> None:
    with pytest.raises(InvalidInput) as caught:
        SessionManager(engine, **options)
    assert (caught.value.argument, caught.value.reason) == ("database", reason)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "schema_translate_map": (
        {"execution_options": {"schema_translate_map": {None: "other"}}},
        "must have no schema_translate_map for the default schema: not all statements follow it",
    ),
    "isolation_level": (
        {"execution_options": {"isolation_level": "SERIALIZABLE"}},
        "must have no isolation_level in its execution options: pass it to create_engine itself",
    ),
    "use_insertmanyvalues": (
        {"use_insertmanyvalues": False},
        "must not have use_insertmanyvalues=False",
    ),
    "label_length": (
        {"label_length": 20},
        "must allow names of 63 characters (label_length, max_identifier_length)",
    ),
    "max_identifier_length": (
        {"max_identifier_length": 30},
        "must allow names of 63 characters (label_length, max_identifier_length)",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_option_with_which_statements_would_mean_something_else_is_refused(
    url: str, plain: PlainClient, open_engine: OpenEngine, name: str
) -> None:
    options, reason = REFUSED[name]

    assert_refused(open_engine(url, **options), reason)
    assert plain("SELECT * FROM sessions") == []


def test_style_of_parameters_that_is_not_the_drivers_is_refused(
    url: str, backend: str, open_engine: OpenEngine
) -> None:
    own = "qmark" if backend == "sqlite" else "pyformat"
    assert_refused(open_engine(url, paramstyle="format"), f"must have the driver's paramstyle, {own}")


def test_rows_that_are_no_tuples_of_text_are_refused(url: str, backend: str, open_engine: OpenEngine) -> None:
    def set_factory(factory: str, value: Any) -> sa.Engine:
        engine = open_engine(url)
        sa.event.listen(engine, "connect", lambda connection, _: setattr(connection, factory, value))
        return engine

    reason = "must have connections without a row_factory or text_factory of their own"
    if backend == "sqlite":
        assert_refused(set_factory("row_factory", lambda cursor, row: {"first": row[0], "cursor": cursor}), reason)
        assert_refused(set_factory("text_factory", bytes), reason)
        SessionManager(set_factory("row_factory", sqlite3.Row)).close()
    else:
        assert_refused(set_factory("row_factory", dict_row), reason)


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
@pytest.mark.parametrize("by", ["option", "listener"])
def test_engine_that_is_meant_for_reading_does_not_write(url: str, open_engine: OpenEngine, by: str) -> None:
    engine = open_engine(url, execution_options={"postgresql_readonly": True} if by == "option" else {})
    if by == "listener":
        sa.event.listen(engine, "connect", lambda connection, _: setattr(connection, "read_only", True))

    assert_refused(engine, "must not be read-only, unless read_only=True")
    with SessionManager(engine, read_only=True) as manager:
        assert manager.list() == []


@pytest.mark.skipif(not hasattr(sqlite3, "LEGACY_TRANSACTION_CONTROL"), reason="sqlite3 has it since Python 3.12")
@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
@pytest.mark.parametrize("autocommit", [True, False])
@pytest.mark.parametrize("by", ["connect_args", "creator", "listener"])
def test_autocommit_of_sqlite3_is_refused(url: str, open_engine: OpenEngine, autocommit: bool, by: str) -> None:
    options: dict[str, dict[str, Any]] = {
        "connect_args": {"connect_args": {"autocommit": autocommit}},
        "creator": {"creator": lambda: sqlite3.connect(path_of(url), autocommit=autocommit)},  # type: ignore[call-overload]
        "listener": {},
    }
    engine = open_engine(url, **options[by])
    if by == "listener":
        sa.event.listen(engine, "connect", lambda connection, _: setattr(connection, "autocommit", autocommit))

    assert_refused(
        engine, "must have connections whose `autocommit` is sqlite3.LEGACY_TRANSACTION_CONTROL, the default"
    )


@pytest.mark.skipif(not hasattr(sqlite3, "SQLITE_DBCONFIG_ENABLE_TRIGGER"), reason="Python can tell since 3.12")
@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_connection_in_which_no_trigger_fires_is_refused(url: str, open_engine: OpenEngine) -> None:
    engine = open_engine(url)
    trigger = getattr(sqlite3, "SQLITE_DBCONFIG_ENABLE_TRIGGER", None)
    sa.event.listen(engine, "connect", lambda connection, _: connection.setconfig(trigger, False))

    with pytest.raises(SchemaMismatch, match="triggers are off"):
        SessionManager(engine)


@pytest.mark.parametrize("poolclass", [None, SingletonThreadPool, QueuePool, NullPool])
def test_pool_that_would_give_each_thread_a_database_in_memory_is_refused(
    open_engine: OpenEngine, poolclass: type[Pool] | None
) -> None:
    reason = "must have poolclass=StaticPool, or each thread would have a database in memory of its own"
    assert_refused(open_engine("sqlite://", poolclass=poolclass), reason)

    with SessionManager(
        open_engine(
            "sqlite:///file:own?mode=memory&cache=shared&uri=true", poolclass=QueuePool, connect_args=ANY_THREAD
        )
    ) as manager:
        run_together([threading.Thread(target=manager.get_or_create_main, args=(str(n),)) for n in range(4)])
        assert len(manager.list()) == 4


def test_url_that_does_not_name_the_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, open_engine: OpenEngine
) -> None:
    file = tmp_path / "own.db"

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(file, check_same_thread=False)

    reason = "must have a URL with the path of what its connections open, {}"
    for url in ("sqlite://", f"sqlite:///{tmp_path / 'other.db'}"):
        assert_refused(open_engine(url, creator=connect), reason.format(file))
    in_memory = open_engine(f"sqlite:///{file}", creator=lambda: sqlite3.connect(":memory:"))
    assert_refused(in_memory, reason.format("a database in memory"))
    monkeypatch.chdir(tmp_path)
    relative = open_engine("sqlite:///own.db")
    monkeypatch.chdir("/")
    assert_refused(relative, reason.format(file))

    SessionManager(open_engine(f"sqlite:///{file}", creator=connect)).close()


def test_engine_that_cannot_connect_is_refused_without_the_drivers_text(
    url: str, backend: str, open_engine: OpenEngine
) -> None:
    arguments = {"sqlite": {"password": "secret"}, "postgresql": {"client_encoding": "SQL_ASCII"}}[backend]
    assert_refused(open_engine(url, connect_args=arguments), "must be an engine that can connect")


# How it is left


@pytest.mark.parametrize(
    ("backend", "settings"),
    [
        ("sqlite", {"isolation_level": None}),
        ("sqlite", {"isolation_level": "IMMEDIATE"}),
        ("postgresql", {}),
        ("postgresql", {"autocommit": True}),
        ("postgresql", {"isolation_level": psycopg.IsolationLevel.SERIALIZABLE}),
    ],
    indirect=["backend"],
)
def test_connections_come_back_as_they_were(url: str, open_engine: OpenEngine, settings: dict[str, Any]) -> None:
    engine = open_engine(url, pool_size=1, max_overflow=0)

    @sa.event.listens_for(engine, "connect")
    def configure(connection: Any, _record: object) -> None:
        for name, value in settings.items():
            setattr(connection, name, value)

    def found() -> list[object]:
        with engine.connect() as connection:
            driver: Any = connection.connection.driver_connection
            return [getattr(driver, name, None) for name in ("isolation_level", "autocommit")]

    before = found()
    with SessionManager(engine) as manager:
        manager.get_or_create_main("main")
        assert found() == before
        with manager.transaction() as tx:
            tx.get_or_create_main("other")
        assert found() == before


def test_managers_of_one_engine_share_their_listeners(url: str, open_engine: OpenEngine) -> None:
    engine = open_engine(url)

    def listeners() -> list[int]:
        events = [engine.dialect.dispatch.do_connect]
        events += [getattr(engine.pool.dispatch, name) for name in ("connect", "checkout", "checkin")]
        return [len([*listeners]) for listeners in events]

    SessionManager(engine).close()
    of_one = listeners()
    for _ in range(3):
        engine.dispose()
        SessionManager(engine).close()
        SessionManager(engine).close()

    assert listeners() == of_one


# One connection for all threads


@pytest.mark.parametrize("backend", ["sqlite", "postgresql", "in memory"])
def test_threads_lose_nothing_on_a_pool_of_one_connection(
    request: pytest.FixtureRequest, open_engine: OpenEngine, backend: str
) -> None:
    url = "sqlite://" if backend == "in memory" else request.getfixturevalue("url")
    arguments = {} if backend == "postgresql" else ANY_THREAD
    engine = open_engine(url, poolclass=StaticPool, connect_args=arguments)
    with SessionManager(engine) as one, SessionManager(engine) as two:
        if backend != "in memory":
            # The next manager meets another pool than these two.
            engine.dispose()
        with SessionManager(engine) as three:
            key = one.spawn_subagent("main", "Test", message_cap=1000)
            acknowledged: list[int] = []

            def write(manager: SessionManager, name: int) -> None:
                for number in range(10):
                    acknowledged.append(manager.send_message(key, f"{name}/{number}").seq)
                    with manager.transaction() as tx:
                        acknowledged.append(tx.send_message(key, f"{name}/{number} in a block").seq)
                        assert tx.get(key) is not None

            writers = [(manager, name) for name, manager in enumerate([one, two, three] * 3)][:8]
            run_together([threading.Thread(target=write, args=writer) for writer in writers])

            stored = one.history(key)
    # Before the database is dropped.
    engine.dispose()

    assert stored is not None
    assert sorted(acknowledged) == [message.seq for message in stored] == list(range(1, 161))


# Forks


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
POOLS = pytest.mark.parametrize("poolclass", [QueuePool, StaticPool, NullPool, SingletonThreadPool])


def outcome_in_a_child(work: Callable[[], object]) -> str:
    """What the work returned or raised in a forked child, as text."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            try:
                outcome = repr(work())
            except BaseException as error:  # noqa: BLE001  # the parent tells which one was expected
                outcome = type(error).__name__
            os.write(theirs, outcome.encode())
        finally:
            os._exit(0)
    os.close(theirs)
    with os.fdopen(ours) as pipe:
        outcome = pipe.read()
    os.waitpid(child, 0)
    return outcome


@needs_fork
@POOLS
@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
@pytest.mark.parametrize("created", [False, True])
def test_child_forked_in_a_block_is_refused_and_its_parent_goes_on(
    url: str, plain: PlainClient, open_engine: OpenEngine, poolclass: type[Pool], created: bool
) -> None:
    creator = {"creator": lambda: sqlite3.connect(path_of(url), check_same_thread=False)} if created else {}
    arguments = {} if created else {"connect_args": ANY_THREAD}
    engine = open_engine(url, poolclass=poolclass, **creator, **arguments)
    with SessionManager(engine) as manager, SessionManager(engine) as other:
        key = manager.get_or_create_main("main").key
        with manager.transaction() as tx:
            tx.send_message(key, "before")
            driver: Any = tx.connection.connection.driver_connection

            def in_child() -> list[str]:
                refused = []
                for user in (manager, other):
                    with pytest.raises(UnsafeFork):
                        user.list()
                    refused.append("refused")
                gc.collect()
                # If it were closed, this would raise an error.
                return refused if driver.in_transaction else ["closed"]

            outcome = outcome_in_a_child(in_child)
            tx.send_message(key, "after")
        other.send_message(key, "later")
        later = outcome_in_a_child(lambda: other.send_message(key, "from a child").seq)

    assert (outcome, later) == ("['refused', 'refused']", "4")
    assert [content for (content,) in plain("SELECT content FROM messages ORDER BY seq")] == [
        "before",
        "after",
        "later",
        "from a child",
    ]


@needs_fork
@POOLS
@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_connection_that_the_caller_uses_itself_counts_too(
    url: str, plain: PlainClient, open_engine: OpenEngine, poolclass: type[Pool]
) -> None:
    engine = open_engine(url, poolclass=poolclass, connect_args=ANY_THREAD)
    with engine.connect():
        # StaticPool keeps this connection.
        pass
    with SessionManager(engine) as manager:
        key = manager.get_or_create_main("main").key
        with engine.begin() as connection:
            connection.exec_driver_sql("UPDATE sessions SET task = 'one'")
            outcome = outcome_in_a_child(manager.list)
            connection.exec_driver_sql("UPDATE sessions SET task = task || ' and two'")

        assert manager.send_message(key, "Hello").seq == 1
    assert outcome == UnsafeFork.__name__
    assert plain("SELECT task FROM sessions") == [("one and two",)]


@needs_fork
def test_child_of_a_process_whose_thread_used_the_one_connection_waits_for_nobody(open_engine: OpenEngine) -> None:
    engine = open_engine("sqlite://", poolclass=StaticPool, connect_args=ANY_THREAD)
    with SessionManager(engine, retry_budget_s=1) as manager:
        key = manager.get_or_create_main("main").key
        taken, over = threading.Event(), threading.Event()

        def hold() -> None:
            with suppress(TransactionRolledBack), manager.snapshot():
                taken.set()
                over.wait(60)

        holder = threading.Thread(target=hold)
        holder.start()
        taken.wait(60)
        with closing(engine.raw_connection()) as raw:
            # As if the statement of that thread were done: what is tested is who may use the connection.
            raw.driver_connection.rollback()  # type: ignore[union-attr]
        outcome = outcome_in_a_child(lambda: manager.list()[0].key)
        over.set()
        holder.join()

    assert outcome == repr(key)

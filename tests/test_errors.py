"""The error tree: what errors say and carry, and that no other exception escapes."""

from __future__ import annotations

import os
import pickle
import socket
import sqlite3
import threading
from pathlib import Path

import pytest
from sqlalchemy import make_url

import sessions_db
from sessions_db import (
    DatabaseUnavailable,
    InvalidInput,
    LabelInUse,
    SchemaMismatch,
    SessionManager,
    SessionNotActive,
    SessionNotFound,
    SessionsError,
    SessionStatus,
)

from .conftest import PlainClient

ERRORS = [
    SessionNotFound("agent:main:main"),
    SessionNotActive("agent:main:main", SessionStatus.ERROR),
    LabelInUse("research", "agent:main:main"),
    InvalidInput("limit", "must be an int", "'x'"),
    SchemaMismatch("0001", "0002", "upgrade it"),
    DatabaseUnavailable("connection refused", 1.25, outcome_unknown=True),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_error_survives_pickling_with_its_data(error: SessionsError) -> None:
    copy = pickle.loads(pickle.dumps(error))

    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)
    assert vars(error)


def test_errors_have_one_root_and_the_builtin_ones_that_fit() -> None:
    public = [getattr(sessions_db, name) for name in sessions_db.__all__]
    exceptions = {item for item in public if isinstance(item, type) and issubclass(item, Exception)}

    assert exceptions == {type(error) for error in ERRORS} | {SessionsError}
    assert all(issubclass(error, SessionsError) for error in exceptions)
    assert issubclass(SessionNotFound, LookupError)
    assert issubclass(InvalidInput, ValueError)


def test_errors_say_what_and_with_which_value() -> None:
    assert [str(error) for error in ERRORS] == [
        "Session not found: agent:main:main",
        "Session is not active: Error",
        "Label 'research' is in use by agent:main:main",
        "limit must be an int, got 'x'",
        "The database's schema is at revision 0001, this release needs 0002: upgrade it",
        "Database unavailable after 1.2 s: connection refused; the write may have been committed",
    ]


# Databases that can't be reached


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def test_refused_connection_is_tried_for_the_budget_and_shows_no_password() -> None:
    url = f"postgresql://somebody:s3cret@127.0.0.1:{free_port()}/sessions"

    with pytest.raises(DatabaseUnavailable) as caught:
        SessionManager(url, retry_budget_s=0.3)

    assert caught.value.waited_s >= 0.3
    assert not caught.value.outcome_unknown
    assert "s3cret" not in str(caught.value)
    assert "s3cret" not in repr(caught.value.__cause__)


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_database_that_does_not_exist_is_not_waited_for(url: str) -> None:
    missing = make_url(url).set(database="no_such_database").render_as_string(hide_password=False)

    with pytest.raises(DatabaseUnavailable, match="no_such_database") as caught:
        SessionManager(missing, retry_budget_s=60)

    assert caught.value.waited_s < 30


def test_url_that_cannot_be_read_is_refused_without_showing_it() -> None:
    with pytest.raises(InvalidInput) as caught:
        SessionManager("postgresql//somebody:s3cret@host")

    assert "s3cret" not in str(caught.value)
    with pytest.raises(InvalidInput) as caught:
        SessionManager("mysql://somebody:s3cret@host/db")
    assert "s3cret" not in str(caught.value)


def test_missing_directory_is_told(tmp_path: Path) -> None:
    with pytest.raises(DatabaseUnavailable, match="unable to open database file"):
        SessionManager(f"sqlite:///{tmp_path}/missing/sessions.db", retry_budget_s=0)


def test_file_that_is_no_database_is_told_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a database " * 100)

    with pytest.raises(DatabaseUnavailable, match="file is not a database"):
        SessionManager(f"sqlite:///{path}")

    assert path.read_text() == "not a database " * 100


# Locks


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_locked_file_is_tried_for_the_budget(url: str) -> None:
    other = sqlite3.connect(str(make_url(url).database), isolation_level=None)
    with SessionManager(url, retry_budget_s=0.2) as manager:
        key = manager.get_or_create_main("main").key
        other.execute("BEGIN IMMEDIATE")

        with pytest.raises(DatabaseUnavailable, match="database is locked") as caught:
            manager.send_message(key, "Hello")
        with pytest.raises(DatabaseUnavailable, match="database is locked"), manager.transaction():
            pass

        assert caught.value.waited_s >= 0.2
        assert not caught.value.outcome_unknown
        assert manager.history(key) == []
        other.execute("ROLLBACK")
        manager.send_message(key, "Hello")
    other.close()


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_write_goes_through_once_the_lock_is_gone(url: str) -> None:
    other = sqlite3.connect(str(make_url(url).database), isolation_level=None, check_same_thread=False)
    with SessionManager(url) as manager:
        key = manager.get_or_create_main("main").key
        other.execute("BEGIN IMMEDIATE")
        unlock = threading.Timer(0.2, other.execute, ["ROLLBACK"])
        unlock.start()

        assert manager.send_message(key, "Hello").seq == 1

        unlock.join()
    other.close()


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_lock_timeout_is_tried_for_the_budget(url: str, plain: PlainClient) -> None:
    impatient = make_url(url).update_query_dict({"options": "-c lock_timeout=20"})
    with SessionManager(impatient, retry_budget_s=0.2) as manager:
        key = manager.get_or_create_main("main").key
        plain("BEGIN")
        plain("SELECT * FROM sessions FOR UPDATE")

        with pytest.raises(DatabaseUnavailable, match="lock timeout") as caught:
            manager.send_message(key, "Hello")

        assert caught.value.waited_s >= 0.2
        plain("ROLLBACK")
        assert manager.send_message(key, "Hello").seq == 1


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_deadlock_is_resolved_without_the_caller_noticing(
    url: str, manager: SessionManager, plain: PlainClient
) -> None:
    first, second = (manager.spawn_subagent("main", "Test") for _ in range(2))
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    plain("SET deadlock_timeout = '1min'")  # the other side is the one that gives way
    plain("BEGIN")
    plain("SELECT * FROM sessions WHERE key = ? FOR UPDATE", first)
    ended: list[list[str]] = []

    def sweep() -> None:
        ended.append(manager.timeout_idle(1))

    plain("SELECT pg_sleep(0.01)")
    thread = threading.Thread(target=sweep)
    thread.start()
    with SessionManager(url) as observer, observer.transaction() as tx:
        while tx.connection.exec_driver_sql(waiting).scalar() == 0:
            tx.connection.exec_driver_sql("SELECT pg_stat_clear_snapshot()")
    plain("UPDATE sessions SET metadata = NULL WHERE key = ?", second)
    plain("COMMIT")
    thread.join()

    assert ended == [sorted([first, second])]


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_connection_cut_under_a_write_leaves_the_outcome_open(manager: SessionManager, plain: PlainClient) -> None:
    key = manager.get_or_create_main("main").key
    plain(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
        " AND pid <> pg_backend_pid()"
    )

    with pytest.raises(DatabaseUnavailable) as caught:
        manager.send_message(key, "Hello")

    assert caught.value.outcome_unknown
    assert manager.history(key) == []
    assert manager.send_message(key, "Hello").seq == 1


def test_pool_without_a_free_connection_is_told(url: str) -> None:
    with SessionManager(url, pool_size=1, retry_budget_s=0.1) as manager, manager.transaction():
        with pytest.raises(DatabaseUnavailable, match="QueuePool limit") as caught:
            manager.list()

        assert caught.value.waited_s >= 0.1


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_file_that_may_not_be_written_is_told(url: str, manager: SessionManager) -> None:
    key = manager.get_or_create_main("main").key
    with (
        SessionManager(f"sqlite:///file:{make_url(url).database}?mode=ro&uri=true") as reader,
        pytest.raises(DatabaseUnavailable, match="readonly"),
    ):
        reader.send_message(key, "Hello")

    assert manager.history(key) == []


# Fork


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_forked_child_and_its_parent_go_on(manager: SessionManager) -> None:
    key = manager.get_or_create_main("main").key
    child = os.fork()
    if child == 0:
        code = 1
        try:
            for _ in range(20):
                manager.send_message(key, "from the child")
            code = 0
        finally:
            os._exit(code)
    for _ in range(20):
        manager.send_message(key, "from the parent")

    assert os.waitpid(child, 0)[1] == 0
    session = manager.get(key)
    assert session is not None
    assert [message.seq for message in session.messages] == list(range(1, 41))

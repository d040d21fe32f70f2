"""The error tree: what errors say and carry, and that no other exception escapes."""

from __future__ import annotations

import os
import pickle
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import make_url

import sessions_db
from sessions_db import (
    DatabaseUnavailable,
    IdempotencyConflict,
    InvalidInput,
    LabelInUse,
    LimitReached,
    ManagerClosed,
    NewMessage,
    ReadOnly,
    SchemaMismatch,
    SessionChanged,
    SessionManager,
    SessionNotActive,
    SessionNotFound,
    SessionsError,
    SessionStatus,
    StatementRefused,
    TransactionOver,
    TransactionRolledBack,
    UnsafeFork,
    WriteUndone,
)
from tests.support.client import PlainClient
from tests.support.clock import ms
from tests.support.databases import OTHERS
from tests.support.locks import wait_for_lock
from tests.support.servers import wait_until

ERRORS = [
    SessionNotFound("agent:main:main"),
    SessionNotActive("agent:main:main", SessionStatus.ERROR),
    SessionChanged("agent:main:main", 2, 3),
    LabelInUse("research", "agent:main:main"),
    LimitReached("max_children", 5),
    IdempotencyConflict("call-1", "agent:main:main", ("role", "content")),
    InvalidInput("limit", "must be an int", "x"),
    SchemaMismatch("0001", "0002", "upgrade it"),
    DatabaseUnavailable("connection refused", 1.25, outcome_unknown=True),
    StatementRefused("a constraint"),
    WriteUndone("agent:main:main", 20),
    UnsafeFork("sessions.db"),
]

# Errors without attributes.
BARE_ERRORS = [ReadOnly(), ManagerClosed(), TransactionOver(), TransactionRolledBack()]


@pytest.mark.parametrize("error", ERRORS + BARE_ERRORS, ids=lambda error: type(error).__name__)
def test_error_survives_pickling_with_its_data(error: SessionsError) -> None:
    copy = pickle.loads(pickle.dumps(error))

    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert repr(copy) == repr(error)
    assert vars(copy) == vars(error)


def test_errors_have_one_root_and_the_builtin_ones_that_fit() -> None:
    public = [getattr(sessions_db, name) for name in sessions_db.__all__]
    exceptions = {item for item in public if isinstance(item, type) and issubclass(item, Exception)}

    assert exceptions == {type(error) for error in ERRORS + BARE_ERRORS} | {SessionsError}
    assert all(issubclass(error, SessionsError) for error in exceptions)
    assert issubclass(SessionNotFound, LookupError)
    assert issubclass(InvalidInput, ValueError)


def test_errors_say_what_and_with_which_value() -> None:
    assert [str(error) for error in ERRORS] == [
        "Session not found: agent:main:main",
        "Session is not active: Error (agent:main:main)",
        "Session has changed: it has had 3 messages, not 2 (agent:main:main)",
        "Label 'research' is in use by agent:main:main",
        "Limit for spawning reached: max_children is 5",
        "Idempotency key 'call-1' was used with another role, content before, in agent:main:main",
        "limit must be an int, got 'x'",
        "The database's schema is at revision 0001, this release needs 0002: upgrade it",
        "Database unavailable after 1.2 s: connection refused; the write may have been committed",
        "The database refused the statement: a constraint",
        "What is written to agent:main:main does not stay: tried 20 times",
        "This process was forked while sessions.db was in use, so it can't use it safely",
    ]


def test_errors_show_their_attributes() -> None:
    unavailable = DatabaseUnavailable("connection refused", 1.25, outcome_unknown=True)

    assert repr(unavailable) == (
        "DatabaseUnavailable(reason='connection refused', waited_s=1.25, outcome_unknown=True)"
    )
    assert repr(SessionNotFound("agent:main:main")) == "SessionNotFound(key='agent:main:main')"
    assert repr(ReadOnly()) == "ReadOnly()"


# Databases that can't be reached


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def test_refused_connection_is_retried_for_the_budget_and_shows_no_password() -> None:
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


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://somebody:p@ss:s3cret@host/db",
        "mysql://somebody@host/db?password=s3cret",
        "sqlite://sessions.db",
        "sqlite:///sessions.db?timeout=s3cret",
        "sqlite:///sessions.db?cached_statements=s3cret",
        "sqlite:///sessions.db?plugin=s3cret",
        "postgresql://somebody@host:s3cret/db",
        "sqlite:///s3cret\x00.db",
        "sqlite:///s3cret\ud800.db",
    ],
)
def test_nonsensical_url_is_refused_without_showing_its_secrets(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    with pytest.raises(InvalidInput) as caught:
        SessionManager(url)

    assert caught.value.argument == "database"
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("option", ["foo=bar", "connect_timeout=abc"])
def test_option_that_postgres_does_not_know_is_not_retried(option: str) -> None:
    with pytest.raises(SessionsError) as caught:
        SessionManager(f"postgresql://somebody@127.0.0.1:1/sessions?{option}", retry_budget_s=60)

    assert not isinstance(caught.value, DatabaseUnavailable) or caught.value.waited_s < 30


def test_missing_directory_is_reported(tmp_path: Path) -> None:
    with pytest.raises(DatabaseUnavailable, match="unable to open database file"):
        SessionManager(f"sqlite:///{tmp_path}/missing/sessions.db", retry_budget_s=0)


def test_file_that_is_not_a_database_is_reported_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a database " * 100)

    with pytest.raises(DatabaseUnavailable, match="file is not a database"):
        SessionManager(f"sqlite:///{path}")

    assert path.read_text() == "not a database " * 100


# Locks


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_locked_file_is_retried_for_the_budget(url: str) -> None:
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
def test_transaction_of_another_thread_is_waited_for_until_the_budget_ends(url: str) -> None:
    with SessionManager(url, retry_budget_s=0.2) as manager, manager.transaction() as tx:
        key = tx.get_or_create_main("main").key

        with pytest.raises(DatabaseUnavailable, match="database is locked by another") as caught:
            manager.send_message(key, "Hello")

        assert caught.value.waited_s >= 0.2
        assert manager.list() == []


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
@pytest.mark.parametrize("options", [{}, {"options": "-c lock_timeout=20"}])
def test_row_lock_is_waited_for_until_the_budget_ends(url: str, plain: PlainClient, options: dict[str, str]) -> None:
    with SessionManager(make_url(url).update_query_dict(options), retry_budget_s=0.2) as manager:
        key = manager.get_or_create_main("main").key
        plain("BEGIN")
        plain("SELECT * FROM sessions FOR UPDATE")

        with pytest.raises(DatabaseUnavailable, match="lock timeout") as caught:
            manager.send_message(key, "Hello")

        assert caught.value.waited_s >= 0.2
        plain("ROLLBACK")
        assert manager.send_message(key, "Hello").seq == 1


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_deadlock_is_resolved_without_the_caller_noticing(manager: SessionManager, plain: PlainClient) -> None:
    first, second = sorted(manager.spawn_subagent("main", "Test") for _ in range(2))
    ended: list[list[str]] = []
    plain("SET deadlock_timeout = '1min'")  # the other side is the one that is aborted
    plain("BEGIN")
    plain("SELECT * FROM sessions WHERE key = ? FOR UPDATE", second)
    # It updates the first row, then waits for the second.
    sweep = threading.Thread(target=lambda: ended.append(manager.timeout_idle(ms(1))))
    plain("SELECT pg_sleep(0.01)")
    sweep.start()
    wait_for_lock(plain)
    plain("UPDATE sessions SET metadata = NULL WHERE key = ?", first)
    plain("COMMIT")
    sweep.join()

    assert ended == [[first, second]]


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_connection_cut_during_a_write_leaves_the_outcome_unknown(manager: SessionManager, plain: PlainClient) -> None:
    key = manager.get_or_create_main("main").key
    caught: list[DatabaseUnavailable] = []

    def send() -> None:
        with pytest.raises(DatabaseUnavailable) as error:
            manager.send_message(key, "Hello")
        caught.append(error.value)

    plain("BEGIN")
    plain("SELECT * FROM sessions FOR UPDATE")
    sender = threading.Thread(target=send)
    sender.start()
    while sender.is_alive():
        # Not once only: it first waits briefly, and a connection that is cut before it waits again is replaced.
        plain("SELECT pg_stat_clear_snapshot()")
        cut_connections(plain, "wait_event_type = 'Lock'")
    plain("COMMIT")

    assert caught[0].outcome_unknown
    assert manager.history(key) == []
    assert manager.send_message(key, "Hello").seq == 1


def test_exhausted_pool_is_reported(url: str) -> None:
    with SessionManager(url, pool_size=1, retry_budget_s=0.1) as manager, manager.transaction():
        with pytest.raises(DatabaseUnavailable, match=r"QueuePool limit|connections are in use, all 1 of") as caught:
            manager.list()

        assert caught.value.waited_s >= 0.1


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_unwritable_file_is_reported(url: str, manager: SessionManager) -> None:
    key = manager.get_or_create_main("main").key
    with (
        SessionManager(f"sqlite:///file:{make_url(url).database}?mode=ro&uri=true") as reader,
        pytest.raises(DatabaseUnavailable, match="readonly"),
    ):
        reader.send_message(key, "Hello")

    assert manager.history(key) == []


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_reads_and_transactions_survive_a_cut_connection(manager: SessionManager, plain: PlainClient) -> None:
    key = manager.get_or_create_main("main").key
    operations: list[Callable[[], object]] = [
        lambda: manager.get(key),
        lambda: manager.spawn_subagent("main", "Test"),
        lambda: manager.history(key),
    ]
    for operation in operations:
        cut_connections(plain)
        operation()
    cut_connections(plain)
    with manager.transaction() as tx:
        tx.send_message(key, "Hello")

    assert plain("SELECT count(*) FROM sessions") == [(2,)]
    assert plain("SELECT content FROM messages") == [("Hello",)]


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_error_of_a_block_is_not_hidden_by_a_cut_connection(manager: SessionManager, plain: PlainClient) -> None:
    def fail() -> None:
        with manager.transaction() as tx:
            tx.get_or_create_main("main")
            cut_connections(plain)
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        fail()

    assert manager.list() == []


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_connection_that_broke_behind_the_server_leaves_the_outcome_unknown(own_url: str) -> None:
    with SessionManager(own_url) as manager, closing(PlainClient(own_url)) as plain:
        keys = [manager.spawn_subagent("main", "Test") for _ in range(2)]
        # As Citus does when another node is gone, while its own connection goes on.
        plain(
            "CREATE FUNCTION lose() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE EXCEPTION 'terminated' USING ERRCODE = 'connection_failure'; END $$"
        )
        plain("CREATE TRIGGER lose AFTER INSERT ON messages EXECUTE FUNCTION lose()")

        for append in (
            lambda: manager.send_message(keys[0], "Hello"),
            lambda: manager.add_messages(keys[1], [NewMessage("user", "Hello")] * 2),
        ):
            with pytest.raises(DatabaseUnavailable, match="terminated") as caught:
                append()
            assert caught.value.outcome_unknown
        assert manager.get(keys[0]) is not None


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_connection_cut_at_the_end_of_a_block_leaves_the_outcome_unknown(
    manager: SessionManager, plain: PlainClient
) -> None:
    def write() -> None:
        with manager.transaction() as tx:
            tx.get_or_create_main("main")
            cut_connections(plain)

    with pytest.raises(DatabaseUnavailable) as caught:
        write()

    assert caught.value.outcome_unknown


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_block_in_which_a_statement_failed_is_not_reported_as_committed(manager: SessionManager) -> None:
    key = manager.get_or_create_main("main").key

    def write() -> None:
        with manager.transaction() as tx:
            tx.send_message(key, "Hello")
            with pytest.raises(sa.exc.ProgrammingError):
                tx.connection.exec_driver_sql("SELECT * FROM missing")

    with pytest.raises(SessionsError, match="The transaction was rolled back"):
        write()

    assert manager.history(key) == []


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_server_that_takes_no_writes_is_unavailable(url: str, manager: SessionManager) -> None:
    key = manager.get_or_create_main("main").key
    standby = make_url(url).update_query_dict({"options": "-c default_transaction_read_only=on"})

    with SessionManager(standby, retry_budget_s=0.2) as reader, pytest.raises(DatabaseUnavailable, match="read-only"):
        reader.send_message(key, "Hello")

    assert manager.history(key) == []


def test_foreign_trigger_that_undoes_appends_is_reported(
    create_database: Callable[..., str],
) -> None:
    url = create_database(own=True)
    with SessionManager(url) as manager:
        key = manager.get_or_create_main("main").key
        client = PlainClient(url)
        if client.backend == "sqlite":
            client("CREATE TRIGGER theirs BEFORE INSERT ON messages BEGIN SELECT RAISE(IGNORE); END")
        else:
            client("CREATE FUNCTION theirs() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'")
            client("CREATE TRIGGER theirs BEFORE INSERT ON messages FOR EACH ROW EXECUTE FUNCTION theirs()")
        client.close()

        with pytest.raises(SessionsError, match="does not stay"):
            manager.send_message(key, "Hello")
        with pytest.raises(SessionsError, match="does not stay"):
            manager.add_messages(key, [NewMessage("user", "Hello")])


def cut_connections(plain: PlainClient, condition: str = "true") -> None:
    """End every other connection to the database that meets the condition."""
    plain(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
        f" WHERE datname = current_database() AND pid <> pg_backend_pid() AND {condition}"
    )


# Fork


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_child_loses_nothing_when_its_parent_closes(url: str) -> None:
    code = (
        "import os, sys, sessions_db\n"
        "manager = sessions_db.SessionManager(sys.argv[1])\n"
        "key = manager.get_or_create_main('main').key\n"
        "manager.send_message(key, 'parent')\n"
        "to_child, to_parent = os.pipe(), os.pipe()\n"
        "if os.fork() == 0:\n"
        "    manager.send_message(key, 'child')\n"
        "    os.write(to_parent[1], b'.')\n"
        "    os.read(to_child[0], 1)\n"
        "    manager.send_message(key, 'child')\n"
        "    manager.close()\n"
        "    os._exit(0)\n"
        "os.read(to_parent[0], 1)\n"
        "manager.send_message(key, 'parent')\n"
        "manager.close()\n"
        "os.write(to_child[1], b'.')\n"
        "os.wait()\n"
    )
    subprocess.run([sys.executable, "-c", code, url], timeout=60, check=True)

    with SessionManager(url) as manager:
        history = manager.history("agent:main:main")
    assert history is not None
    assert [message.content for message in history] == ["parent", "child", "parent", "child"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_child_forked_inside_a_transaction_refuses_that_file(url: str) -> None:
    code = (
        "import os, sys, sessions_db\n"
        "manager = sessions_db.SessionManager(sys.argv[1])\n"
        "with manager.transaction() as tx:\n"
        "    tx.get_or_create_main('main')\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        try:\n"
        "            manager.list()\n"
        "        except sessions_db.SessionsError as error:\n"
        "            os._exit(0 if 'was forked while' in str(error) else 2)\n"
        "        os._exit(1)\n"
        "    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0\n"
        "manager.send_message('agent:main:main', 'goes on')\n"
        "manager.close()\n"
    )
    subprocess.run([sys.executable, "-c", code, url], timeout=60, check=True)

    with SessionManager(url) as manager:
        assert manager.get_or_create_main("main").message_count == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_fork_waits_for_a_thread_that_is_about_to_connect(manager: SessionManager) -> None:
    connects, forked = threading.Event(), threading.Event()

    def hold_back(*_: object) -> None:
        connects.set()
        # As long as the fork lets it: it may be the fork that waits.
        forked.wait(0.1)

    reader = threading.Thread(target=manager.list)
    # Of the class, because those come before the library's own.
    sa.event.listen(sa.Engine, "do_connect", hold_back)
    try:
        with ExitStack() as stack:
            while manager.pool_status().idle:
                stack.enter_context(manager.snapshot())
            reader.start()
            connects.wait()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                manager.list()
                code = 0
            finally:
                os._exit(code)
        forked.set()
        reader.join()
    finally:
        sa.event.remove(sa.Engine, "do_connect", hold_back)

    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_forked_child_and_its_parent_keep_working(manager: SessionManager) -> None:
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


# Connections that the server ended while they were idle


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_write_after_the_server_ended_the_idle_connection_is_stored_once(
    manager: SessionManager, plain: PlainClient
) -> None:
    key = manager.get_or_create_main("main").key
    for number in range(1, 11):
        cut_connections(plain)
        assert manager.send_message(key, "Hello").seq == number

    assert plain("SELECT count(*) FROM messages") == [(10,)]


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_write_after_an_idle_session_timeout_is_stored_once(url: str, plain: PlainClient) -> None:
    impatient = make_url(url).update_query_dict({"options": "-c idle_session_timeout=100"})
    with SessionManager(impatient) as manager:
        key = manager.get_or_create_main("main").key
        wait_until(lambda: plain(OTHERS) == [])

        assert manager.send_message(key, "Hello").seq == 1

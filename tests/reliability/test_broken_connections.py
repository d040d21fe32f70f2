"""Connections that break during a call: what the caller is told, what is stored, and that the manager recovers."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
from sqlalchemy import make_url

from sessions_db import DatabaseUnavailable, NewMessage, SessionManager
from tests.support.client import PlainClient
from tests.support.databases import OTHERS
from tests.support.retrying import RetryingWriters
from tests.support.servers import Server, postgres
from tests.support.threads import run_together
from tests.support.wire import Wire

Open = Callable[..., SessionManager]

# Each may be repeated, and adds as many rows as given here.
KEYED_WRITES: dict[str, tuple[Callable[[SessionManager, str], object], dict[str, int]]] = {
    "add_message": (
        lambda manager, key: manager.add_message(key, "user", "Hello", idempotency_key="once"),
        {"messages": 1},
    ),
    "add_messages": (
        lambda manager, key: manager.add_messages(
            key, [NewMessage("user", str(number), idempotency_key=str(number)) for number in range(20)]
        ),
        {"messages": 20},
    ),
    "spawn_subagent": (
        lambda manager, key: manager.spawn_subagent("main", "Test", "label", key, idempotency_key="once"),
        {"sessions": 2, "labels": 1},
    ),
    "send_message": (
        lambda manager, key: manager.send_message(key, "Hello", idempotency_key="once"),
        {"messages": 1},
    ),
    "fork_session": (
        lambda manager, key: manager.fork_session(key, 0, label="label", idempotency_key="once"),
        {"sessions": 2, "labels": 1},
    ),
    "update_session": (
        lambda manager, key: manager.update_session(key, metadata={"a": 1}, label="label").metadata,
        {"sessions": 1, "labels": 1},
    ),
    "get_or_create": (lambda manager, _: manager.get_or_create("main", "talk").key, {"sessions": 2}),
    "get_or_create_main": (lambda manager, _: manager.get_or_create_main("other").key, {"sessions": 2}),
    "complete_session": (lambda manager, key: manager.complete_session(key) or True, {"sessions": 1}),
}


@pytest.fixture
def backend() -> str:
    return "postgresql"


@pytest.fixture(params=["sync", "async"])
def face(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def wire(url: str) -> Iterator[Wire]:
    with Wire(url) as proxy:
        yield proxy


@pytest.fixture
def manager(open_manager: Open, wire: Wire) -> Iterator[SessionManager]:
    """A manager with one connection, through the proxy."""
    with open_manager(wire.url, pool_size=1) as opened:
        yield opened


@pytest.fixture
def key(manager: SessionManager) -> str:
    return manager.get_or_create_main("main").key


def rows(plain: PlainClient) -> dict[str, int]:
    return {
        table: count
        for table in ("sessions", "messages", "labels")
        for ((count,),) in [plain(f"SELECT count(*) FROM {table}")]
        if count
    }


# A lost answer or request


@pytest.mark.parametrize("abruptly", [True, False], ids=["reset", "closed"])
@pytest.mark.parametrize(("lost", "stored"), [("request", 0), ("answer", 1)])
def test_append_whose_connection_was_cut_is_sent_once_and_its_outcome_unknown(
    wire: Wire, manager: SessionManager, key: str, plain: PlainClient, lost: str, stored: int, abruptly: bool
) -> None:
    before = wire.round_trips
    cut = wire.cut_request if lost == "request" else wire.cut_answer
    cut(abruptly=abruptly)

    with pytest.raises(DatabaseUnavailable) as caught:
        manager.send_message(key, "Hello")

    assert caught.value.outcome_unknown
    assert wire.round_trips - before == 1
    assert rows(plain).get("messages", 0) == stored
    assert manager.send_message(key, "The manager goes on").seq == stored + 1


@pytest.mark.parametrize("write", KEYED_WRITES)
@pytest.mark.parametrize("lost", ["request", "answer"])
def test_write_with_an_idempotency_key_cut_anywhere_is_stored_once_when_repeated(
    wire: Wire, manager: SessionManager, plain: PlainClient, write: str, lost: str, figures: Counter[str]
) -> None:
    operation, stored = KEYED_WRITES[write]
    cut = wire.cut_request if lost == "request" else wire.cut_answer
    for number in itertools.count(1):
        plain("DELETE FROM sessions")
        key = manager.get_or_create_main("main").key
        cuts = wire.cuts
        cut(number)
        try:
            outcome = operation(manager, key)
        except DatabaseUnavailable:
            outcome = operation(manager, key)
        cut(1_000_000)
        if wire.cuts == cuts:
            break

        figures[f"{lost}s lost"] += 1
        assert operation(manager, key) == outcome
        assert rows(plain) == {"sessions": 1} | stored

    # It crosses the wire more than once, and each of its answers was cut.
    assert number > 1


def write_a_block(manager: SessionManager, key: str) -> None:
    with manager.transaction() as tx:
        child = tx.spawn_subagent("main", "Test", "label", key)
        tx.add_messages(child, [NewMessage("user", "Hello")] * 3)
        tx.send_message(key, "Spawned")


@pytest.mark.parametrize("lost", ["request", "answer"])
def test_block_cut_anywhere_is_stored_whole_or_not_at_all_and_a_known_outcome_is_true(
    wire: Wire, manager: SessionManager, plain: PlainClient, lost: str
) -> None:
    cut = wire.cut_request if lost == "request" else wire.cut_answer
    nothing, all_of_it = {"sessions": 1}, {"sessions": 2, "messages": 4, "labels": 1}
    outcomes = Counter[str]()
    for number in itertools.count(1):
        plain("DELETE FROM sessions")
        key = manager.get_or_create_main("main").key
        cuts = wire.cuts
        cut(number)
        try:
            write_a_block(manager, key)
        except DatabaseUnavailable as error:
            outcome = "unknown" if error.outcome_unknown else "undone"
        else:
            outcome = "done"
        cut(1_000_000)
        if wire.cuts == cuts:
            break

        outcomes[outcome] += 1
        found = rows(plain)
        assert found == nothing or (found == all_of_it and outcome != "undone")
        assert found == all_of_it or outcome != "done"

    assert outcomes.keys() == {"unknown", "undone", "done"}


def test_read_whose_answer_was_lost_is_retried_without_the_caller_noticing(
    wire: Wire, manager: SessionManager, key: str
) -> None:
    manager.send_message(key, "Hello")
    reads: list[Callable[[], object]] = [
        lambda: manager.get(key),
        lambda: manager.history(key),
        lambda: manager.list(message_limit=1),
        lambda: manager.descendants(key),
    ]
    for read in reads:
        expected = read()
        for cut in (wire.cut_answer, wire.cut_request):
            cuts = wire.cuts
            cut()

            assert read() == expected
            assert wire.cuts == cuts + 1


# Connections that the server ends, under load


def test_appends_continue_and_are_stored_once_while_connections_are_cut(
    open_manager: Open, wire: Wire, plain: PlainClient, full: bool, figures: Counter[str]
) -> None:
    with open_manager(wire.url, message_cap=1_000_000, pool_size=4) as manager:
        keys = [manager.spawn_subagent("main", "Test") for _ in range(3)]
        with RetryingWriters(manager, keys, figures) as writers:
            for turn in range(500 if full else 20):
                writers.go_on(20)
                if turn % 2:
                    wire.cut_answer()
                    continue
                cut = plain(f"SELECT pg_terminate_backend(pid) FROM ({OTHERS}) AS others ORDER BY random() LIMIT 2")
                figures["connections ended by the server"] += len(cut)
            writers.go_on(20)

        figures["answers lost"] += wire.cuts
        writers.check(plain)
    assert wire.cuts


@pytest.mark.parametrize("noticed_by", ["an append", "a block"])
def test_connections_that_the_server_closed_while_idle_cost_at_most_one_call(
    open_manager: Open, url: str, plain: PlainClient, noticed_by: str
) -> None:
    waiting = " FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with open_manager(url, pool_size=3) as manager, closing(PlainClient(url)) as locker:
        key = manager.get_or_create_main("main").key
        locker("BEGIN")
        locker("LOCK TABLE sessions")
        threads = [threading.Thread(target=manager.get, args=(key,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        while len(found := plain(f"SELECT pid {waiting}")) < len(threads):
            time.sleep(0.01)
        locker("COMMIT")
        for thread in threads:
            thread.join()
        for (pid,) in found:
            assert plain(f"SELECT pg_terminate_backend({pid}, 30000)") == [(True,)]

        refused = 0
        if noticed_by == "a block":
            with manager.transaction() as tx:
                assert tx.list()
        for _ in range(4):
            try:
                manager.send_message(key, "Hello")
            except DatabaseUnavailable:
                refused += 1

        assert refused <= (noticed_by == "an append")
        assert rows(plain)["messages"] == 4 - refused


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with postgres() as running:
        yield running


@pytest.mark.parametrize("how", ["fast", "immediate", "kill"])
def test_appends_continue_and_are_stored_once_while_the_server_restarts(
    open_manager: Open, server: Server, face: str, how: str, full: bool, figures: Counter[str]
) -> None:
    database = f"restart_{how}_{face}_{full}".lower()
    server.execute(f"CREATE DATABASE {database}")
    with open_manager(server.url(database), message_cap=1_000_000, pool_size=4) as manager:
        keys = [manager.spawn_subagent("main", "Test") for _ in range(3)]
        with RetryingWriters(manager, keys, figures) as writers:
            for _ in range(20 if full else 2):
                writers.go_on(50)
                if how == "kill":
                    server.kill()
                else:
                    server.stop(how)
                server.start()
                figures["restarts"] += 1
            writers.go_on(50)

        plain = PlainClient(server.url(database))
        writers.check(plain)
        plain.close()


def test_server_that_is_down_is_reported_within_the_budget_and_found_again(
    open_manager: Open, server: Server, face: str
) -> None:
    server.execute(f"CREATE DATABASE down_{face}")
    with open_manager(server.url(f"down_{face}"), retry_budget_s=0.5) as manager:
        key = manager.get_or_create_main("main").key
        server.stop()
        calls: list[Callable[[], object]] = [
            manager.list,
            lambda: manager.spawn_subagent("main", "Test"),
            lambda: manager.get_or_create_main("other"),
            lambda: manager.send_message(key, "Hello"),
        ]
        for call in calls:
            started = time.monotonic()
            with pytest.raises(DatabaseUnavailable) as caught:
                call()
            assert time.monotonic() - started < 30
        # The last call sent nothing: there was no connection left to break.
        assert not caught.value.outcome_unknown
        assert caught.value.waited_s >= 0.5
        server.start()

        assert manager.send_message(key, "Hello").seq == 1
        assert [session.key for session in manager.list()] == [key]


# What the server refuses to wait for


@pytest.mark.parametrize(
    ("option", "reason"),
    [("statement_timeout", "statement timeout"), ("lock_timeout", "lock timeout")],
)
def test_append_that_waits_too_long_for_a_row_fails_and_stores_nothing(
    open_manager: Open, url: str, plain: PlainClient, option: str, reason: str
) -> None:
    limited = make_url(url).update_query_dict({"options": f"-c {option}=100"})
    with open_manager(limited, retry_budget_s=0.2, pool_size=1) as manager:
        key = manager.get_or_create_main("main").key
        plain("BEGIN")
        plain("SELECT * FROM sessions FOR UPDATE")
        started = time.monotonic()

        with pytest.raises(DatabaseUnavailable, match=reason) as caught:
            manager.send_message(key, "Hello")

        assert time.monotonic() - started < 30
        assert not caught.value.outcome_unknown
        plain("ROLLBACK")
        assert manager.send_message(key, "Hello").seq == 1


def test_block_that_the_server_ended_for_idling_fails_and_stores_nothing(
    open_manager: Open, url: str, plain: PlainClient
) -> None:
    limited = make_url(url).update_query_dict({"options": "-c idle_in_transaction_session_timeout=50"})
    with open_manager(limited, pool_size=1) as manager:
        key = manager.get_or_create_main("main").key

        def write() -> None:
            with manager.transaction() as tx:
                tx.send_message(key, "Hello")
                gone = "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction'"
                while plain(gone + " AND datname = current_database()") != [(0,)]:
                    pass
                tx.send_message(key, "Hello")

        with pytest.raises(DatabaseUnavailable) as caught:
            write()

        assert not caught.value.outcome_unknown
        assert manager.send_message(key, "Hello").seq == 1


def test_exhausted_pool_is_reported_and_works_again_once_a_connection_is_free(open_manager: Open, url: str) -> None:
    with open_manager(url, retry_budget_s=0.2, pool_size=2) as manager:
        keys = [manager.get_or_create_main(agent).key for agent in ("a", "b")]
        with manager.transaction() as first, manager.transaction() as second:
            first.send_message(keys[0], "Hello")
            second.send_message(keys[1], "Hello")
            refused: list[DatabaseUnavailable] = []

            def read() -> None:
                with pytest.raises(DatabaseUnavailable, match="connections are in use, all 2 of") as caught:
                    manager.list()
                refused.append(caught.value)

            run_together(threading.Thread(target=read) for _ in range(8))

            assert len(refused) == 8
            assert not any(error.outcome_unknown for error in refused)

        assert [session.message_count for session in manager.list()] == [1, 1]


def test_role_at_its_connection_limit_is_waited_for(open_manager: Open, server: Server, face: str) -> None:
    name = f"limited_{face}"
    server.execute(f"CREATE ROLE {name} LOGIN CONNECTION LIMIT 1")
    server.execute(f"CREATE DATABASE {name} OWNER {name}")
    url = server.url(name).replace("postgres@", f"{name}@")
    other = PlainClient(url)
    leave = threading.Timer(0.2, other.close)
    leave.start()

    with open_manager(url, retry_budget_s=30, pool_size=1) as manager:
        assert manager.get_or_create_main("main").message_count == 0

    leave.join()

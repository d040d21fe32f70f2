"""Waiting for messages and for the ends of sessions."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from typing import Any, TypeVar, cast

import pytest

from sessions_db import (
    DatabaseUnavailable,
    InvalidInput,
    ManagerClosed,
    Message,
    NewMessage,
    Session,
    SessionManager,
    SessionNotFound,
)
from tests.support.blocking import Blocking
from tests.support.client import PlainClient
from tests.support.servers import wait_until

_T = TypeVar("_T")

Start = Callable[[Callable[[], _T]], "Future[_T]"]

# Longer than any test takes: who waits so long was not woken.
LONG_S = 100

# A poll that finds nothing in time: whoever is woken was woken by the manager itself.
NO_POLLS = 1000


@pytest.fixture
def start() -> Iterator[Start[object]]:
    """A function that runs a call on a thread."""
    with ThreadPoolExecutor(16) as threads:
        yield threads.submit


def board(manager: Any) -> Mapping[str, Mapping[Any, int]]:
    """The sessions that somebody waits for, and who does."""
    opened = manager._manager._manager if isinstance(manager, Blocking) else manager
    return cast(SessionManager, opened)._board.entries


def waits(manager: SessionManager, *keys: str) -> None:
    """Return once somebody waits for these sessions, and has looked."""
    wait_until(lambda: board(manager).keys() >= {*keys})
    time.sleep(0.05)


def contents(messages: list[Message]) -> list[str]:
    return [message.content for message in messages]


@pytest.fixture
def woken(open_manager: Callable[..., SessionManager], url: str) -> Iterator[SessionManager]:
    """A manager whose callers only wake each other."""
    with open_manager(url, poll_interval=NO_POLLS) as manager:
        yield manager


# What is there already


def test_messages_that_are_there_come_at_once(manager: SessionManager) -> None:
    key = manager.spawn_subagent("main", "Test")
    manager.add_messages(key, [NewMessage(role, role) for role in ("user", "tool", "assistant")])

    assert contents(manager.wait_for_messages(key, 0, timeout=LONG_S)) == ["user", "tool", "assistant"]
    assert contents(manager.wait_for_messages(key, 2, timeout=None)) == ["assistant"]
    assert manager.wait_for_messages(key, 1, timeout=0) == manager.history(key, include_tools=True, after_seq=1)


def test_wait_ends_at_its_timeout(manager: SessionManager) -> None:
    key, other = manager.spawn_subagent("main", "Test"), manager.spawn_subagent("main", "Test")
    manager.stop_session(other)

    assert manager.wait_for_messages(key, 0, timeout=0) == []
    assert manager.wait_for_messages(key, 0, timeout=0.01) == []
    assert [session.key for session in manager.wait_for_end([key, other], timeout=0.01)] == [other]
    assert board(manager) == {}


def test_ended_session_is_not_waited_for(manager: SessionManager) -> None:
    key = manager.spawn_subagent("main", "Test")
    manager.send_message(key, "one")
    manager.complete_session(key, "done")

    assert contents(manager.wait_for_messages(key, 0, timeout=LONG_S)) == ["one"]
    assert manager.wait_for_messages(key, 1, timeout=None) == []
    assert contents(list(manager.follow(key, 0))) == ["one"]
    (session,) = manager.wait_for_end([key, key], timeout=None)
    assert (session.status, session.end_reason, session.messages) == ("completed", "done", ())


def test_unknown_session_is_told_from_one_that_has_nothing_new(manager: SessionManager) -> None:
    with pytest.raises(SessionNotFound):
        manager.wait_for_messages("agent:nobody:main", 0, timeout=LONG_S)
    with pytest.raises(SessionNotFound):
        next(manager.follow("agent:nobody:main", 0))
    assert manager.wait_for_end(["agent:nobody:main"], timeout=LONG_S) == []
    assert manager.wait_for_end([], timeout=LONG_S) == []


@pytest.mark.parametrize(
    ("argument", "call"),
    [
        ("key", lambda m: m.wait_for_messages(1, 0, timeout=1)),
        ("after_seq", lambda m: m.wait_for_messages("a", -1, timeout=1)),
        ("timeout", lambda m: m.wait_for_messages("a", 0, timeout=-1)),
        ("timeout", lambda m: m.wait_for_end(["a"], timeout="1")),
        ("keys", lambda m: m.wait_for_end("a", timeout=1)),
        ("keys[1]", lambda m: m.wait_for_end(["a", None], timeout=1)),
        ("after_seq", lambda m: m.follow("a", None)),
    ],
)
def test_wrong_argument_is_refused_before_anything_is_waited_for(
    manager: SessionManager, argument: str, call: Callable[[SessionManager], object]
) -> None:
    with pytest.raises(InvalidInput) as caught:
        call(manager)

    assert caught.value.argument == argument


@pytest.mark.parametrize("interval", [0, 0.0001, True, "1"])
def test_poll_interval_is_a_number_of_seconds(url: str, interval: float) -> None:
    with pytest.raises(InvalidInput, match="poll_interval"):
        SessionManager(url, poll_interval=interval)


# Callers of the same manager


def in_a_transaction(manager: SessionManager, key: str) -> None:
    with manager.transaction() as tx:
        tx.send_message(key, "Hello")


APPENDS: dict[str, Callable[[SessionManager, str], object]] = {
    "send_message": lambda manager, key: manager.send_message(key, "Hello"),
    "add_message": lambda manager, key: manager.add_message(key, "user", "Hello", idempotency_key="1"),
    "batch": lambda manager, key: manager.add_messages(key, [NewMessage("user", "Hello")]),
    "batch with keys": lambda manager, key: manager.add_messages(key, [NewMessage("user", "Hello", None, None, "1")]),
    "transaction": in_a_transaction,
}


@pytest.mark.parametrize("append", APPENDS)
def test_append_of_the_same_manager_wakes_those_who_wait(
    woken: SessionManager, start: Start[object], append: str
) -> None:
    key, other = woken.spawn_subagent("main", "Test"), woken.spawn_subagent("main", "Test")
    waiting = [start(lambda: woken.wait_for_messages(key, 0, timeout=LONG_S)) for _ in range(3)]
    ends = start(lambda: woken.wait_for_end([key], timeout=LONG_S))
    elsewhere = start(lambda: woken.wait_for_messages(other, 0, timeout=LONG_S))
    waits(woken, key, other)

    APPENDS[append](woken, key)

    for found in waiting:
        assert contents(found.result()) == ["Hello"]  # type: ignore[arg-type]
    assert not ends.done()
    assert not elsewhere.done()
    woken.stop_session(key)
    woken.stop_session(other)


def in_a_transaction_that_ends(manager: SessionManager, key: str) -> None:
    with manager.transaction() as tx:
        tx.stop_session(key)


ENDS: dict[str, Callable[[SessionManager, str], object]] = {
    "complete_session": lambda manager, key: manager.complete_session(key),
    "timeout_idle": lambda manager, _: manager.timeout_idle(timedelta(milliseconds=1)),
    "transaction": in_a_transaction_that_ends,
}


@pytest.mark.parametrize("end", ENDS)
def test_end_by_the_same_manager_wakes_those_who_wait(woken: SessionManager, start: Start[object], end: str) -> None:
    keys = [woken.spawn_subagent("main", "Test") for _ in range(3)]
    messages = start(lambda: woken.wait_for_messages(keys[0], 0, timeout=LONG_S))
    ended = start(lambda: woken.wait_for_end(keys, timeout=LONG_S))
    waits(woken, *keys)

    for key in keys:
        ENDS[end](woken, key)

    assert messages.result() == []
    sessions: list[Session] = ended.result()  # type: ignore[assignment]
    assert [session.key for session in sessions] == keys
    assert all(session.finished_ms for session in sessions)


def test_deletion_ends_what_waits_for_the_session(woken: SessionManager, start: Start[object]) -> None:
    key = woken.spawn_subagent("main", "Test")
    messages = start(lambda: woken.wait_for_messages(key, 0, timeout=LONG_S))
    ended = start(lambda: woken.wait_for_end([key], timeout=LONG_S))
    waits(woken, key)

    woken.delete_session(key)

    with pytest.raises(SessionNotFound):
        messages.result()
    assert ended.result() == []


def test_follower_gets_every_message_once_and_in_order(woken: SessionManager, start: Start[object]) -> None:
    key = woken.spawn_subagent("main", "Test", message_cap=1000)
    woken.send_message(key, "first")
    followed = start(lambda: list(woken.follow(key, 1)))

    def talk() -> None:
        for number in range(50):
            woken.send_message(key, str(number))

    talks = [start(talk) for _ in range(3)]
    for talk_is_over in talks:
        talk_is_over.result()
    woken.send_message(key, "last")
    woken.complete_session(key)

    messages: list[Message] = followed.result()  # type: ignore[assignment]
    assert [message.seq for message in messages] == [*range(2, 153)]
    assert messages[-1].content == "last"


def test_append_that_was_rolled_back_wakes_nobody(woken: SessionManager, start: Start[object]) -> None:
    key = woken.spawn_subagent("main", "Test")
    waiting = start(lambda: woken.wait_for_messages(key, 0, timeout=LONG_S))
    waits(woken, key)
    with suppress(KeyError), woken.transaction() as tx:
        tx.send_message(key, "undone")
        raise KeyError

    assert not waiting.done()
    woken.send_message(key, "Hello")
    assert contents(waiting.result()) == ["Hello"]  # type: ignore[arg-type]


# Others


def test_what_others_commit_is_found(manager: SessionManager, plain: PlainClient, start: Start[object]) -> None:
    keys = [manager.spawn_subagent("main", "Test") for _ in range(4)]
    messages = start(lambda: manager.wait_for_messages(keys[0], 0, timeout=LONG_S))
    silent = start(lambda: manager.wait_for_messages(keys[1], 0, timeout=LONG_S))
    deleted = start(lambda: manager.wait_for_messages(keys[2], 0, timeout=LONG_S))
    ended = start(lambda: manager.wait_for_end(keys[1:], timeout=LONG_S))
    waits(manager, *keys)

    plain(
        "INSERT INTO messages (session_key, seq, role, content, timestamp_ms) VALUES (?, 1, 'user', 'Hi', 1)", keys[0]
    )
    assert contents(messages.result()) == ["Hi"]  # type: ignore[arg-type]
    assert not silent.done()
    assert not ended.done()
    plain("DELETE FROM sessions WHERE key = ?", keys[2])
    with pytest.raises(SessionNotFound):
        deleted.result()
    plain("UPDATE sessions SET status = 'error', finished_ms = created_ms WHERE key IN (?, ?)", keys[1], keys[3])

    assert silent.result() == []
    sessions: list[Session] = ended.result()  # type: ignore[assignment]
    assert [(session.key, session.status) for session in sessions] == [(keys[1], "error"), (keys[3], "error")]


def test_another_manager_is_heard_by_one_that_only_reads(
    manager: SessionManager, url: str, open_manager: Callable[..., SessionManager], start: Start[object]
) -> None:
    key = manager.spawn_subagent("main", "Test")
    with open_manager(url, read_only=True) as reader:
        waiting = start(lambda: reader.wait_for_messages(key, 0, timeout=LONG_S))
        waits(reader, key)
        manager.send_message(key, "Hello")

        assert contents(waiting.result()) == ["Hello"]  # type: ignore[arg-type]


def test_statement_of_the_callers_own_is_found_in_a_database_in_memory(start: Start[object]) -> None:
    with SessionManager("sqlite://") as manager:
        key = manager.spawn_subagent("main", "Test")
        waiting = start(lambda: manager.wait_for_messages(key, 0, timeout=LONG_S))
        waits(manager, key)
        with manager.transaction() as tx:
            tx.connection.exec_driver_sql(
                "INSERT INTO messages (session_key, seq, role, content, timestamp_ms)"
                f" VALUES ('{key}', 1, 'user', 'Hello', 1)"
            )
        assert contents(waiting.result()) == ["Hello"]  # type: ignore[arg-type]


# The end of the manager


def test_closing_ends_what_waits(open_manager: Callable[..., SessionManager], url: str, start: Start[object]) -> None:
    with open_manager(url) as manager:
        key = manager.spawn_subagent("main", "Test")
        calls: list[Callable[[], object]] = [
            lambda: manager.wait_for_messages(key, 0, timeout=LONG_S),
            lambda: manager.wait_for_end([key], timeout=None),
            lambda: next(manager.follow(key, 0)),
        ]
        waiting = [start(call) for call in calls]
        waits(manager, key)
        wait_until(lambda: len(board(manager)[key]) == 3)
        manager.close()

        for call in waiting:
            with pytest.raises(ManagerClosed):
                call.result()
        with pytest.raises(ManagerClosed):
            manager.wait_for_messages(key, 0, timeout=0)


def test_database_that_stays_away_ends_what_waits(
    open_manager: Callable[..., SessionManager], url: str, plain: PlainClient, start: Start[object]
) -> None:
    with open_manager(url, retry_budget_s=0.1) as manager:
        key = manager.spawn_subagent("main", "Test")
        waiting = start(lambda: manager.wait_for_messages(key, 0, timeout=LONG_S))
        waits(manager, key)
        plain("ALTER TABLE sessions RENAME TO elsewhere")
        plain("CREATE TABLE other (key TEXT)")

        with pytest.raises(Exception, match="sessions") as caught:
            waiting.result()
        plain("DROP TABLE other")
        plain("ALTER TABLE elsewhere RENAME TO sessions")

    assert not isinstance(caught.value, DatabaseUnavailable)

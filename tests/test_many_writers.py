"""Appends that are stored together: each gets its own answer, and they wait only for what they must."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from typing import Any, cast

import pytest
import sqlalchemy as sa

from sessions_db import (
    AsyncSessionManager,
    DatabaseUnavailable,
    IdempotencyConflict,
    Message,
    NewMessage,
    SessionManager,
    SessionNotActive,
    SessionNotFound,
    StatementRefused,
)
from sessions_db.group_commit.lanes import Lane
from sessions_db.group_commit.storing import GroupCommit
from sessions_db.operations.appending_together import Append
from tests.support.blocking import Blocking
from tests.support.client import PlainClient
from tests.support.locks import wait_for_lock


@pytest.fixture(params=["sync", "async"])
def face(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(64) as executor:
        yield executor


def group_commit_of(manager: SessionManager) -> GroupCommit:
    inner = cast(Blocking, manager)._manager._manager if isinstance(manager, Blocking) else manager
    assert inner is not None
    return inner._group_commit


@contextmanager
def occupied(manager: SessionManager) -> Iterator[None]:
    """Have the block's appends wait, and then go together."""
    with ExitStack() as stack:
        for lane in group_commit_of(manager)._lanes:
            token = lane.acquire(timeout=5)
            assert token is not None
            stack.callback(lane.release, token)
        yield


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def together(
    manager: SessionManager, threads: ThreadPoolExecutor, calls: Sequence[Callable[[], Any]]
) -> list[Future[Any]]:
    """The outcomes of the calls, which wait for each other in this order and are stored in groups."""
    futures = []
    with occupied(manager):
        for number, call in enumerate(calls, 1):
            futures.append(threads.submit(call))
            wait_until(lambda number=number: group_commit_of(manager).waiting == number)  # type: ignore[misc]
    return futures


def contents(manager: SessionManager, key: str) -> list[str]:
    return [message.content for message in manager.history(key, include_tools=True) or []]


def test_ended_session_among_those_that_must_be_active_is_refused_alone(
    manager: SessionManager, threads: ThreadPoolExecutor
) -> None:
    active, ended = (manager.get_or_create_main(name).key for name in ("active", "ended"))
    manager.complete_session(ended)

    first, refused, second = together(
        manager,
        threads,
        [
            lambda: manager.send_message(active, "1"),
            lambda: manager.send_message(ended, "2"),
            lambda: manager.send_message(active, "3"),
        ],
    )

    assert (first.result().seq, second.result().seq) == (1, 2)
    assert isinstance(refused.exception(), SessionNotActive)
    assert contents(manager, ended) == []


def test_appends_of_no_messages_are_answered_together(manager: SessionManager, threads: ThreadPoolExecutor) -> None:
    key = manager.get_or_create_main("main").key

    outcomes = together(manager, threads, [lambda: manager.add_messages(key, [])] * 2)

    assert [outcome.result() for outcome in outcomes] == [[], []]


def test_each_append_gets_its_own_answer(manager: SessionManager, threads: ThreadPoolExecutor) -> None:
    active = manager.get_or_create_main("active").key
    ended = manager.get_or_create_main("ended").key
    manager.complete_session(ended)
    known = manager.add_message(active, "user", "known", idempotency_key="k1")

    outcomes = together(
        manager,
        threads,
        [
            lambda: manager.send_message(active, "1"),
            lambda: manager.send_message("agent:nobody:main", "2"),
            lambda: manager.send_message(ended, "3"),
            lambda: manager.add_message(ended, "assistant", "4", metadata={"a": [1]}),
            lambda: manager.add_message(active, "user", "known", idempotency_key="k1"),
            lambda: manager.add_message(active, "user", "other", idempotency_key="k1"),
            lambda: manager.add_message(active, "user", "new", idempotency_key="k2"),
            lambda: manager.add_message(active, "user", "new", idempotency_key="k2"),
            lambda: manager.add_messages(active, [NewMessage("tool", "5", "t"), NewMessage("user", "6")]),
            lambda: manager.send_message(active, "7"),
        ],
    )

    assert outcomes[0].result().content == "1"
    assert isinstance(outcomes[1].exception(), SessionNotFound)
    assert isinstance(outcomes[2].exception(), SessionNotActive)
    assert outcomes[3].result().metadata == {"a": [1]}
    assert outcomes[4].result() == known
    assert isinstance(outcomes[5].exception(), IdempotencyConflict)
    assert outcomes[6].result() == outcomes[7].result()
    assert [message.content for message in outcomes[8].result()] == ["5", "6"]
    assert contents(manager, active) == ["known", "1", "new", "5", "6", "7"]
    assert contents(manager, ended) == ["4"]
    told: list[Message] = [outcomes[index].result() for index in (0, 6, 9)] + outcomes[8].result() + [known]
    assert sorted(told) == manager.history(active, include_tools=True)


def test_append_that_a_trigger_refuses_fails_alone(
    open_manager: Callable[..., SessionManager], own_url: str, threads: ThreadPoolExecutor
) -> None:
    with open_manager(own_url) as manager:
        key = manager.get_or_create_main("main").key
        client = PlainClient(own_url)
        if client.backend == "sqlite":
            client(
                "CREATE TRIGGER mine BEFORE INSERT ON messages WHEN NEW.content = 'bad' "
                "BEGIN SELECT RAISE(ABORT, 'not this one'); END"
            )
        else:
            client(
                "CREATE FUNCTION mine() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
                "IF NEW.content = 'bad' THEN RAISE EXCEPTION 'not this one' USING ERRCODE = '23514'; END IF; "
                "RETURN NEW; END $$"
            )
            client("CREATE TRIGGER mine BEFORE INSERT ON messages FOR EACH ROW EXECUTE FUNCTION mine()")
        client.close()
        texts = ["1", "bad", "2", "bad", "3"]

        outcomes = together(
            manager,
            threads,
            [lambda text=text: manager.send_message(key, text) for text in texts],  # type: ignore[misc]
        )

        assert [isinstance(outcome.exception(), StatementRefused) for outcome in outcomes] == [
            text == "bad" for text in texts
        ]
        assert contents(manager, key) == ["1", "2", "3"]


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_locked_session_delays_no_other_and_keeps_its_order(
    manager: SessionManager, plain: PlainClient, threads: ThreadPoolExecutor
) -> None:
    locked = manager.get_or_create_main("locked").key
    others = [manager.get_or_create_main(f"other-{number}").key for number in range(8)]
    plain("BEGIN")
    plain("SELECT 1 FROM sessions WHERE key = ? FOR UPDATE", locked)

    calls = [lambda n=n: manager.send_message(locked, str(n)) for n in range(10)]
    waiting = together(manager, threads, calls)
    for key in others:
        began = time.monotonic()
        assert manager.send_message(key, "Hello").seq == 1
        assert time.monotonic() - began < 5
    assert not any(outcome.done() for outcome in waiting)
    plain("COMMIT")

    assert [outcome.result(timeout=10).content for outcome in waiting] == [str(n) for n in range(10)]
    assert contents(manager, locked) == [str(n) for n in range(10)]
    # Soon they go together with those of sessions that are not locked again.
    lanes: list[Lane] = group_commit_of(manager)._lanes
    wait_until(lambda: manager.send_message(locked, "x").seq > 0 and not any(lane._aside for lane in lanes))


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_session_that_stays_locked_delays_no_other_that_was_locked(
    manager: SessionManager, plain: PlainClient, url: str, threads: ThreadPoolExecutor
) -> None:
    staying, other = (manager.get_or_create_main(name).key for name in ("a", "b"))
    with closing(PlainClient(url)) as client:
        for holder, key in ((plain, staying), (client, other)):
            holder("BEGIN")
            holder("SELECT 1 FROM sessions WHERE key = ? FOR UPDATE", key)
        waiting = together(
            manager,
            threads,
            [lambda key=key, n=n: manager.send_message(key, str(n)) for n in range(4) for key in (staying, other)],  # type: ignore[misc]
        )
        wait_for_lock(plain)
        client("COMMIT")

    assert [outcome.result(timeout=10).content for outcome in waiting[1::2]] == [str(n) for n in range(4)]
    assert manager.send_message(other, "4").seq == 5
    assert not any(outcome.done() for outcome in waiting[::2])
    plain("COMMIT")
    assert [outcome.result(timeout=10).seq for outcome in waiting[::2]] == [1, 2, 3, 4]


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_locked_sessions_leave_connections_to_the_others(
    manager: SessionManager, plain: PlainClient, threads: ThreadPoolExecutor
) -> None:
    keys = [manager.get_or_create_main(f"locked-{number}").key for number in range(20)]
    free = manager.get_or_create_main("free").key
    plain("BEGIN")
    plain("SELECT 1 FROM sessions WHERE key LIKE 'agent:locked%' FOR UPDATE")

    waiting = [threads.submit(manager.send_message, key, "Hello") for key in keys]
    wait_until(lambda: group_commit_of(manager)._calls.connections.status().in_use >= 8)
    for _ in range(5):
        began = time.monotonic()
        manager.send_message(free, "Hello")
        assert time.monotonic() - began < 5
    plain("COMMIT")

    assert [outcome.result(timeout=10).seq for outcome in waiting] == [1] * len(keys)


def test_append_that_waits_too_long_is_never_stored(
    open_manager: Callable[..., SessionManager], url: str, threads: ThreadPoolExecutor
) -> None:
    with open_manager(url, retry_budget_s=0.5) as manager:
        key = manager.get_or_create_main("main").key
        with occupied(manager):
            outcome = threads.submit(manager.send_message, key, "late")
            error = outcome.exception(timeout=5)
        assert isinstance(error, DatabaseUnavailable)
        assert (error.outcome_unknown, round(error.waited_s, 1)) == (False, 0.5)
        assert manager.send_message(key, "next").seq == 1
        assert contents(manager, key) == ["next"]


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_append_that_waits_behind_those_that_met_a_full_disk_is_told_of_it(
    open_manager: Callable[..., SessionManager], url: str, threads: ThreadPoolExecutor
) -> None:
    engine = sa.create_engine(url, pool_size=1, max_overflow=0)
    sa.event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA foreign_keys = ON"))

    def allow(pages: int) -> None:
        with engine.connect() as connection:
            connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")

    with open_manager(engine, retry_budget_s=0.5) as manager:
        key = manager.get_or_create_main("main").key
        allow(1)
        large = "x" * 100_000
        outcomes = together(manager, threads, [lambda: manager.send_message(key, large)] * 2)
        met = [str(outcome.exception()) for outcome in outcomes]
        with occupied(manager), pytest.raises(DatabaseUnavailable, match="disk is full"):
            manager.send_message(key, "Hello")
        allow(1_000_000)
        manager.send_message(key, large)
        with occupied(manager), pytest.raises(DatabaseUnavailable, match="other appends"):
            manager.send_message(key, "Hello")
    engine.dispose()

    assert all("disk is full" in each for each in met)


def test_appends_that_one_task_gathers_are_numbered_in_the_order_of_the_calls(url: str) -> None:
    async def gather() -> list[list[Message]]:
        async with AsyncSessionManager(url) as manager:
            keys = [
                (
                    await manager.get_or_create_main(
                        f"agent-{number}",
                    )
                ).key
                for number in range(4)
            ]
            calls = [manager.send_message(keys[number % 4], str(number)) for number in range(200)]
            await asyncio.gather(*calls)
            return [await manager.history(key) or [] for key in keys]

    for position, history in enumerate(asyncio.run(gather())):
        assert [message.content for message in history] == [str(number) for number in range(position, 200, 4)]


def test_ten_thousand_tasks_may_wait(url: str) -> None:
    async def crowd() -> int:
        async with AsyncSessionManager(url) as manager:
            keys = [(await manager.get_or_create_main(f"agent-{number}")).key for number in range(10)]
            before = threading.active_count()
            calls = [asyncio.create_task(manager.send_message(keys[n % 10], str(n))) for n in range(10_000)]
            await asyncio.sleep(0.05)
            assert threading.active_count() - before <= 4
            await asyncio.gather(*calls)
            sessions = [await manager.get(key) for key in keys]
            return sum(session.message_count for session in sessions if session)

    assert asyncio.run(crowd()) == 10_000


def test_closing_waits_for_the_appends_that_have_begun(url: str) -> None:
    async def close_early() -> tuple[list[object], int]:
        manager = AsyncSessionManager(url)
        key = (await manager.get_or_create_main("main")).key
        calls = [asyncio.create_task(manager.send_message(key, str(number))) for number in range(200)]
        await asyncio.sleep(0)
        await manager.close()
        stored = [call for call in await asyncio.gather(*calls, return_exceptions=True) if isinstance(call, Message)]
        async with AsyncSessionManager(url) as again:
            session = await again.get(key)
            assert session is not None
            return [*stored], session.message_count

    stored, count = asyncio.run(close_early())
    assert len(stored) == count == 200


def test_group_is_bounded(
    manager: SessionManager, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = manager.get_or_create_main("main").key
    monkeypatch.setattr("sessions_db.group_commit.lanes.MAX_GROUP_MESSAGES", 3)
    groups: list[int] = []
    stored = GroupCommit._store

    def count(*args: Any) -> None:
        groups.append(1)
        stored(*args)

    monkeypatch.setattr(GroupCommit, "_store", count)

    outcomes = together(
        manager,
        threads,
        [lambda n=n: manager.send_message(key, str(n)) for n in range(10)],  # type: ignore[misc]
    )

    assert [outcome.result().seq for outcome in outcomes] == list(range(1, 11))
    assert len(groups) == 4


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_key_that_comes_twice_in_a_group_while_another_transaction_stores_it_is_stored_once(
    manager: SessionManager, plain: PlainClient, url: str, threads: ThreadPoolExecutor
) -> None:
    key = manager.get_or_create_main("main").key

    def add() -> Message:
        return manager.add_message(key, "user", "said", idempotency_key="k")

    with SessionManager(url) as other, other.transaction() as tx:
        stored = tx.add_message(key, "user", "said", idempotency_key="k")
        outcomes = together(manager, threads, [add, add])
        wait_for_lock(plain)

    assert [outcome.result() for outcome in outcomes] == [stored, stored]


def test_stored_append_leaves_nothing_to_the_garbage_collector(
    manager: SessionManager, threads: ThreadPoolExecutor
) -> None:
    key = manager.get_or_create_main("collector").key  # other tests may have left appends to theirs
    other = manager.get_or_create_main("other").key

    def is_left() -> bool:
        return any(isinstance(item, Append) and item.key == key for item in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        for outcome in together(manager, threads, [lambda: manager.send_message(key, "text")] * 8):
            outcome.result()
        del outcome
        # An event loop keeps the last ones until the next one, or until their time is over.
        manager.send_message(other, "text")

        # The thread that stored them may still be about to return.
        wait_until(lambda: not is_left())
    finally:
        gc.enable()


def test_error_of_an_append_keeps_nothing_of_the_thread_that_stored_it(
    manager: SessionManager, threads: ThreadPoolExecutor
) -> None:
    key = manager.get_or_create_main("main").key
    calls = [lambda: manager.send_message(key, "1"), lambda: manager.send_message("agent:nobody:main", "2")]

    (_, failed) = together(manager, threads, calls)

    error = failed.exception(timeout=10)
    assert isinstance(error, SessionNotFound)
    names = {frame.f_code.co_name for frame, _ in traceback.walk_tb(error.__traceback__)}
    assert "_sent" not in names

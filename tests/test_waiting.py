"""What waiting costs, and how it goes on when connections break, tasks are cancelled and processes fork."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from functools import partial
from typing import Any

import pytest
from sqlalchemy import Engine, event

from sessions_db import AsyncSessionManager, DatabaseUnavailable, ManagerClosed, SessionManager
from sessions_db.aio.threads import Wakeups
from sessions_db.aio.waiting import _WaitingTask
from sessions_db.waiting import polling
from tests.support.client import PlainClient
from tests.support.servers import postgres, wait_until
from tests.support.statements import traced
from tests.support.wire import Wire

LONG_S = 100

MANY = 2_000

FIRST_MESSAGE = "INSERT INTO messages (session_key, seq, role, content, timestamp_ms) VALUES (?, 1, 'user', '', 1)"


@pytest.fixture
def start() -> Iterator[Callable[[Callable[[], Any]], Future[Any]]]:
    with ThreadPoolExecutor(8) as threads:
        yield threads.submit


Start = Callable[[Callable[[], Any]], "Future[Any]"]


def waits(manager: SessionManager, *keys: str) -> None:
    """Return once somebody waits for these sessions, and has been polled for."""
    wait_until(lambda: manager._board.entries.keys() >= {*keys} and manager._polling._thread is not None)
    time.sleep(0.3)


def polls() -> bool:
    return any(thread.name == "sessions-db-poll" for thread in threading.enumerate())


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_poll_is_one_round_trip_for_all_that_wait_and_none_when_nobody_does(
    url: str, monkeypatch: pytest.MonkeyPatch, start: Start
) -> None:
    monkeypatch.setattr(polling, "_STAYS_S", 0.5)
    with Wire(url) as wire, SessionManager(wire.url, poll_interval=0.02) as manager:
        keys = [manager.spawn_subagent("main", "Test") for _ in range(100)]
        ends = start(lambda: manager.wait_for_end(keys, timeout=LONG_S))
        messages = [start(partial(manager.wait_for_messages, key, 0, timeout=LONG_S)) for key in keys[:5]]
        waits(manager, *keys)
        before, began = wire.round_trips, time.monotonic()
        time.sleep(0.5)
        sent, seconds = wire.round_trips - before, time.monotonic() - began

        # Each poll begins after the one before it has ended.
        assert 1 <= sent <= seconds / 0.02 + 2
        for key in keys:
            manager.stop_session(key)
        assert len(ends.result()) == 100
        assert [waiting.result() for waiting in messages] == [[]] * 5
        # It stays for a moment, but asks nothing.
        time.sleep(0.1)
        before = wire.round_trips
        wait_until(lambda: not polls())
        assert wire.round_trips == before


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_sqlite_is_asked_only_after_somebody_has_committed(url: str, plain: PlainClient, start: Start) -> None:
    with SessionManager(url, poll_interval=0.01) as manager:
        key = manager.spawn_subagent("main", "Test")
        engine = manager._polling._engine
        assert engine is not None
        sent: list[str] = []
        with engine.connect() as conn, traced(conn.connection.driver_connection, lambda text, _: sent.append(text)):
            # It goes back to the pool, and the poll takes it from there.
            conn.close()
            waiting = start(lambda: manager.wait_for_messages(key, 0, timeout=LONG_S))
            waits(manager, key)
            wait_until(lambda: any("json_each" in text for text in sent))
            polled = len(sent)
            wait_until(lambda: len(sent) > polled + 5)
            idle = sum("json_each" in text for text in sent)
            plain(FIRST_MESSAGE, key)
            waiting.result()

        assert idle == 1
        assert 2 <= sum("json_each" in text for text in sent) <= 3


def test_thousands_of_tasks_wait_without_a_thread_for_each(url: str) -> None:
    async def listen() -> None:
        async with AsyncSessionManager(url) as manager, AsyncSessionManager(url) as other:
            async with manager.transaction() as tx:
                keys = [await tx.spawn_subagent("main", "Test") for _ in range(50)]
            waiting = [
                asyncio.create_task(manager.wait_for_messages(keys[number % 50], 0, timeout=LONG_S))
                for number in range(MANY)
            ]
            assert manager._manager is not None
            entries = manager._manager._board.entries
            await asyncio.to_thread(wait_until, lambda: sum(map(len, entries.values())) == MANY)
            threads = threading.active_count()
            for key in keys[:25]:
                await manager.send_message(key, "here")
            for key in keys[25:]:
                await other.send_message(key, "there")
            found = await asyncio.gather(*waiting)

            assert threads < 30
            assert [[message.content for message in messages] for messages in found] == [
                ["here"] if number % 50 < 25 else ["there"] for number in range(MANY)
            ]
            assert entries == {}

    asyncio.run(listen())


def test_cancelled_task_and_forsaken_iterator_wait_no_longer(url: str) -> None:
    async def cancel() -> None:
        async with AsyncSessionManager(url) as manager:
            key = await manager.spawn_subagent("main", "Test")
            assert manager._manager is not None
            entries = manager._manager._board.entries
            for moment in range(30):
                task = asyncio.create_task(manager.wait_for_messages(key, 0, timeout=None))
                await asyncio.sleep(moment / 5000)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert entries == {}
            followed = manager.follow(key, 0)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(followed), 0.05)
            assert entries == {}
            await manager.send_message(key, "Hello")
            assert [message.seq for message in await manager.wait_for_messages(key, 0, timeout=0)] == [1]

    asyncio.run(cancel())


def test_task_of_a_loop_that_was_stopped_does_not_keep_others_waiting(url: str) -> None:
    manager = AsyncSessionManager(url)
    key = asyncio.run(manager.spawn_subagent("main", "Test"))
    forsaken = asyncio.new_event_loop()
    task = forsaken.create_task(manager.wait_for_messages(key, 0, timeout=None))
    assert manager._manager is not None
    while not manager._manager._board.entries:
        forsaken.run_until_complete(asyncio.sleep(0.01))

    async def talk() -> int:
        waiting = asyncio.create_task(manager.wait_for_messages(key, 0, timeout=LONG_S))
        await asyncio.sleep(0.1)
        await manager.send_message(key, "Hello")
        return len(await waiting)

    assert asyncio.run(talk()) == 1
    task.cancel()
    forsaken.run_until_complete(asyncio.gather(task, return_exceptions=True))
    forsaken.close()
    asyncio.run(manager.close())


def test_task_that_is_woken_late_for_what_it_has_taken_goes_on_waiting() -> None:
    async def take() -> list[list[str]]:
        loop = asyncio.get_running_loop()
        waiter = _WaitingTask(Wakeups(), loop)
        waiter.put("first")
        taken = [await waiter.take(None)]
        loop.call_later(0.05, waiter.put, "second")
        return [*taken, await waiter.take(loop.time() + LONG_S)]

    assert asyncio.run(take()) == [["first"], ["second"]]


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_wait_that_begins_while_the_polling_ends_is_polled_for(
    url: str, plain: PlainClient, monkeypatch: pytest.MonkeyPatch, start: Start
) -> None:
    monkeypatch.setattr(polling, "_STAYS_S", 0)
    with SessionManager(url, poll_interval=0.01) as manager:
        key = manager.spawn_subagent("main", "Test")
        waiting: list[Future[Any]] = []

        def wait(_engine: Engine) -> None:
            waiting.append(start(lambda: manager.wait_for_messages(key, 0, timeout=LONG_S)))
            wait_until(lambda: key in manager._board.entries)
            time.sleep(0.05)

        assert manager._polling._engine is not None
        event.listen(manager._polling._engine, "engine_disposed", wait, once=True)
        assert manager.wait_for_messages(key, 0, timeout=0.02) == []
        wait_until(lambda: bool(waiting))
        plain(FIRST_MESSAGE, key)

        assert [message.seq for message in waiting[0].result()] == [1]


def test_forked_child_has_nobody_waiting_and_can_wait_itself(url: str, start: Start) -> None:
    with SessionManager(url) as manager:
        keys = [manager.spawn_subagent("main", "Test") for _ in range(2)]
        waiting = start(lambda: manager.wait_for_messages(keys[0], 0, timeout=LONG_S))
        waits(manager, keys[0])
        child = os.fork()
        if child == 0:
            status = 1
            try:
                assert manager._board.entries == {}
                assert not polls()
                manager.send_message(keys[1], "from the child")
                assert manager.wait_for_messages(keys[1], 1, timeout=0.3) == []
                assert len(manager.wait_for_messages(keys[1], 0, timeout=None)) == 1
                manager.send_message(keys[0], "from the child")
                manager.close()
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0

        assert [message.content for message in waiting.result()] == ["from the child"]


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_waiting_goes_on_when_connections_are_cut(url: str, plain: PlainClient, start: Start) -> None:
    with Wire(url) as wire, SessionManager(wire.url, poll_interval=0.02) as manager:
        keys = [manager.spawn_subagent("main", "Test") for _ in range(4)]
        ends = start(lambda: manager.wait_for_end(keys, timeout=LONG_S))
        waits(manager, *keys)
        for key, cut in zip(keys, (wire.cut_request, wire.cut_answer) * 2, strict=True):
            cut()
            cuts = wire.cuts
            wait_until(lambda: wire.cuts > cuts)  # noqa: B023  # called here
            plain("UPDATE sessions SET status = 'stopped', finished_ms = created_ms WHERE key = ?", key)

        assert [session.key for session in ends.result()] == keys
        assert wire.cuts == 4


def test_waiting_survives_a_restart_of_the_server_but_not_its_end(start: Start) -> None:
    with postgres() as server, SessionManager(server.url(), retry_budget_s=5) as manager:
        key = manager.spawn_subagent("main", "Test")
        first = start(lambda: manager.wait_for_messages(key, 0, timeout=LONG_S))
        waits(manager, key)
        server.stop("immediate")
        time.sleep(0.5)
        server.start()
        with closing(PlainClient(server.url())) as plain:
            plain(FIRST_MESSAGE, key)
        assert [message.seq for message in first.result()] == [1]

        others = [start(lambda: manager.wait_for_messages(key, 1, timeout=LONG_S)) for _ in range(2)]
        late = start(lambda: manager.wait_for_messages(key, 1, timeout=2))
        waits(manager, key)
        server.stop("immediate")
        for other in others:
            with pytest.raises(DatabaseUnavailable):
                other.result()
        # Its time was up before the manager gave up.
        assert late.result() == []


def test_interrupted_wait_leaves_nothing_behind(url: str) -> None:
    with SessionManager(url) as manager:
        key = manager.spawn_subagent("main", "Test")
        followed = manager.follow(key, 0)
        manager.send_message(key, "Hello")
        assert next(followed).seq == 1
        followed.close()  # type: ignore[attr-defined]
        threads = [threading.Thread(target=_wait_until_closed, args=(manager, key)) for _ in range(3)]
        for thread in threads:
            thread.start()
        waits(manager, key)
    for thread in threads:
        thread.join(LONG_S)

    assert not any(thread.is_alive() for thread in threads)
    assert manager._board.entries == {}
    assert not polls()


def _wait_until_closed(manager: SessionManager, key: str) -> None:
    with pytest.raises(ManagerClosed):
        manager.wait_for_messages(key, 1, timeout=None)

"""What the async manager adds: cancellation, event loops, exiting the process."""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import subprocess
import sys
import threading
from collections.abc import Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from sessions_db import (
    AsyncSessionManager,
    AsyncTransaction,
    DatabaseUnavailable,
    ExportedSession,
    InvalidInput,
    LabelInUse,
    ManagerClosed,
    ReadOnly,
    SessionManager,
    Transaction,
)
from sessions_db.aio.store import READING
from sessions_db.store import SessionStore
from tests.support.client import PlainClient
from tests.support.clock import ms
from tests.support.statements import driver_connection, traced
from tests.support.threads import run_together


def public_methods(kind: type) -> dict[str, Any]:
    return {
        name: member
        for name, member in inspect.getmembers(kind)
        if not name.startswith("_") and (inspect.isfunction(member) or isinstance(member, property))
    }


@pytest.mark.parametrize(("sync", "awaited"), [(SessionManager, AsyncSessionManager), (Transaction, AsyncTransaction)])
def test_every_method_is_there_with_the_same_signature_and_docstring(sync: type, awaited: type) -> None:
    expected = public_methods(sync)
    actual = public_methods(awaited)

    # What is left out is only useful in the thread that opened the database.
    assert expected.keys() - actual.keys() <= {"connection", "found_revision", "revision"}
    assert actual.keys() <= expected.keys()
    for name in actual.keys() - {"transaction", "snapshot", "close", "closed", "pool_status"}:
        signatures = [inspect.signature(methods[name]) for methods in (actual, expected)]
        if name == "follow":  # which returns an iterator, or an async one
            signatures = [signature.replace(return_annotation=None) for signature in signatures]
        assert signatures[0] == signatures[1], name
        assert actual[name].__doc__ == expected[name].__doc__, name
        if name == "follow":  # a function that returns an async iterator
            continue
        is_awaitable = inspect.isasyncgenfunction if name == "iterate" else inspect.iscoroutinefunction
        assert is_awaitable(actual[name]), name
    assert inspect.signature(sync) == inspect.signature(awaited) or awaited is AsyncTransaction


def test_cancelled_call_finishes_before_it_raises(url: str, plain: PlainClient) -> None:
    async def cancel_at_every_moment() -> None:
        async with AsyncSessionManager(url, message_cap=1000) as manager:
            key = (await manager.get_or_create_main("main")).key
            for moment in range(60):
                task = asyncio.create_task(manager.send_message(key, str(moment)))
                await asyncio.sleep(moment / 20_000)
                task.cancel()
                try:
                    expected = await task
                except asyncio.CancelledError:
                    before = plain("SELECT last_seq FROM sessions")
                    await asyncio.sleep(0.005)

                    assert plain("SELECT last_seq FROM sessions") == before
                else:
                    assert plain("SELECT last_seq FROM sessions") == [(expected.seq,)]

    asyncio.run(cancel_at_every_moment())


def test_call_cancelled_twice_still_finishes(url: str, plain: PlainClient) -> None:
    async def cancel_twice() -> None:
        async with AsyncSessionManager(url, pool_size=1) as manager:
            key = (await manager.get_or_create_main("main")).key
            assert manager._manager is not None
            connection = driver_connection(manager._manager)
            plain("BEGIN IMMEDIATE" if plain.backend == "sqlite" else "BEGIN")
            plain("UPDATE sessions SET metadata = NULL")
            begun = threading.Event()
            with traced(connection, lambda *_: begun.set()):
                task = asyncio.create_task(manager.stop_session(key))
                assert await asyncio.to_thread(begun.wait, 30)
                for _ in range(2):
                    task.cancel()
                    await asyncio.sleep(0.02)

                assert not task.done()
                plain("COMMIT")
                with pytest.raises(asyncio.CancelledError):
                    await task
            assert plain("SELECT status FROM sessions") == [("stopped",)]

    asyncio.run(cancel_twice())


def test_append_that_is_being_repeated_ends_when_it_is_cancelled(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/sessions.db"

    async def cancel() -> None:
        async with AsyncSessionManager(url) as manager:
            key = (await manager.get_or_create_main("main")).key
            plain = PlainClient(url)
            plain("BEGIN IMMEDIATE")
            appends = [asyncio.create_task(manager.send_message(key, str(number))) for number in range(3)]
            await asyncio.sleep(0.1)
            for append in appends:
                append.cancel()
            done, _ = await asyncio.wait(appends, timeout=5)
            plain("COMMIT")

            assert done == set(appends)
            assert await manager.history(key) == []

    asyncio.run(cancel())


def test_call_cancelled_before_it_began_does_nothing(url: str, plain: PlainClient) -> None:
    async def cancel_while_queued() -> None:
        async with AsyncSessionManager(url, pool_size=1) as manager:
            key = (await manager.get_or_create_main("main")).key
            plain("BEGIN IMMEDIATE" if plain.backend == "sqlite" else "BEGIN")
            plain("UPDATE sessions SET metadata = NULL")
            running = asyncio.create_task(manager.send_message(key, "first"))
            await asyncio.sleep(0.05)
            queued = asyncio.create_task(manager.send_message(key, "second"))
            await asyncio.sleep(0.05)
            queued.cancel()
            with pytest.raises(asyncio.CancelledError):
                await queued
            plain("COMMIT")
            await running

            history = await manager.history(key)
            assert history is not None
            assert [message.content for message in history] == ["first"]

    asyncio.run(cancel_while_queued())


def test_transaction_cancelled_in_its_block_stores_nothing(url: str) -> None:
    async def cancel_in_block() -> None:
        async with AsyncSessionManager(url, pool_size=1) as manager:

            async def write() -> None:
                async with manager.transaction() as tx:
                    await tx.get_or_create_main("main")
                    written.set()
                    await asyncio.sleep(60)

            written = asyncio.Event()
            task = asyncio.create_task(write())
            await written.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

            # The only connection is back in the pool.
            assert await manager.list() == []

    asyncio.run(cancel_in_block())


def test_transaction_cancelled_while_it_begins_returns_its_connection(url: str) -> None:
    async def cancel_at_begin() -> None:
        async with AsyncSessionManager(url, pool_size=2) as manager:

            async def write() -> None:
                async with manager.transaction() as tx:
                    await tx.get_or_create_main("main")

            for moment in range(40):
                task = asyncio.create_task(write())
                await asyncio.sleep(moment / 20_000)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            await asyncio.gather(*(manager.list() for _ in range(4)))

    asyncio.run(cancel_at_begin())


def test_as_many_transactions_as_connections_do_not_deadlock(url: str) -> None:
    async def fill_the_pool() -> None:
        async with AsyncSessionManager(url, pool_size=2) as manager:
            keys = [await manager.spawn_subagent("main", "Test") for _ in range(6)]

            async def write(key: str) -> None:
                async with manager.transaction() as tx:
                    for number in range(3):
                        await tx.send_message(key, str(number))

            await asyncio.gather(*map(write, keys), *(manager.history(key) for key in keys * 3))

            assert [len(await manager.history(key) or []) for key in keys] == [3] * 6

    asyncio.run(fill_the_pool())


def test_operations_of_one_transaction_run_one_at_a_time(url: str) -> None:
    async def gather_in_a_block() -> None:
        async with AsyncSessionManager(url) as manager:
            await manager.spawn_subagent("main", "Test", "taken")
            async with manager.transaction() as tx:
                spawned = await asyncio.gather(
                    *(
                        tx.spawn_subagent("main", "Test", "taken" if number % 2 else None, on_label_conflict="error")
                        for number in range(20)
                    ),
                    return_exceptions=True,
                )

            keys = {outcome for outcome in spawned if isinstance(outcome, str)}
            assert len(keys) == 10
            assert all(isinstance(outcome, str | LabelInUse) for outcome in spawned)
            assert keys <= {session.key for session in await manager.list()}

    asyncio.run(gather_in_a_block())


def test_close_lets_an_open_transaction_finish(url: str, plain: PlainClient) -> None:
    async def close_meanwhile() -> None:
        manager = AsyncSessionManager(url)

        async def write() -> None:
            async with manager.transaction() as tx:
                await tx.get_or_create_main("main")
                begun.set()
                await closed.wait()
                await tx.get_or_create_main("other")

        begun, closed = asyncio.Event(), asyncio.Event()
        writing = asyncio.create_task(write())
        await begun.wait()
        await manager.close()
        closed.set()
        await writing

    asyncio.run(close_meanwhile())

    assert plain("SELECT agent_id FROM sessions ORDER BY agent_id") == [("main",), ("other",)]


def test_close_lets_calls_finish_and_leaves_no_connection(url: str, plain: PlainClient) -> None:
    async def close_meanwhile() -> None:
        manager = AsyncSessionManager(url)
        calls = [asyncio.create_task(manager.spawn_subagent("main", "Test")) for _ in range(40)]
        await asyncio.sleep(0)
        await manager.close()

        assert len(set(await asyncio.gather(*calls))) == 40

    asyncio.run(close_meanwhile())

    # Dropping the database at the end of the test checks that no connection is left.
    assert plain("SELECT count(*) FROM sessions") == [(40,)]


def test_cancelled_opening_leaves_no_connection(url: str) -> None:
    async def cut_off() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.0001), AsyncSessionManager(url):
                await asyncio.sleep(60)

    asyncio.run(cut_off())


@pytest.mark.parametrize("pool_size", [0, "x", True])
def test_bad_pool_size_is_refused_at_once(pool_size: object) -> None:
    with pytest.raises(InvalidInput, match="pool_size"):
        AsyncSessionManager("sqlite://", pool_size=pool_size)  # type: ignore[arg-type]


def test_event_loops_share_a_manager(url: str) -> None:
    manager = AsyncSessionManager(url)
    key = asyncio.run(manager.get_or_create_main("main")).key

    async def append() -> None:
        await asyncio.gather(*(manager.send_message(key, "Hello") for _ in range(10)))

    run_together([threading.Thread(target=lambda: asyncio.run(append())) for _ in range(3)])

    session = asyncio.run(manager.get(key))
    asyncio.run(manager.close())
    assert session is not None
    assert [message.seq for message in session.messages] == list(range(1, 31))


def test_closed_manager_says_so(url: str) -> None:
    async def use_after_close() -> None:
        manager = AsyncSessionManager(url)
        await manager.list()
        await manager.close()
        await manager.close()

        assert manager.closed
        with pytest.raises(ManagerClosed, match="This manager is closed"):
            await manager.list()
        with pytest.raises(ManagerClosed, match="This manager is closed"):
            async with manager.transaction():
                pass

    asyncio.run(use_after_close())


def test_unreachable_database_is_reported_by_the_first_call_and_retried_by_the_next() -> None:
    async def call_twice() -> None:
        manager = AsyncSessionManager("postgresql://somebody:s3cret@127.0.0.1:1/sessions", retry_budget_s=0)
        for _ in range(2):
            with pytest.raises(DatabaseUnavailable):
                await manager.list()
        await manager.close()

    asyncio.run(call_twice())


def test_threads_end_with_their_manager_if_nobody_closes_it() -> None:
    before = threading.enumerate()
    manager = AsyncSessionManager("postgresql://somebody:s3cret@127.0.0.1:1/sessions", retry_budget_s=0)
    with pytest.raises(DatabaseUnavailable):
        asyncio.run(manager.list())
    threads = [thread for thread in threading.enumerate() if thread not in before]
    assert threads

    del manager
    gc.collect()
    for thread in threads:
        thread.join(timeout=10)

    assert not any(thread.is_alive() for thread in threads)


def test_process_ends_with_a_manager_and_a_transaction_left_open(url: str, plain: PlainClient) -> None:
    code = (
        "import asyncio, sys, sessions_db\n"
        "manager = sessions_db.AsyncSessionManager(sys.argv[1])\n"
        "loop = asyncio.new_event_loop()\n"
        "transaction = manager.transaction()\n"
        "async def main():\n"
        "    await manager.get_or_create_main('kept')\n"
        "    tx = await transaction.__aenter__()\n"
        "    await tx.get_or_create_main('lost')\n"
        "loop.run_until_complete(main())\n"
        "print('done')\n"
    )
    result = subprocess.run([sys.executable, "-c", code, url], timeout=60, check=True, capture_output=True, text=True)

    assert result.stdout == "done\n"
    assert plain("SELECT agent_id FROM sessions") == [("kept",)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_forked_child_and_its_parent_keep_working(url: str) -> None:
    code = (
        "import asyncio, os, sys, sessions_db\n"
        "manager = sessions_db.AsyncSessionManager(sys.argv[1])\n"
        "key = asyncio.run(manager.get_or_create_main('main')).key\n"
        "async def append():\n"
        "    await asyncio.gather(*(manager.send_message(key, 'Hello') for _ in range(20)))\n"
        "child = os.fork()\n"
        "asyncio.run(append())\n"
        "asyncio.run(manager.close())\n"
        "sys.exit(0 if child == 0 else os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    subprocess.run([sys.executable, "-c", code, url], timeout=60, check=True)

    with SessionManager(url) as manager:
        assert manager.get_or_create_main("main").message_count == 40


def test_reading_methods_are_those_that_a_read_only_manager_has(url: str) -> None:
    reading = {method.__name__ for method in READING if not method.__name__.startswith("_")}
    arguments = {"key": "agent:main:main", "label": "l", "agent_id": "main", "task": "t", "role": "user"} | {
        "at_seq": 0, "name": "n", "message": "m", "content": "c", "messages": [],
        "older_than": ms(1), "session": exported(url), "sessions": [],
        "seq": 1, "reason": "r", "days": 1, "keys": [], "text": "t",
    }  # fmt: skip
    writing = set()
    with SessionManager(url, read_only=True) as manager:
        for name, method in public_methods(SessionStore).items():
            required = [
                parameter.name
                for parameter in inspect.signature(method).parameters.values()
                if parameter.default is parameter.empty and parameter.name != "self"
            ]
            given = {argument: arguments[argument] for argument in required}
            if name in ("timeout_idle", "prune"):
                given["older_than"] = arguments["older_than"]
            try:
                getattr(manager, name)(**given)
            except ReadOnly:
                writing.add(name)

    # A main session that is missing is made, a sweep that finds nothing writes nothing.
    assert public_methods(SessionStore).keys() - reading - {"timeout_idle", "prune"} == writing | {"get_or_create_main"}


def exported(url: str) -> ExportedSession:
    with SessionManager(url) as manager:
        manager.get_or_create_main("main")
        return manager.export_sessions()[0]


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_budget_begins_at_the_call_and_readers_wait_for_no_writer(url: str, plain: PlainClient) -> None:
    async def crowd() -> list[object]:
        async with AsyncSessionManager(url, pool_size=4, retry_budget_s=1) as manager:
            key = (await manager.get_or_create_main("main")).key
            plain("BEGIN IMMEDIATE")
            writers = [asyncio.create_task(manager.send_message(key, "Hello")) for _ in range(40)]
            await asyncio.sleep(0.1)
            assert await manager.get(key) is not None
            assert not any(writer.done() for writer in writers)
            results = await asyncio.gather(*writers, return_exceptions=True)
            plain("ROLLBACK")
            return [*results]

    results = asyncio.run(crowd())

    assert all(isinstance(result, DatabaseUnavailable) for result in results)
    waited = [result.waited_s for result in results if isinstance(result, DatabaseUnavailable)]
    assert max(waited) < 3


class Exhausted(dict[str, Any]):
    """A mapping whose items raise what must not be lost."""

    def items(self) -> Any:
        raise StopIteration


def test_stop_iteration_of_the_callers_code_is_told(url: str) -> None:
    def stop(_done: int, _total: int) -> None:
        raise StopIteration

    async def told(call: Coroutine[Any, Any, object]) -> BaseException | None:
        with pytest.raises(RuntimeError, match="StopIteration") as caught:
            await asyncio.wait_for(call, 20)
        return caught.value.__cause__

    async def scenario() -> None:
        async with AsyncSessionManager(url) as manager:
            key = await manager.spawn_subagent("main", "Test")
            assert isinstance(await told(manager.add_message(key, "user", "", metadata=Exhausted())), StopIteration)
            async with manager.transaction() as tx:
                assert isinstance(await told(tx.spawn_cron("main", "Test", metadata=Exhausted())), StopIteration)
            cause = await told(manager.timeout_idle(before=datetime.now(UTC), progress=stop))
            assert isinstance(cause, StopIteration)
            assert len(await manager.list()) == 1

    asyncio.run(scenario())

"""The threads of the async manager where something goes wrong: a process limit, cancellation, garbage collection."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from functools import partial

import pytest

from sessions_db.aio.threads import Threads


def blocked(began: threading.Event, go: threading.Event, kept: object = None) -> None:
    began.set()
    go.wait()
    if kept is not None:
        raise ValueError(kept)


def test_call_waits_for_a_thread_where_the_process_can_start_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def check() -> None:
        began, go = threading.Event(), threading.Event()
        with Threads(2, "some") as some, Threads(1, "none") as none:
            first = asyncio.create_task(some.run(partial(blocked, began, go)))
            await asyncio.to_thread(began.wait)
            monkeypatch.setattr(threading.Thread, "start", refuse)
            with pytest.raises(RuntimeError, match="can't start new thread"):
                await none.run(list)
            second: asyncio.Task[list[int]] = asyncio.create_task(some.run(list[int]))
            await asyncio.sleep(0)
            go.set()

            assert await second == []
            await first
            monkeypatch.undo()
            assert await none.run(list) == []

    asyncio.run(check())


def test_cancelled_call_that_fails_keeps_nothing_alive() -> None:
    class Kept:
        pass

    async def check() -> None:
        began, go, kept = threading.Event(), threading.Event(), Kept()
        reference = weakref.ref(kept)
        with Threads(1, "some") as threads:
            task = asyncio.create_task(threads.run(partial(blocked, began, go, kept)))
            del kept
            await asyncio.to_thread(began.wait)
            task.cancel()
            go.set()
            with pytest.raises(asyncio.CancelledError):
                await task
            del task
            assert await threads.run(list) == []

            assert reference() is None

    gc.disable()
    try:
        asyncio.run(check())
    finally:
        gc.enable()


def test_garbage_collector_may_shut_down_threads_on_a_thread_that_gives_them_a_call() -> None:
    threads = Threads(1, "some")

    with threads._lock:
        threads.shutdown(wait=False)

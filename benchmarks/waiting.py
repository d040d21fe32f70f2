"""Waiting: how soon a message is heard, and what those who wait cost."""

from __future__ import annotations

import asyncio
import gc
import itertools
import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from functools import partial
from multiprocessing import get_context
from queue import SimpleQueue
from statistics import median_high
from time import perf_counter
from typing import Final

from sqlalchemy import URL

from benchmarks.databases import BACKENDS, text
from benchmarks.managers import append, async_append, durability_of, full_session, inhabited, opened
from benchmarks.rounds import Figure, Operation, alternate
from benchmarks.sections import RETAINED, Bench, Results
from sessions_db import AsyncSessionManager, SessionManager
from sessions_db.limits import DEFAULT_POLL_INTERVAL_S

WAITERS: Final = 10_000

HEARD: Final = {
    "thread": "in the same process, by a thread: time of an append",
    "task": "in the same process, by a task: time of an append",
    "process": "in another process: `poll_interval`",
}
"""How a message is heard, and in what its time is measured."""

IDLE: Final = (1, WAITERS)
"""How many wait while nothing happens."""

ROUNDS = 5
SLOT_S = 0.6


def run(bench: Bench) -> Results:
    """How soon an append is heard, the processor time of idle waits, and appends while others wait."""
    results = Results()
    with ProcessPoolExecutor(1, get_context("spawn")) as other:
        for backend in BACKENDS:
            url = inhabited(bench, backend)
            with opened(url, bench.runner) as (manager, async_manager):
                results.durability[backend] = durability_of(manager)
                _measure(bench, results, backend, url, manager, async_manager, other)
    return results


def _measure(
    bench: Bench,
    results: Results,
    backend: str,
    url: URL,
    manager: SessionManager,
    async_manager: AsyncSessionManager,
    other: ProcessPoolExecutor,
) -> None:
    plan = bench.plan(ROUNDS, SLOT_S)
    waiters = WAITERS // 50 if bench.quick else WAITERS
    key = full_session(manager, bench.messages)
    waiting = [manager.spawn_subagent("bench", "Be waited for") for _ in range(waiters)]
    write = append(manager, key, bench.messages)
    slots: dict[str, Callable[[], float]] = {
        "thread": partial(_heard_by_thread, manager, key, write, plan.slot_s),
        "task": partial(_heard_by_task, bench.runner, async_manager, key, plan.slot_s),
        "process": partial(_heard_by_process, manager, key, url, other, plan.slot_s),
        "idle.1": partial(_idle, bench.runner, async_manager, waiting[:1], plan.slot_s),
        f"idle.{WAITERS}": partial(_idle, bench.runner, async_manager, waiting, plan.slot_s),
        "append.0": partial(_appends, bench.runner, async_manager, [], key, bench, plan.slot_s),
        f"append.{WAITERS}": partial(_appends, bench.runner, async_manager, waiting, key, bench, plan.slot_s),
    }
    measured = alternate(slots, plan.rounds)
    for name in HEARD:
        results.figures[f"{backend}.heard.{name}"] = Figure.of(measured[name])
    for number in IDLE:
        results.figures[f"{backend}.idle.{number}"] = Figure.of(measured[f"idle.{number}"])
    pairs = zip(measured[f"append.{WAITERS}"], measured["append.0"], strict=True)
    results.figures[f"{backend}.append"] = Figure.of(beside / alone for beside, alone in pairs)


def _heard_by_thread(manager: SessionManager, key: str, write: Operation, seconds: float) -> float:
    """When a thread has the message, where the append takes 1."""
    heard: SimpleQueue[float] = SimpleQueue()
    after_seq = _last(manager, key)

    def listen() -> None:
        for message in manager.follow(key, after_seq):
            heard.put(perf_counter())
            if message.content == "over":
                return

    listener = threading.Thread(target=listen)
    listener.start()
    times = []
    end = perf_counter() + seconds
    for number in itertools.count():
        time.sleep(0.001)  # until it waits again
        began = perf_counter()
        write(number % RETAINED)
        took = perf_counter() - began
        times.append((heard.get() - began) / took)
        if perf_counter() > end:
            break
    manager.add_message(key, "user", "over")
    listener.join()
    return median_high(times)


def _heard_by_task(runner: asyncio.Runner, manager: AsyncSessionManager, key: str, seconds: float) -> float:
    """When a task has the message, where the append takes 1."""

    async def slot() -> float:
        heard: asyncio.Queue[float] = asyncio.Queue()
        history = await manager.history(key, 1, include_tools=True)
        assert history

        async def listen() -> None:
            async for _ in manager.follow(key, history[-1].seq):
                heard.put_nowait(perf_counter())

        listener = asyncio.create_task(listen())
        times = []
        end = perf_counter() + seconds
        while perf_counter() < end:
            await asyncio.sleep(0.001)  # until it waits again
            began = perf_counter()
            await manager.add_message(key, "user", "Do you hear me?")
            took = perf_counter() - began
            times.append((await heard.get() - began) / took)
        listener.cancel()
        with suppress(asyncio.CancelledError):
            await listener
        return median_high(times)

    return runner.run(slot())


def _heard_by_process(manager: SessionManager, key: str, url: URL, other: ProcessPoolExecutor, seconds: float) -> float:
    """How long after its commit in another process the message is heard, where `poll_interval` is 1."""
    times = []
    end = perf_counter() + seconds
    while perf_counter() < end:
        after_seq = _last(manager, key)
        committed = other.submit(_append_soon, text(url), key)
        (_message,) = manager.wait_for_messages(key, after_seq, timeout=None)
        times.append((perf_counter() - committed.result()) / DEFAULT_POLL_INTERVAL_S)
    return median_high(times)


def _last(manager: SessionManager, key: str) -> int:
    history = manager.history(key, 1, include_tools=True)
    assert history
    return history[-1].seq


def _idle(runner: asyncio.Runner, manager: AsyncSessionManager, keys: Sequence[str], seconds: float) -> float:
    """The share of one processor that this process uses while nothing happens."""

    async def slot() -> float:
        async with _Waiting(manager, keys):
            began, used = perf_counter(), time.process_time()
            await asyncio.sleep(seconds)
            return (time.process_time() - used) / (perf_counter() - began)

    return runner.run(slot())


def _appends(
    runner: asyncio.Runner, manager: AsyncSessionManager, waiting: Sequence[str], key: str, bench: Bench, seconds: float
) -> float:
    """How long an append takes while others wait for other sessions."""

    async def slot() -> float:
        async with _Waiting(manager, waiting):
            write = async_append(manager, key, bench.messages)
            for number in range(RETAINED):  # warm up
                await write(number)
            count, began = 0, perf_counter()
            while perf_counter() - began < seconds:
                await write(count % RETAINED)
                count += 1
            return (perf_counter() - began) / count

    return runner.run(slot())


class _Waiting:
    """A block beside which a task waits for each of these sessions."""

    def __init__(self, manager: AsyncSessionManager, keys: Sequence[str]) -> None:
        self._manager = manager
        self._keys = keys
        self._tasks: list[asyncio.Task[object]] = []

    async def __aenter__(self) -> None:
        waiting = [self._manager.wait_for_messages(key, 0, timeout=None) for key in self._keys]
        self._tasks = [asyncio.create_task(each) for each in waiting]
        # Every read of theirs comes before this one.
        await asyncio.sleep(0)
        await self._manager.list(limit=1)
        await asyncio.sleep(3 * DEFAULT_POLL_INTERVAL_S)
        # What was there before is frozen already. The collector would visit the tasks, as all that is left, far more
        # often than it does in a service.
        gc.collect()
        gc.freeze()

    async def __aexit__(self, *_error: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


# What follows runs in the other process.

_managers: dict[str, SessionManager] = {}


def _append_soon(url: str, key: str) -> float:
    """When the append that this makes was committed: at any moment between two polls."""
    if url not in _managers:
        _managers[url] = SessionManager(url)
    time.sleep(random.uniform(0, DEFAULT_POLL_INTERVAL_S))  # nothing secret
    _managers[url].add_message(key, "user", "Do you hear me?")
    return perf_counter()

"""Concurrency: 1 to 64 writers, threads or tasks, each appending to a session of its own or all to the same one."""

from __future__ import annotations

import asyncio
import itertools
import statistics
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Final

from benchmarks.databases import BACKENDS
from benchmarks.managers import append, async_append, durability_of, full_session, inhabited
from benchmarks.rounds import AsyncOperation, Figure, Operation, alternate
from benchmarks.sections import Bench, Results
from sessions_db import AsyncSessionManager, SessionManager

WRITERS: Final = (1, 4, 16, 64)
SESSIONS: Final = {"own": "a session each", "shared": "all in one session"}
FACES: Final = ("sync", "async")

ROUNDS = 5
SLOT_S = 0.8

_REFERENCE = "sync.own.1"


@dataclass(frozen=True, slots=True)
class _Slot:
    """What the writers did together: appends per second, and how long an append took its writer."""

    throughput: float
    p50: float
    p99: float

    @classmethod
    def of(cls, latencies: Sequence[Sequence[float]], seconds: float) -> _Slot:
        taken = [latency for writer in latencies for latency in writer]
        percentiles = statistics.quantiles(taken, n=100, method="inclusive")
        return cls(len(taken) / seconds, percentiles[49], percentiles[98])


def run(bench: Bench) -> Results:
    """Every number of writers, on both databases, through both managers."""
    results = Results()
    for backend in BACKENDS:
        url = inhabited(bench, backend)
        with SessionManager(url) as manager:
            results.durability[backend] = durability_of(manager)
            keys = [full_session(manager, bench.messages) for _ in range(max(WRITERS))]
            async_manager = AsyncSessionManager(url)
            try:
                measured = _measure(bench, manager, async_manager, keys)
            finally:
                bench.runner.run(async_manager.close())
        reference = measured[_REFERENCE]
        for cell, slots in measured.items():
            compared = [*zip(slots, reference, strict=True)]
            name = f"{backend}.{cell}"
            results.figures[f"{name}.throughput"] = Figure.of(a.throughput / b.throughput for a, b in compared)
            results.figures[f"{name}.p50"] = Figure.of(a.p50 / b.p50 for a, b in compared)
            results.figures[f"{name}.p99"] = Figure.of(a.p99 / b.p50 for a, b in compared)
    return results


def _measure(
    bench: Bench, manager: SessionManager, async_manager: AsyncSessionManager, keys: list[str]
) -> dict[str, list[_Slot]]:
    plan = bench.plan(ROUNDS, SLOT_S)
    cells: dict[str, Callable[[], _Slot]] = {}
    for sessions, writers in itertools.product(SESSIONS, WRITERS):
        chosen = keys[:writers] if sessions == "own" else keys[:1] * writers
        threads = [append(manager, key, bench.messages) for key in chosen]
        tasks = [async_append(async_manager, key, bench.messages) for key in chosen]
        cells[f"sync.{sessions}.{writers}"] = partial(_threads, threads, len(bench.messages), plan.slot_s)
        cells[f"async.{sessions}.{writers}"] = partial(_tasks, tasks, len(bench.messages), plan.slot_s, bench.runner)
    return alternate(cells, plan.rounds)


def _threads(operations: Sequence[Operation], messages: int, seconds: float) -> _Slot:
    together = threading.Barrier(len(operations))

    def write(operation: Operation) -> list[float]:
        latencies: list[float] = []
        together.wait()
        end = perf_counter() + seconds
        while (before := perf_counter()) < end:
            operation(len(latencies) % messages)
            latencies.append(perf_counter() - before)
        return latencies

    with ThreadPoolExecutor(len(operations)) as threads:
        # The threads start before the clock does.
        writers = [threads.submit(write, operation) for operation in operations]
        started = perf_counter()
        latencies = [writer.result() for writer in writers]
        return _Slot.of(latencies, perf_counter() - started)


def _tasks(operations: Sequence[AsyncOperation], messages: int, seconds: float, runner: asyncio.Runner) -> _Slot:
    async def write(operation: AsyncOperation, end: float) -> list[float]:
        latencies: list[float] = []
        while (before := perf_counter()) < end:
            await operation(len(latencies) % messages)
            latencies.append(perf_counter() - before)
        return latencies

    async def slot() -> _Slot:
        started = perf_counter()
        latencies = await asyncio.gather(*(write(operation, started + seconds) for operation in operations))
        return _Slot.of(latencies, perf_counter() - started)

    return runner.run(slot())

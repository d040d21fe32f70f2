"""Concurrency: 1 to 64 writers, threads or tasks, each in a session of its own or all in one.

The reference is the sync manager's single writer, measured anew in every round.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import statistics
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from benchmarks.conversations import ChatMessage
from benchmarks.databases import BACKENDS
from benchmarks.managers import async_manager, durability_of, full_session, inhabited, opened
from benchmarks.rounds import Figure
from benchmarks.sections import Bench, Results
from sessions_db import AsyncSessionManager, SessionManager

WRITERS = (1, 4, 16, 64)
SESSIONS = ("own", "shared")
FACES = ("sync", "async")

ROUNDS = 5
SLOT_S = 0.8


@dataclass(frozen=True, slots=True)
class _Slot:
    """What writers did together: appends a second, and how long each append took its writer."""

    throughput: float
    p50: float
    p99: float

    @classmethod
    def of(cls, latencies: Sequence[Sequence[float]], seconds: float) -> _Slot:
        taken = [latency for writer in latencies for latency in writer]
        percentiles = statistics.quantiles(taken, n=100, method="inclusive")
        return cls(len(taken) / seconds, percentiles[49], percentiles[98])


def run(bench: Bench) -> Results:
    """Every number of writers, on both databases, through both faces."""
    results = Results(notes={"writers": WRITERS, "sessions": SESSIONS, "faces": FACES})
    for backend in BACKENDS:
        _measure(bench, results, backend)
    return results


def _measure(bench: Bench, results: Results, backend: str) -> None:
    url = inhabited(bench, backend)
    plan = bench.plan(ROUNDS, SLOT_S)
    with ExitStack() as stack:
        manager = stack.enter_context(opened(url))
        results.durability[backend] = durability_of(manager)
        keys = [full_session(manager, bench.messages) for _ in range(max(WRITERS))]
        face = async_manager(url)
        stack.callback(lambda: bench.runner.run(face.close()))
        cells: dict[str, Callable[[], _Slot]] = {}
        for sessions, writers in itertools.product(SESSIONS, WRITERS):
            chosen = keys[:writers] if sessions == "own" else keys[:1] * writers
            cell = f"{sessions}.{writers}"
            cells[f"sync.{cell}"] = _threads(manager, chosen, bench.messages, plan.slot_s)
            cells[f"async.{cell}"] = _tasks(face, chosen, bench.messages, plan.slot_s, bench.runner)
        single = _threads(manager, keys[:1], bench.messages, plan.slot_s)
        rounds = list(_rounds(single, cells, plan.rounds))
        for cell in cells:
            name = f"{backend}.{cell}"
            compared = [(slots[cell], reference) for reference, slots in rounds]
            results.figures[f"{name}.throughput"] = Figure.of(a.throughput / b.throughput for a, b in compared)
            results.figures[f"{name}.p50"] = Figure.of(a.p50 / b.p50 for a, b in compared)
            results.figures[f"{name}.p99"] = Figure.of(a.p99 / b.p50 for a, b in compared)


def _rounds(
    single: Callable[[], _Slot], cells: dict[str, Callable[[], _Slot]], rounds: int
) -> Iterator[tuple[_Slot, dict[str, _Slot]]]:
    for number in range(rounds):
        reference = single()
        slots = {}
        for name in cells if number % 2 == 0 else reversed(cells):
            gc.collect()
            slots[name] = cells[name]()
        yield reference, slots


def _threads(
    manager: SessionManager, keys: Sequence[str], messages: Sequence[ChatMessage], seconds: float
) -> Callable[[], _Slot]:
    def slot() -> _Slot:
        together = threading.Barrier(len(keys))

        def write(key: str) -> list[float]:
            latencies: list[float] = []
            together.wait()
            end = perf_counter() + seconds
            while (before := perf_counter()) < end:
                manager.add_message(key, **_arguments(messages, len(latencies)))
                latencies.append(perf_counter() - before)
            return latencies

        with ThreadPoolExecutor(len(keys)) as threads:
            # Threads start before the clock does.
            writers = [threads.submit(write, key) for key in keys]
            started = perf_counter()
            latencies = [writer.result() for writer in writers]
            return _Slot.of(latencies, perf_counter() - started)

    return slot


def _tasks(
    manager: AsyncSessionManager,
    keys: Sequence[str],
    messages: Sequence[ChatMessage],
    seconds: float,
    runner: asyncio.Runner,
) -> Callable[[], _Slot]:
    async def write(key: str, end: float) -> list[float]:
        latencies: list[float] = []
        while (before := perf_counter()) < end:
            await manager.add_message(key, **_arguments(messages, len(latencies)))
            latencies.append(perf_counter() - before)
        return latencies

    async def slot() -> _Slot:
        started = perf_counter()
        latencies = await asyncio.gather(*(write(key, started + seconds) for key in keys))
        return _Slot.of(latencies, perf_counter() - started)

    return lambda: runner.run(slot())


def _arguments(messages: Sequence[ChatMessage], number: int) -> dict[str, Any]:
    message = messages[number % len(messages)]
    return {
        "role": message.role,
        "content": message.content,
        "tool_name": message.tool_name,
        "metadata": message.metadata,
    }

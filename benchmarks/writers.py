"""Many at once, in threads or in tasks: how long each of their appends or reads takes."""

from __future__ import annotations

import asyncio
import statistics
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from time import perf_counter
from typing import Self, TypeAlias

from benchmarks.rounds import AsyncOperation, Figure, Operation
from benchmarks.sections import RETAINED

Taken: TypeAlias = tuple[list[float], float]
"""The seconds that each operation took its caller, and the seconds that all took together."""


@dataclass(frozen=True, slots=True)
class Slot:
    """What they did together: operations per second, and how long one took, in seconds."""

    throughput: float
    p50: float
    p99: float
    longest: float

    @classmethod
    def of(cls, *taken: Taken) -> Self:
        """The slot of one process, or of several that started together."""
        latencies = [latency for own, _seconds in taken for latency in own]
        percentiles = statistics.quantiles(latencies, n=100, method="inclusive")
        seconds = max(seconds for _own, seconds in taken)
        return cls(len(latencies) / seconds, percentiles[49], percentiles[98], max(latencies))

    @classmethod
    def taken(cls, take: Callable[[], Taken]) -> Self:
        """The slot of what a function takes."""
        return cls.of(take())


def ratio(measure: str, slots: Sequence[Slot], others: Sequence[Slot]) -> Figure:
    """A measure of the slots, where it is 1 in the others."""
    return Figure.of(
        getattr(slot, measure) / getattr(other, measure) for slot, other in zip(slots, others, strict=True)
    )


def compared(name: str, slots: Sequence[Slot], reference: Sequence[Slot]) -> dict[str, Figure]:
    """The slots' throughput against the reference's, and their latencies against its median latency."""
    pairs = [*zip(slots, reference, strict=True)]
    latencies = ("p50", "p99", "longest")
    return {
        f"{name}.throughput": ratio("throughput", slots, reference),
        **{f"{name}.{measure}": Figure.of(getattr(a, measure) / b.p50 for a, b in pairs) for measure in latencies},
    }


def threads(operations: Sequence[Operation], seconds: float, beside: Sequence[Operation] = ()) -> Taken:
    """Each operation again and again in a thread of its own. What runs beside them is not counted."""
    together = threading.Barrier(len(operations) + len(beside))

    def repeat(operation: Operation) -> list[float]:
        latencies: list[float] = []
        together.wait()
        end = perf_counter() + seconds
        while (before := perf_counter()) < end:
            operation(len(latencies) % RETAINED)
            latencies.append(perf_counter() - before)
        return latencies

    with ThreadPoolExecutor(together.parties) as pool:
        # The threads start before the clock does.
        repeated = [pool.submit(repeat, operation) for operation in (*operations, *beside)]
        started = perf_counter()
        latencies = [own.result() for own in repeated[: len(operations)]]
        return [*chain.from_iterable(latencies)], perf_counter() - started


def tasks(
    operations: Sequence[AsyncOperation], seconds: float, runner: asyncio.Runner, beside: Sequence[AsyncOperation] = ()
) -> Taken:
    """The same in tasks of one event loop."""

    async def repeat(operation: AsyncOperation, end: float) -> list[float]:
        latencies: list[float] = []
        while (before := perf_counter()) < end:
            await operation(len(latencies) % RETAINED)
            latencies.append(perf_counter() - before)
        return latencies

    async def slot() -> Taken:
        started = perf_counter()
        repeated = [repeat(operation, started + seconds) for operation in (*operations, *beside)]
        latencies = (await asyncio.gather(*repeated))[: len(operations)]
        return [*chain.from_iterable(latencies)], perf_counter() - started

    return runner.run(slot())

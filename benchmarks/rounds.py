"""Interleaved timing: subjects take turns, one slot each, for several rounds.

A machine's speed drifts during a run. So a figure compares within a round, and is the median of those ratios.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import statistics
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Self, TypeAlias, TypeVar

_T = TypeVar("_T")

Operation: TypeAlias = Callable[[int], object]
"""What is timed: a sync or async function of a message's number."""

AsyncOperation: TypeAlias = Callable[[int], Awaitable[object]]

Times: TypeAlias = Mapping[str, Sequence[float]]
"""Seconds per operation in each round, by subject."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How long to measure. A slot passes over the same `block` messages again and again for at least `slot_s` s."""

    rounds: int
    slot_s: float
    block: int


@dataclass(frozen=True, slots=True)
class Figure:
    """The median of the rounds and its quartiles."""

    median: float
    low: float
    high: float
    rounds: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Self:
        """The figure for one value per round."""
        ordered = sorted(values)
        low, median, high = statistics.quantiles(ordered, method="inclusive") if len(ordered) > 1 else ordered * 3
        return cls(median, low, high, len(ordered))


def alternate(slots: Mapping[str, Callable[[], _T]], rounds: int) -> dict[str, list[_T]]:
    """What each slot returned in each round. Every other round runs them in reverse order."""
    returned: dict[str, list[_T]] = {name: [] for name in slots}
    gc.collect()
    gc.freeze()
    for number in range(rounds):
        for name in slots if number % 2 == 0 else reversed([*slots]):
            gc.collect()
            returned[name].append(slots[name]())
    gc.unfreeze()
    return returned


def interleaved(subjects: Mapping[str, Operation], plan: Plan, runner: asyncio.Runner) -> Times:
    """How long each subject's operation takes."""
    slots = {name: partial(_slot, operation, plan, runner) for name, operation in subjects.items()}
    return alternate(slots, plan.rounds)


def cost(times: Times, subject: str, against: str) -> Figure:
    """How many times as long as `against` the subject takes: also, how many times as fast `against` is."""
    return Figure.of(a / b for a, b in zip(times[subject], times[against], strict=True))


def _slot(operation: Operation, plan: Plan, runner: asyncio.Runner) -> float:
    if inspect.iscoroutinefunction(operation):
        return runner.run(_async_slot(operation, plan))
    # Warm up: the subject before this one has filled the processor's caches.
    for number in range(plan.block // 10):
        operation(number)
    passes = 0
    started = perf_counter()
    while perf_counter() - started < plan.slot_s:
        for number in range(plan.block):
            operation(number)
        passes += 1
    return (perf_counter() - started) / (passes * plan.block)


async def _async_slot(operation: AsyncOperation, plan: Plan) -> float:
    # The same loop inside the event loop, which would otherwise be entered anew for each operation.
    for number in range(plan.block // 10):
        await operation(number)
    passes = 0
    started = perf_counter()
    while perf_counter() - started < plan.slot_s:
        for number in range(plan.block):
            await operation(number)
        passes += 1
    return (perf_counter() - started) / (passes * plan.block)

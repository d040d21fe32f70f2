"""How everything is timed: subjects take turns, a slot each, for several rounds; a figure compares within rounds.

A machine's speed drifts while it runs. What was measured in one round is compared with what was measured beside it,
and the median of those ratios is the figure.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import statistics
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Subject:
    """Something to time: a function of the number of the message, sync or async."""

    name: str
    operation: Callable[[int], object]


@dataclass(frozen=True, slots=True)
class Plan:
    """How long to measure. A slot is whole passes over the same `block` messages, for at least `slot_s` seconds."""

    rounds: int
    slot_s: float
    block: int


@dataclass(frozen=True, slots=True)
class Figure:
    """A median of rounds, between its quartiles."""

    median: float
    low: float
    high: float
    rounds: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Self:
        """The figure for one value a round."""
        ordered = sorted(values)
        low, _, high = statistics.quantiles(ordered, method="inclusive") if len(ordered) > 1 else ordered * 3
        return cls(statistics.median(ordered), low, high, len(ordered))

    def to_dict(self) -> dict[str, Any]:
        """The figure as JSON."""
        return asdict(self)


Times = Mapping[str, Sequence[float]]
"""Seconds an operation took in each round, by subject."""


def interleaved(subjects: Sequence[Subject], plan: Plan, runner: asyncio.Runner) -> Times:
    """The times of all subjects, each round in the reverse order of the one before it."""
    times: dict[str, list[float]] = {subject.name: [] for subject in subjects}
    gc.collect()
    gc.freeze()
    for number in range(plan.rounds):
        for subject in subjects if number % 2 == 0 else reversed(subjects):
            times[subject.name].append(_slot(subject.operation, plan, runner))
    gc.unfreeze()
    return times


def speed(times: Times, subject: str, against: str) -> Figure:
    """How many times as fast as `against` the subject is."""
    return Figure.of(theirs / ours for ours, theirs in zip(times[subject], times[against], strict=True))


def cost(times: Times, subject: str, against: str) -> Figure:
    """How many times as long as `against` the subject takes."""
    return speed(times, against, subject)


def finish(value: object, runner: asyncio.Runner) -> Any:
    """The value, waited for if it is awaitable."""
    return runner.run(_wait(value)) if inspect.isawaitable(value) else value


async def _wait(value: Awaitable[object]) -> object:
    return await value


def _slot(operation: Callable[[int], object], plan: Plan, runner: asyncio.Runner) -> float:
    gc.collect()
    if inspect.iscoroutinefunction(operation):
        return runner.run(_async_slot(operation, plan))
    # The subject before this one has filled the processor's caches with its own.
    for number in range(plan.block // 10):
        operation(number)
    passes = 0
    started = perf_counter()
    while perf_counter() - started < plan.slot_s:
        for number in range(plan.block):
            operation(number)
        passes += 1
    return (perf_counter() - started) / (passes * plan.block)


async def _async_slot(operation: Callable[[int], Awaitable[object]], plan: Plan) -> float:
    # As above, without starting the event loop anew for each operation.
    for number in range(plan.block // 10):
        await operation(number)
    passes = 0
    started = perf_counter()
    while perf_counter() - started < plan.slot_s:
        for number in range(plan.block):
            await operation(number)
        passes += 1
    return (perf_counter() - started) / (passes * plan.block)

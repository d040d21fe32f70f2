"""Concurrency: 1 to 256 writers, threads or tasks, each appending to a session of its own or all to the same one.

Then readers, with writers beside them and without.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from benchmarks.databases import BACKENDS
from benchmarks.managers import append, async_append, durability_of, full_session, inhabited, opened
from benchmarks.rounds import alternate
from benchmarks.sections import READ_LIMIT, Bench, Results
from benchmarks.writers import Slot, Taken, compared, ratio, tasks, threads
from sessions_db import AsyncSessionManager, SessionManager

WRITERS: Final = (1, 4, 16, 64, 256)
SESSIONS: Final = {"own": "a session each", "shared": "all in one session"}
MANY: Final = {"sync": "threads", "async": "tasks"}
FACES: Final = tuple(MANY)

READERS: Final = 64
READS: Final[Mapping[str, Callable[[Any, str], Any]]] = {
    "history": lambda manager, key: manager.history(key, READ_LIMIT, include_tools=True),
    "get": lambda manager, key: manager.get(key),
}

ROUNDS = 5
SLOT_S = 0.8

REFERENCE: Final = "sync.own.1"


def run(bench: Bench) -> Results:
    """Every number of writers, and the readers, on both databases, through both managers."""
    results = Results()
    for backend in BACKENDS:
        with opened(inhabited(bench, backend), bench.runner) as (manager, async_manager):
            results.durability[backend] = durability_of(manager)
            keys = [full_session(manager, bench.messages) for _ in range(max(WRITERS))]
            cells = {
                name: partial(Slot.taken, cell) for name, cell in _cells(bench, manager, async_manager, keys).items()
            }
            measured = alternate(cells, bench.plan(ROUNDS).rounds)
        figures = results.figures
        for face, sessions, writers in itertools.product(FACES, SESSIONS, WRITERS):
            cell = f"{face}.{sessions}.{writers}"
            figures |= compared(f"{backend}.{cell}", measured[cell], measured[REFERENCE])
        for face, read in itertools.product(FACES, READS):
            beside, alone = (measured[f"{face}.{read}.{which}"] for which in ("beside", "alone"))
            for measure in ("p50", "p99"):
                figures[f"{backend}.{face}.{read}.{measure}"] = ratio(measure, beside, alone)
    return results


def _cells(
    bench: Bench, manager: SessionManager, async_manager: AsyncSessionManager, keys: list[str]
) -> dict[str, Callable[[], Taken]]:
    slot_s = bench.plan(ROUNDS, SLOT_S).slot_s
    in_threads = [append(manager, key, bench.messages) for key in keys]
    in_tasks = [async_append(async_manager, key, bench.messages) for key in keys]
    cells: dict[str, Callable[[], Taken]] = {}
    for sessions, writers in itertools.product(SESSIONS, WRITERS):
        chosen = slice(writers) if sessions == "own" else slice(1)
        times = writers if sessions == "shared" else 1
        cells[f"sync.{sessions}.{writers}"] = partial(threads, in_threads[chosen] * times, slot_s)
        cells[f"async.{sessions}.{writers}"] = partial(tasks, in_tasks[chosen] * times, slot_s, bench.runner)
    for read, (name, writers) in itertools.product(READS, (("alone", 0), ("beside", READERS))):
        reads, async_reads = (
            [partial(_read, READS[read], opened, key) for key in keys[:READERS]] for opened in (manager, async_manager)
        )
        cells[f"sync.{read}.{name}"] = partial(threads, reads, slot_s, in_threads[:writers])
        cells[f"async.{read}.{name}"] = partial(tasks, async_reads, slot_s, bench.runner, in_tasks[:writers])
    return cells


def _read(
    read: Callable[[Any, str], Any], manager: SessionManager | AsyncSessionManager, key: str, _number: int
) -> Any:
    return read(manager, key)

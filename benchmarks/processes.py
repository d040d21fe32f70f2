"""Writers in processes of their own: eight processes at once, and the library as it was at an earlier commit.

Such a process imports the library from the checkout it is given. So nothing here imports it before that is set.
"""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Final

from sqlalchemy import URL

from benchmarks.conversations import ChatMessage
from benchmarks.databases import BACKENDS, TITLES, Durability
from benchmarks.environment import ROOT
from benchmarks.rounds import alternate
from benchmarks.sections import Bench, Results
from benchmarks.writers import Slot, Taken, compared, ratio, tasks, threads

PROCESSES: Final = 8
THREADS: Final = 8
WRITERS: Final = PROCESSES * THREADS

TOGETHER: Final = {
    "processes.shared": "8 processes of 8 threads, all in one session",
    "processes.own": "8 processes of 8 threads, eight sessions that all share",
}
ALONE: Final = {
    "sync.own.1": "one writer, sync",
    "async.own.1": "one writer, async",
    "sync.own.64": "64 threads, a session each",
    "sync.shared.64": "64 threads, all in one session",
    "async.own.64": "64 tasks, a session each",
    "async.shared.64": "64 tasks, all in one session",
}
"""What the writers of one process do, for the comparison with an earlier commit."""

STARTS: Final = {
    "start.spawn": "a spawn",
    "start.spawn with a label": "a spawn with a label",
    "start.import": "a session imported",
}
"""How one process starts sessions, one after the other, for the same comparison."""

ROUNDS = 11
SLOT_S = 0.8

_REFERENCE = "sync.own.1"

_WARM_UP_S = 0.1
_PATIENCE_S = 60.0

# Of a writing process: what it appends, and where those that write together meet before they start.
_messages: Sequence[ChatMessage]
_together: Barrier


def run(bench: Bench) -> Results:
    """Eight processes; with an earlier commit, also what one does: with the library as it is, and as it was."""
    checkouts = {"now": ROOT} | ({} if bench.before is None else {"before": bench.before.resolve()})
    results = Results(notes={"before": None if bench.before is None else _commit(bench.before)})
    plan = bench.plan(ROUNDS, SLOT_S)
    names = [_REFERENCE, *TOGETHER] if bench.before is None else [*ALONE, *STARTS, *TOGETHER]
    with ExitStack() as stack:
        pools = {
            (code, processes): stack.enter_context(_pool(checkout, processes, bench.messages))
            for code, checkout in checkouts.items()
            for processes in (1, PROCESSES)
        }
        for backend in BACKENDS:
            # A database for each cell: what the fast ones leave behind, such as dead rows, would slow the others.
            cells = {}
            for name, code in itertools.product(names, checkouts):
                url = bench.databases.create(backend)
                keys, durability = pools[code, 1].submit(_fill, url).result()
                results.durability[f"{TITLES[backend]}, {code}"] = durability
                pool = pools[code, PROCESSES if name in TOGETHER else 1]
                cells[f"{name}.{code}"] = partial(_slot, pool, url, name, keys, plan.slot_s)
            measured = alternate(cells, plan.rounds)
            for name in TOGETHER:
                slots, reference = measured[f"{name}.now"], measured[f"{_REFERENCE}.now"]
                results.figures |= compared(f"{backend}.now.{name}", slots, reference)
            for name, measure in itertools.product(names if bench.before else (), ("throughput", "p99", "longest")):
                figure = ratio(measure, measured[f"{name}.now"], measured[f"{name}.before"])
                results.figures[f"{backend}.before.{name}.{measure}"] = figure
    return results


def _commit(checkout: Path) -> str:
    command = ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"]
    return subprocess.check_output(command, text=True).strip()  # noqa: S603  # the caller's own argument


def _pool(checkout: Path, processes: int, messages: Sequence[ChatMessage]) -> ProcessPoolExecutor:
    context = get_context("spawn")
    initial = (str(checkout), messages, context.Barrier(processes))
    return ProcessPoolExecutor(processes, context, _initialize, initial)


def _slot(pool: ProcessPoolExecutor, url: URL, name: str, keys: list[str], seconds: float) -> Slot:
    """What the writers of that name do together."""
    face, sessions, *writers = name.split(".")
    if face == "start":
        return Slot.of(pool.submit(_start, url, sessions, keys[0], seconds).result())
    if face == "processes":
        writing, processes = THREADS, PROCESSES
    else:
        writing, processes = int(writers[0]), 1
    chosen = keys[:writing] if sessions == "own" else keys[:1] * writing
    # Each of the processes takes one: none returns before all have come.
    taken = [pool.submit(_write, url, face, chosen, seconds) for _ in range(processes)]
    return Slot.of(*(own.result() for own in taken))


# What follows runs in the writing processes.


def _initialize(checkout: str, messages: Sequence[ChatMessage], together: Barrier) -> None:
    global _messages, _together
    _messages, _together = messages, together
    sys.path.insert(0, checkout)
    import sessions_db  # noqa: PLC0415  # from that checkout

    assert Path(sessions_db.__file__).is_relative_to(checkout), f"{sessions_db.__file__} is not in {checkout}"


def _fill(url: URL) -> tuple[list[str], Durability]:
    """The keys of full sessions in the database, which it fills, and its durability."""
    from benchmarks import managers  # noqa: PLC0415  # imports the library
    from sessions_db import SessionManager  # noqa: PLC0415

    managers.inhabit(url)
    with SessionManager(url) as manager:
        return [managers.full_session(manager, _messages) for _ in range(WRITERS)], managers.durability_of(manager)


def _write(url: URL, face: str, keys: list[str], seconds: float) -> Taken:
    """Append through a manager of its own, which has warmed up before the clock starts."""
    from benchmarks import managers  # noqa: PLC0415  # imports the library

    with asyncio.Runner() as runner, managers.opened(url, runner) as (manager, async_manager):
        if face == "async":
            in_tasks = [managers.async_append(async_manager, key, _messages) for key in keys]
            write = partial(tasks, in_tasks, runner=runner)
        else:
            write = partial(threads, [managers.append(manager, key, _messages) for key in keys])
        write(seconds=_WARM_UP_S)
        _together.wait(_PATIENCE_S)
        return write(seconds=seconds)


def _start(url: URL, what: str, parent_key: str, seconds: float) -> Taken:
    """Start one session after the other."""
    from benchmarks.starting import OPERATIONS  # noqa: PLC0415  # imports the library
    from sessions_db import SessionManager  # noqa: PLC0415

    with SessionManager(url) as manager:
        start = OPERATIONS[what](manager, parent_key, _messages)
        threads([start], _WARM_UP_S)
        return threads([start], seconds)

"""Growth: what operations cost in databases of a thousand to a million sessions, and how large those are.

The databases stand beside each other and take turns, so that each size is compared with the smallest of the same
round. Sessions are drawn at random from all that a database holds: in a large one, nearly every access is to one that
was not touched before. That is harder than what a service does, whose active sessions are few: so appends and reads are
measured among a thousand of them too, scattered over the whole database.

What is in memory is compared: before each operation is measured every database is read through once, or the figure for
a large one would be that of a disk. What the system has memory for may still be less than all of it.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

from sqlalchemy import URL

from benchmarks import filling
from benchmarks.databases import BACKENDS, text
from benchmarks.managers import durability_of, opened
from benchmarks.rounds import Subject, cost, interleaved
from benchmarks.sections import READ_LIMIT, Bench, Results
from sessions_db import SessionManager

SIZES = (1_000, 10_000, 100_000, 1_000_000)
_QUICK_SIZES = (1_000, 10_000)

_ACTIVE = ", 1,000 active"

# Appends come last: in a small database they make each session longer, and reading it slower.
OPERATIONS = ("history", f"history{_ACTIVE}", "get_by_label", "list", "spawn", "append", f"append{_ACTIVE}")

ROUNDS = 9

_PAGE = 20
_DRAWS = 100_000
_SEED = 10


def run(bench: Bench) -> Results:
    """Every operation at every size, on both databases."""
    sizes = _QUICK_SIZES if bench.quick else SIZES
    results = Results(notes={"sizes": sizes, "bytes_per_session": {}})
    for backend in BACKENDS:
        _grow(bench, results, backend, sizes)
    return results


def _grow(bench: Bench, results: Results, backend: str, sizes: Sequence[int]) -> None:
    urls, results.notes["bytes_per_session"][backend] = _databases(bench, backend, sizes)
    with ExitStack() as stack:
        managers = {size: stack.enter_context(opened(url)) for size, url in urls.items()}
        results.durability[backend] = durability_of(managers[sizes[0]])
        for operation in OPERATIONS:
            subjects = [_subject(operation, manager, size) for size, manager in managers.items()]
            for url in urls.values():
                bench.databases.read_through(url)
            times = interleaved(subjects, bench.plan(ROUNDS), bench.runner)
            for size in sizes:
                figure = cost(times, str(size), against=str(sizes[0]))
                results.figures[f"{backend}.{operation}.{size}"] = figure


def _databases(bench: Bench, backend: str, sizes: Sequence[int]) -> tuple[dict[int, URL], dict[str, float]]:
    """A database of each size, and the bytes that one of its sessions takes."""
    growing = bench.databases.create(backend)
    SessionManager(text(growing)).close()
    empty = bench.databases.size(growing)
    urls: dict[int, URL] = {}
    bytes_per_session: dict[str, float] = {}
    for start, size in itertools.pairwise((0, *sizes)):
        filling.fill(growing, start, size)
        bytes_per_session[str(size)] = (bench.databases.size(growing) - empty) / size
        urls[size] = growing if size == sizes[-1] else bench.databases.create(backend, template=growing)
    return urls, bytes_per_session


def _subject(operation: str, manager: SessionManager, size: int) -> Subject:
    chance = random.Random(_SEED)
    drawn = chance.sample(range(size), 1_000) if operation.endswith(_ACTIVE) else range(size)
    numbers = chance.choices(drawn, k=_DRAWS)
    match operation.removesuffix(_ACTIVE):
        case "append":
            keys = _endless(map(filling.key, numbers))
            return Subject(str(size), lambda number: manager.add_message(next(keys), "user", _TEXTS[number % 10]))
        case "history":
            keys = _endless(map(filling.key, numbers))
            return Subject(str(size), lambda _number: manager.history(next(keys), READ_LIMIT, include_tools=True))
        case "get_by_label":
            labels = _endless(map(filling.label, numbers))
            return Subject(str(size), lambda _number: manager.get_by_label(next(labels)))
        case "list":
            return Subject(str(size), lambda _number: manager.list(limit=_PAGE))
        case _:
            agents = itertools.cycle(range(filling.AGENTS))
            return Subject(str(size), lambda _number: manager.spawn_subagent(f"agent-{next(agents):03}", _TEXTS[0]))


_TEXTS = [f"Passenger {number} would like a seat at the window, if there is one left." for number in range(10)]


def _endless(values: Iterator[str]) -> Iterator[str]:
    return itertools.cycle(list(values))

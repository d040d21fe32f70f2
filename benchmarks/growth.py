"""Growth: what operations cost in databases of a thousand to a million sessions, and how large those are.

All sizes are measured interleaved, so each is compared with the smallest in the same round. Sessions are drawn at
random from the whole database, so in a large one nearly every access is to a session that was not touched before. A
service works with few active sessions: appends and reads are also measured with a thousand, spread over the database.

Before each operation is measured, every database is read once into the operating system's cache, or the figure for a
large one would be that of a disk. What doesn't fit into memory still comes from there.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from contextlib import ExitStack

from sqlalchemy import URL

from benchmarks import filling
from benchmarks.databases import BACKENDS
from benchmarks.managers import durability_of
from benchmarks.rounds import Operation, cost, interleaved
from benchmarks.sections import READ_LIMIT, Bench, Results
from sessions_db import SessionManager

SIZES = (1_000, 10_000, 100_000, 1_000_000)
_QUICK_SIZES = (1_000, 10_000)

_ACTIVE = ", 1,000 active"

# Appends come last: they make the sessions of a small database longer, and so slower to read.
OPERATIONS = ("history", f"history{_ACTIVE}", "get_by_label", "list", "spawn", "append", f"append{_ACTIVE}")

ROUNDS = 9

_PAGE = 20
_DRAWS = 100_000
_SEED = 10
_TEXTS = [f"Passenger {number} would like a seat at the window, if there is one left." for number in range(10)]


def run(bench: Bench) -> Results:
    """Every operation at every size, on both databases."""
    sizes = _QUICK_SIZES if bench.quick else SIZES
    results = Results(notes={"sizes": sizes, "bytes_per_session": {}})
    for backend in BACKENDS:
        urls = _databases(bench, backend, results)
        with ExitStack() as stack:
            managers = {size: stack.enter_context(SessionManager(url)) for size, url in urls.items()}
            results.durability[backend] = durability_of(managers[sizes[0]])
            for operation in OPERATIONS:
                subjects = {str(size): _operation(operation, manager, size) for size, manager in managers.items()}
                for url in urls.values():
                    bench.databases.read_through(url)
                times = interleaved(subjects, bench.plan(ROUNDS), bench.runner)
                for size in subjects:
                    figure = cost(times, size, against=str(sizes[0]))
                    results.figures[f"{backend}.{operation}.{size}"] = figure
    return results


def _databases(bench: Bench, backend: str, results: Results) -> dict[int, URL]:
    """A database of each size. Notes how many bytes a session takes in each."""
    growing = bench.databases.create(backend)
    SessionManager(growing).close()
    empty = bench.databases.size(growing)
    urls: dict[int, URL] = {}
    bytes_per_session: list[float] = []
    sizes = results.notes["sizes"]
    for start, size in itertools.pairwise((0, *sizes)):
        filling.fill(growing, start, size)
        bytes_per_session.append((bench.databases.size(growing) - empty) / size)
        urls[size] = growing if size == sizes[-1] else bench.databases.create(backend, template=growing)
    results.notes["bytes_per_session"][backend] = bytes_per_session
    return urls


def _operation(operation: str, manager: SessionManager, size: int) -> Operation:
    chance = random.Random(_SEED)
    drawn = chance.sample(range(size), 1_000) if operation.endswith(_ACTIVE) else range(size)
    numbers = chance.choices(drawn, k=_DRAWS)
    keys = _endless(map(filling.key, numbers))
    match operation.removesuffix(_ACTIVE):
        case "append":
            return lambda number: manager.add_message(next(keys), "user", _TEXTS[number % 10])
        case "history":
            return lambda _number: manager.history(next(keys), READ_LIMIT, include_tools=True)
        case "get_by_label":
            labels = _endless(map(filling.label, numbers))
            return lambda _number: manager.get_by_label(next(labels))
        case "list":
            return lambda _number: manager.list(limit=_PAGE)
        case _:
            agents = itertools.cycle(range(filling.AGENTS))
            return lambda _number: manager.spawn_subagent(f"agent-{next(agents):03}", _TEXTS[0])


def _endless(values: Iterator[str]) -> Iterator[str]:
    return itertools.cycle(list(values))

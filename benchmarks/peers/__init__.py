"""The peers: what one might use instead, at equal durability, each used as its documentation shows."""

from __future__ import annotations

import warnings
from contextlib import AsyncExitStack
from functools import partial
from importlib.metadata import version
from typing import Final

from benchmarks.databases import BACKENDS, TITLES, in_wal_mode
from benchmarks.managers import inhabited
from benchmarks.names import (
    ADK,
    AGNO_POSTGRES,
    AGNO_SQLITE,
    DRIVER,
    LANGCHAIN,
    LANGCHAIN_POSTGRES,
    OPENAI_SQLALCHEMY,
    OPENAI_SQLITE,
    OURS,
    OURS_ASYNC,
    ROLLBACK_JOURNAL,
)
from benchmarks.peers import agno, google_adk, langchain, openai_agents, ours
from benchmarks.peers.peer import Opener, Peer
from benchmarks.rounds import AsyncOperation, alternate, cost, interleaved
from benchmarks.sections import Bench, Results
from benchmarks.writers import Slot, ratio, tasks

ROUNDS = 11
TASKS_SLOT_S = 1.5

_PACKAGES = ("openai-agents", "google-adk", "langchain-community", "langchain-postgres", "agno")

_OURS: Final[dict[str, Opener]] = {OURS: ours.sync, OURS_ASYNC: ours.asynchronous, DRIVER: ours.driver}

_PEERS: Final[dict[str, dict[str, Opener]]] = {
    "sqlite": {
        OPENAI_SQLITE: openai_agents.sqlite_sessions,
        OPENAI_SQLALCHEMY: openai_agents.sqlalchemy_sessions,
        ADK: google_adk.sessions,
        f"{ADK}{ROLLBACK_JOURNAL}": google_adk.sessions,
        LANGCHAIN: langchain.sql_histories,
        f"{LANGCHAIN}{ROLLBACK_JOURNAL}": langchain.sql_histories,
        AGNO_SQLITE: agno.sqlite_runs,
    },
    "postgresql": {
        OPENAI_SQLALCHEMY: openai_agents.sqlalchemy_sessions,
        ADK: google_adk.sessions,
        LANGCHAIN: langchain.sql_histories,
        LANGCHAIN_POSTGRES: langchain.postgres_histories,
        AGNO_POSTGRES: agno.postgres_runs,
    },
}


def run(bench: Bench) -> Results:
    """Every peer on each database that it has a store for."""
    results = Results(notes={"versions": {package: version(package) for package in _PACKAGES}})
    # The peers' deprecation warnings are not what is measured.
    with warnings.catch_warnings(action="ignore"):
        for backend in BACKENDS:
            stack = AsyncExitStack()
            try:
                peers = bench.runner.run(_open(bench, backend, stack))
                _compare(bench, results, backend, peers)
            finally:
                bench.runner.run(stack.aclose())
    return results


async def _open(bench: Bench, backend: str, stack: AsyncExitStack) -> dict[str, Peer]:
    peers: dict[str, Peer] = {}
    for name, opener in _OURS.items():
        peers[name] = await stack.enter_async_context(opener(inhabited(bench, backend), bench.messages))
    for name, opener in _PEERS[backend].items():
        url = bench.databases.create(backend)
        # Some peers leave a new SQLite file in rollback-journal mode, so they are given one in WAL mode.
        if backend == "sqlite" and not name.endswith(ROLLBACK_JOURNAL):
            url = in_wal_mode(url)
        peers[name] = await stack.enter_async_context(opener(url, bench.messages))
    return peers


def _compare(bench: Bench, results: Results, backend: str, peers: dict[str, Peer]) -> None:
    for name, peer in peers.items():
        results.durability[f"{TITLES[backend]}: {name}"] = peer.durability
        if peer.durability != peers[OURS].durability and not name.endswith(ROLLBACK_JOURNAL):
            raise SystemExit(f"{name} has other durability settings than the library: {peer.durability}")
    # Reads come first, while a peer's tables hold nothing but the messages to read.
    for action in ("read", "append"):
        subjects = {name: getattr(peer, action) for name, peer in peers.items()}
        times = interleaved(subjects, bench.plan(ROUNDS), bench.runner)
        for name in subjects:
            results.figures[f"{backend}.{action}.{name}"] = cost(times, name, against=OURS)
    _tasks(bench, results, backend, peers)


def _tasks(bench: Bench, results: Results, backend: str, peers: dict[str, Peer]) -> None:
    """`TASKS` tasks at once, through the store's async interface."""
    plan = bench.plan(ROUNDS, TASKS_SLOT_S)
    cells = {}
    for name, peer in peers.items():
        if peer.tasks and not name.endswith(ROLLBACK_JOURNAL):
            # What a store does only the first time.
            for operation in peer.tasks:
                bench.runner.run(_awaited(operation))
            cells[name] = partial(Slot.taken, partial(tasks, peer.tasks, plan.slot_s, bench.runner))
    measured = alternate(cells, plan.rounds)
    for name, slots in measured.items():
        results.figures[f"{backend}.tasks.{name}"] = ratio("throughput", measured[OURS_ASYNC], slots)
        results.figures[f"{backend}.tasks_p99.{name}"] = ratio("p99", slots, measured[OURS_ASYNC])


async def _awaited(operation: AsyncOperation) -> None:
    await operation(0)

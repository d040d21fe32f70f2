"""Against the peers: append one message, read the newest ones, at equal durability.

Every reader has a session of as many messages as ours retains. None of the peers trims: while they are appended to,
they keep everything, which spares them the deletion that ours makes with each append.
"""

from __future__ import annotations

import warnings
from contextlib import ExitStack
from importlib.metadata import version
from typing import cast

from sqlalchemy import URL

from benchmarks import managers
from benchmarks.databases import BACKENDS, Durability, in_wal_mode
from benchmarks.peers import Opener, Peer, agno, google_adk, langchain, openai_agents, ours
from benchmarks.rounds import Subject, finish, interleaved, speed
from benchmarks.sections import Bench, Results

ROUNDS = 11

OURS, OURS_ASYNC = "sessions_db", "sessions_db, async"

PACKAGES = ("openai-agents", "google-adk", "langchain-community", "langchain-postgres", "agno")

_EVERYWHERE: dict[str, Opener] = {
    OURS: ours.Sync.open,
    **({OURS_ASYNC: ours.Async.open} if managers.HAS_ASYNC else {}),
    "OpenAI Agents, SQLAlchemySession": openai_agents.SQLAlchemySessions.open,
    "Google ADK, DatabaseSessionService": google_adk.DatabaseSessions.open,
    "LangChain, SQLChatMessageHistory": langchain.SQLHistories.open,
}

PEERS: dict[str, dict[str, Opener]] = {
    "sqlite": _EVERYWHERE
    | {"OpenAI Agents, SQLiteSession": openai_agents.SQLiteSessions.open, "Agno, SqliteDb": agno.Runs.open},
    "postgresql": _EVERYWHERE
    | {
        "LangChain, PostgresChatMessageHistory": langchain.PostgresHistories.open,
        "Agno, PostgresDb": agno.Runs.open,
    },
}


def run(bench: Bench) -> Results:
    """Every peer on every database that it has a store for."""
    results = Results(notes={"versions": {package: version(package) for package in PACKAGES}})
    # Deprecations among the peers and their dependencies are not what is measured.
    with warnings.catch_warnings(action="ignore"):
        for backend in BACKENDS:
            _compare(bench, results, backend)
    return results


def _compare(bench: Bench, results: Results, backend: str) -> None:
    with ExitStack() as stack:
        peers: dict[str, Peer] = {}
        for name, opener in PEERS[backend].items():
            peer = cast("Peer", finish(opener(_database(bench, backend), bench.messages), bench.runner))
            stack.callback(lambda peer=peer: finish(peer.close(), bench.runner))
            peers[name] = peer
        found = {name: cast("Durability", finish(peer.durability(), bench.runner)) for name, peer in peers.items()}
        results.durability |= {f"{_TITLES[backend]}: {name}": settings for name, settings in found.items()}
        if any(settings != found[OURS] for settings in found.values()):
            raise SystemExit(f"Not equally durable, so not to be compared: {found}")
        for action in ("append", "read"):
            subjects = [Subject(name, getattr(peer, action)) for name, peer in peers.items()]
            times = interleaved(subjects, bench.plan(ROUNDS), bench.runner)
            for name in peers:
                results.figures[f"{backend}.{action}.{name}"] = speed(times, OURS, name)


_TITLES = {"sqlite": "SQLite", "postgresql": "Postgres"}


def _database(bench: Bench, backend: str) -> URL:
    # Some of the peers leave a new SQLite file in its rollback journal. They are given one that is in WAL mode.
    url = bench.databases.create(backend)
    return in_wal_mode(url) if backend == "sqlite" else url

"""Against the peers: append one message, read the newest ones, at equal durability.

Every reader has a session of as many messages as ours retains, ours in a database of a thousand other sessions. None
of the peers trims: while they are appended to, they keep everything, which spares them the deletion that ours makes
with each append.
"""

from __future__ import annotations

import warnings
from contextlib import ExitStack
from importlib.metadata import version
from typing import cast

from sqlalchemy import URL

from benchmarks.databases import BACKENDS, TITLES, Durability, in_wal_mode
from benchmarks.managers import inhabited
from benchmarks.peers import Opener, Peer, agno, driver, google_adk, langchain, openai_agents, ours
from benchmarks.peers.names import (
    ADK,
    AGNO,
    AS_IT_COMES,
    DRIVER,
    LANGCHAIN,
    LANGCHAIN_POSTGRES,
    OPENAI_SQLALCHEMY,
    OPENAI_SQLITE,
    OURS,
    OURS_ASYNC,
)
from benchmarks.rounds import Subject, finish, interleaved, speed
from benchmarks.sections import Bench, Results

ROUNDS = 11

PACKAGES = ("openai-agents", "google-adk", "langchain-community", "langchain-postgres", "agno")

_PEERS: dict[str, dict[str, Opener]] = {
    "sqlite": {
        OURS: ours.Sync.open,
        OURS_ASYNC: ours.Async.open,
        DRIVER: driver.Driver.open,
        OPENAI_SQLITE: openai_agents.SQLiteSessions.open,
        OPENAI_SQLALCHEMY: openai_agents.SQLAlchemySessions.open,
        ADK: google_adk.DatabaseSessions.open,
        f"{ADK}{AS_IT_COMES}": google_adk.DatabaseSessions.open,
        LANGCHAIN: langchain.SQLHistories.open,
        f"{LANGCHAIN}{AS_IT_COMES}": langchain.SQLHistories.open,
        AGNO["sqlite"]: agno.Runs.open,
    },
    "postgresql": {
        OURS: ours.Sync.open,
        OURS_ASYNC: ours.Async.open,
        DRIVER: driver.Driver.open,
        OPENAI_SQLALCHEMY: openai_agents.SQLAlchemySessions.open,
        ADK: google_adk.DatabaseSessions.open,
        LANGCHAIN: langchain.SQLHistories.open,
        LANGCHAIN_POSTGRES: langchain.PostgresHistories.open,
        AGNO["postgresql"]: agno.Runs.open,
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
        for name, opener in _PEERS[backend].items():
            url = _database(bench, backend, name)
            peer = cast("Peer", finish(opener(url, bench.messages), bench.runner))
            stack.callback(_close, peer, bench)
            peers[name] = peer
        found = {name: cast("Durability", finish(peer.durability(), bench.runner)) for name, peer in peers.items()}
        for name, settings in found.items():
            results.durability[f"{TITLES[backend]}: {name}"] = settings
            if settings != found[OURS] and not name.endswith(AS_IT_COMES):
                raise SystemExit(f"{name} is not as durable as ours, so not to be compared: {settings}")
        # Reads come first: then a peer's tables hold nothing but the messages to be read.
        for action in ("read", "append"):
            subjects = [
                Subject(name, getattr(peer, action))
                for name, peer in peers.items()
                if action == "append" or not name.endswith(AS_IT_COMES)
            ]
            times = interleaved(subjects, bench.plan(ROUNDS), bench.runner)
            for subject in subjects:
                results.figures[f"{backend}.{action}.{subject.name}"] = speed(times, OURS, subject.name)


def _close(peer: Peer, bench: Bench) -> None:
    finish(peer.close(), bench.runner)


def _database(bench: Bench, backend: str, name: str) -> URL:
    if name in (OURS, OURS_ASYNC, DRIVER):
        return inhabited(bench, backend)
    url = bench.databases.create(backend)
    # Some of the peers leave a new SQLite file in its rollback journal: they are given one that is in WAL mode.
    return in_wal_mode(url) if backend == "sqlite" and not name.endswith(AS_IT_COMES) else url

"""The goals that the measured figures are held to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from benchmarks.concurrency import MANY, SESSIONS
from benchmarks.databases import TITLES
from benchmarks.names import (
    ADK,
    LANGCHAIN_POSTGRES,
    OPENAI_SQLALCHEMY,
    OPENAI_SQLITE,
    PEERS,
    STATEMENT,
    THREE_STATEMENTS,
)
from benchmarks.processes import ALONE, STARTS, TOGETHER


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound for a figure of a section. Of several figures, the worst must keep it."""

    what: str
    section: str
    bound: float
    figures: tuple[str, ...]
    at_most: bool = False
    needs_before: bool = False
    """Whether it is against an earlier commit."""
    ceiling: str | None = None
    """The figure of the section `ceiling` that says what the plain driver reaches."""


def _reads(backend: str) -> tuple[str, ...]:
    return tuple(f"{backend}.read.{peer}" for peer in PEERS[backend])


def _tasks(backend: str) -> tuple[str, ...]:
    return tuple(f"{backend}.tasks.{peer}" for peer in PEERS[backend])


def _grown(backend: str) -> tuple[str, ...]:
    return tuple(f"{backend}.{operation}.1000000" for operation in ("append", "history", "list"))


_LANGCHAIN = "Postgres append against LangChain's `PostgresChatMessageHistory`"
_GROWTH = "cost of append, history and list at 10⁶ sessions against 10³"
_FULL, _NORMAL = (f"sqlite.{synchronous}.append.{THREE_STATEMENTS}" for synchronous in ("FULL", "NORMAL"))

# The writers, their sessions, and how many times the throughput of one sync writer they reach.
_THROUGHPUTS = (
    ("sqlite", "async", "own", 7),
    ("sqlite", "async", "shared", 10),
    ("sqlite", "sync", "own", 4.5),
    ("sqlite", "sync", "shared", 6),
    ("postgresql", "async", "own", 7),
    ("postgresql", "async", "shared", 12),
    ("postgresql", "sync", "own", 7),
    ("postgresql", "sync", "shared", 8),
)


def _throughput(backend: str, face: str, sessions: str, bound: float) -> Goal:
    what = f"{TITLES[backend]}, 64 {MANY[face]}, {SESSIONS[sessions]}: throughput against one sync writer"
    figures = (f"{backend}.{face}.{sessions}.64.throughput",)
    return Goal(what, "concurrency", bound, figures, ceiling=f"{backend}.{sessions}")


def _before(
    backend: str,
    what: str,
    bound: float,
    measure: str,
    cells: Iterable[str],
    *,
    at_most: bool = False,
    ceiling: str | None = None,
) -> Goal:
    figures = tuple(f"{backend}.before.{cell}.{measure}" for cell in cells)
    return Goal(f"{TITLES[backend]}: {what}", "processes", bound, figures, at_most, needs_before=True, ceiling=ceiling)


_MANY_WRITERS = tuple(cell for cell in ALONE if cell.endswith(".64"))
_ONE_WRITER = tuple(cell for cell in ALONE if cell.endswith(".1"))

_AGAINST_BEFORE = (
    _before("sqlite", "p99 at 64 writers, against before", 0.2, "p99", _MANY_WRITERS, at_most=True),
    _before("postgresql", "p99 at 64 writers, against before", 0.6, "p99", _MANY_WRITERS, at_most=True),
    _before("sqlite", "one writer, against before", 0.97, "throughput", _ONE_WRITER),
    _before("postgresql", "one writer, against before", 0.97, "throughput", _ONE_WRITER),
    _before("sqlite", "8 processes of 8 threads, against before", 1.6, "throughput", TOGETHER),
    *(
        _before("postgresql", f"{TOGETHER[cell]}, against before", bound, "throughput", (cell,))
        for cell, bound in (("processes.shared", 4), ("processes.own", 1))
    ),
    *(
        _before(
            backend,
            f"{STARTS[cell]}, against before",
            bound,
            "throughput",
            (cell,),
            ceiling=f"{backend}.{cell.removeprefix('start.')}",
        )
        for backend in TITLES
        for cell, bound in zip(STARTS, (2.5, 3, 5), strict=True)
    ),
    *(
        _before(
            backend, "8 processes of 8 threads: longest append, against before", 1, "longest", TOGETHER, at_most=True
        )
        for backend in TITLES
    ),
)

GOALS: Final = (
    Goal("SQLite append, WAL + FULL, against raw `sqlite3`", "floor", 0.75, (_FULL,)),
    Goal("SQLite append, WAL + NORMAL, against raw `sqlite3`", "floor", 0.45, (_NORMAL,)),
    Goal("Postgres append against raw psycopg", "floor", 0.75, (f"postgresql.FULL.append.{STATEMENT}",)),
    Goal("SQLite: read newest 50 against raw driver rows", "floor", 0.30, ("sqlite.read.rows",)),
    Goal("Postgres: read newest 50 against raw driver rows", "floor", 0.65, ("postgresql.read.rows",)),
    Goal("SQLite append against OpenAI `SQLiteSession`", "peers", 1.2, (f"sqlite.append.{OPENAI_SQLITE}",)),
    Goal("SQLite append against OpenAI `SQLAlchemySession`", "peers", 8, (f"sqlite.append.{OPENAI_SQLALCHEMY}",)),
    Goal("Postgres append against OpenAI `SQLAlchemySession`", "peers", 5, (f"postgresql.append.{OPENAI_SQLALCHEMY}",)),
    Goal("SQLite append against ADK", "peers", 20, (f"sqlite.append.{ADK}",)),
    Goal("Postgres append against ADK", "peers", 9, (f"postgresql.append.{ADK}",)),
    Goal(_LANGCHAIN, "peers", 1.2, (f"postgresql.append.{LANGCHAIN_POSTGRES}",)),
    Goal("SQLite: read newest 50 against the best of the peers", "peers", 2, _reads("sqlite")),
    Goal("Postgres: read newest 50 against the best of the peers", "peers", 2, _reads("postgresql")),
    Goal("SQLite, 64 tasks: append against the best of the peers", "peers", 10, _tasks("sqlite")),
    *(_throughput(*row) for row in _THROUGHPUTS),
    Goal("SQLite: a batch of 20 messages against 20 appends", "floor", 5, ("sqlite.batch",)),
    Goal("Postgres: a batch of 20 messages against 20 appends", "floor", 5, ("postgresql.batch",)),
    *_AGAINST_BEFORE,
    Goal(f"SQLite: {_GROWTH}", "growth", 1.3, _grown("sqlite"), at_most=True),
    Goal(f"Postgres: {_GROWTH}", "growth", 1.3, _grown("postgresql"), at_most=True),
)

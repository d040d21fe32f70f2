"""The goals that the measured figures are held to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from benchmarks.names import (
    ADK,
    LANGCHAIN_POSTGRES,
    OPENAI_SQLALCHEMY,
    OPENAI_SQLITE,
    PEERS,
    STATEMENT,
    THREE_STATEMENTS,
)


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound for a figure of a section. Of several figures, the worst must keep it."""

    what: str
    section: str
    bound: float
    figures: tuple[str, ...]
    at_most: bool = False


def _reads(backend: str) -> tuple[str, ...]:
    return tuple(f"{backend}.read.{peer}" for peer in PEERS[backend])


def _grown(backend: str) -> tuple[str, ...]:
    return tuple(f"{backend}.{operation}.1000000" for operation in ("append", "history", "list"))


_LANGCHAIN = "Postgres append against LangChain's `PostgresChatMessageHistory`"
_THROUGHPUT = "Postgres, async, 64 tasks, a session each: throughput against the sync single writer"
_GROWTH = "cost of append, history and list at 10⁶ sessions against 10³"
_FULL, _NORMAL = (f"sqlite.{synchronous}.append.{THREE_STATEMENTS}" for synchronous in ("FULL", "NORMAL"))

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
    Goal(_THROUGHPUT, "concurrency", 1.3, ("postgresql.async.own.64.throughput",)),
    Goal("SQLite: a batch of 20 messages against 20 appends", "floor", 5, ("sqlite.batch",)),
    Goal("Postgres: a batch of 20 messages against 20 appends", "floor", 5, ("postgresql.batch",)),
    Goal(f"SQLite: {_GROWTH}", "growth", 1.3, _grown("sqlite"), at_most=True),
    Goal(f"Postgres: {_GROWTH}", "growth", 1.3, _grown("postgresql"), at_most=True),
)

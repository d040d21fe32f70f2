"""What must be reached, and whether it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from benchmarks.peers.names import (
    ADK,
    DRIVER,
    LANGCHAIN_POSTGRES,
    OPENAI_SQLALCHEMY,
    OPENAI_SQLITE,
    PEERS,
)

Kept: TypeAlias = Mapping[str, Mapping[str, Any]]
"""The results of the sections that were measured, by section."""


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound for a figure, or for the worst of several."""

    what: str
    section: str
    figures: Mapping[str, str]  # what each is called in the page, by name
    bound: float
    at_most: bool = False

    def met_by(self, median: float) -> bool:
        """Whether that figure is good enough."""
        return median <= self.bound if self.at_most else median >= self.bound


@dataclass(frozen=True, slots=True)
class Outcome:
    """A goal with the figure that decides it, None where the section was not measured.

    `by_driver` is what the plain driver reaches with the library's statement, where that was measured too.
    """

    goal: Goal
    which: str
    figure: Mapping[str, float] | None
    by_driver: float | None = None

    @property
    def met(self) -> bool:
        """Whether the goal was reached."""
        return self.figure is not None and self.goal.met_by(self.figure["median"])


def _read(backend: str) -> dict[str, str]:
    return {f"{backend}.read.{peer}": peer for peer in PEERS[backend]}


def _grown(backend: str) -> dict[str, str]:
    return {f"{backend}.{operation}.1000000": operation for operation in ("append", "history", "list")}


GOALS = (
    Goal("SQLite append, WAL + FULL, against raw `sqlite3`", "floor", {"sqlite.FULL.append": ""}, 0.75),
    Goal("SQLite append, WAL + NORMAL, against raw `sqlite3`", "floor", {"sqlite.NORMAL.append": ""}, 0.45),
    Goal("Postgres append against raw psycopg", "floor", {"postgresql.append": ""}, 0.75),
    Goal("SQLite: read newest 50 against raw driver rows", "floor", {"sqlite.read": ""}, 0.30),
    Goal("Postgres: read newest 50 against raw driver rows", "floor", {"postgresql.read": ""}, 0.65),
    Goal("SQLite append against OpenAI `SQLiteSession`", "peers", {f"sqlite.append.{OPENAI_SQLITE}": ""}, 1.2),
    Goal("SQLite append against OpenAI `SQLAlchemySession`", "peers", {f"sqlite.append.{OPENAI_SQLALCHEMY}": ""}, 8),
    Goal(
        "Postgres append against OpenAI `SQLAlchemySession`", "peers", {f"postgresql.append.{OPENAI_SQLALCHEMY}": ""}, 5
    ),
    Goal("SQLite append against ADK", "peers", {f"sqlite.append.{ADK}": ""}, 20),
    Goal("Postgres append against ADK", "peers", {f"postgresql.append.{ADK}": ""}, 9),
    Goal(
        "Postgres append against LangChain's `PostgresChatMessageHistory`",
        "peers",
        {f"postgresql.append.{LANGCHAIN_POSTGRES}": ""},
        1.2,
    ),
    Goal("SQLite: read newest 50 against the best of the peers", "peers", _read("sqlite"), 2),
    Goal("Postgres: read newest 50 against the best of the peers", "peers", _read("postgresql"), 2),
    Goal(
        "Postgres, async, 64 tasks, a session each: throughput against the sync single writer",
        "concurrency",
        {"postgresql.async.own.64.throughput": ""},
        1.3,
    ),
    Goal("SQLite: a batch of 20 messages against 20 appends", "floor", {"sqlite.batch": ""}, 5),
    Goal("Postgres: a batch of 20 messages against 20 appends", "floor", {"postgresql.batch": ""}, 5),
    Goal("SQLite: cost of append, history and list at 10⁶ sessions against 10³", "growth", _grown("sqlite"), 1.3, True),
    Goal(
        "Postgres: cost of append, history and list at 10⁶ sessions against 10³",
        "growth",
        _grown("postgresql"),
        1.3,
        True,
    ),
)


def outcomes(kept: Kept) -> Iterator[Outcome]:
    """What became of each goal."""
    for goal in GOALS:
        figures = kept.get(goal.section, {}).get("figures", {})
        found = {which: figures[name] for name, which in goal.figures.items() if name in figures}
        if len(found) < len(goal.figures):
            yield Outcome(goal, "", None)
            continue
        worst: Callable[..., str] = max if goal.at_most else min
        which = worst(found, key=lambda which: found[which]["median"])
        yield Outcome(goal, which, found[which], _by_driver(goal, figures))


def _by_driver(goal: Goal, figures: Mapping[str, Mapping[str, float]]) -> float | None:
    name, *others = goal.figures
    backend, action, *_ = name.split(".")
    driver = figures.get(f"{backend}.{action}.{DRIVER}")
    # Not reads: the driver leaves rows as they are.
    return None if driver is None or others or action != "append" else figures[name]["median"] / driver["median"]

"""What a writer does, drawn from a seed, so that the seed tells which operation came next."""

from __future__ import annotations

import itertools
import random
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from sessions_db import NewMessage, Role

# Caps that trim on nearly every append, some that a batch exceeds, and one that nothing here reaches.
_CAPS = (1, 2, 3, 5, 8, 100)

_FEWEST_SESSIONS, _MOST_SESSIONS = 4, 10


@dataclass(frozen=True)
class Spawn:
    """Create a session, with its name as its task."""

    session: str
    label: str | None
    message_cap: int
    archive_trimmed: bool


@dataclass(frozen=True)
class Append:
    """Append to a session, in one call."""

    session: str
    messages: tuple[NewMessage, ...]


@dataclass(frozen=True)
class Complete:
    """End a session as completed, if it has not ended."""

    session: str


@dataclass(frozen=True)
class Delete:
    """Delete a session."""

    session: str


Step: TypeAlias = Spawn | Append | Complete | Delete

Operation: TypeAlias = tuple[Step, ...]
"""One call, or several in one transaction."""


def operations(seed: str, sessions: Collection[str]) -> Iterator[Operation]:
    """An endless stream of operations, starting with these sessions."""
    draw = random.Random(seed)
    present = sorted(sessions)
    for number in itertools.count(1):
        operation = _operation(draw, f"{seed}, operation {number}", present)
        for step in operation:
            if isinstance(step, Spawn):
                present.append(step.session)
            elif isinstance(step, Delete):
                present.remove(step.session)
        yield operation


def _operation(draw: random.Random, name: str, present: list[str]) -> Operation:
    match _kind(draw, len(present)):
        case "append":
            return (Append(draw.choice(present), _messages(draw, name, 1)),)
        case "batch":
            return (Append(draw.choice(present), _messages(draw, name, draw.randint(2, 12))),)
        case "transaction":
            return tuple(
                Append(draw.choice(present), _messages(draw, f"{name}, step {step}", draw.randint(1, 4)))
                for step in range(draw.randint(2, 5))
            )
        case "complete":
            session = draw.choice(present)
            return Append(session, _messages(draw, name, 1)), Complete(session)
        case "delete":
            return (Delete(draw.choice(present)),)
    spawn = Spawn(name, draw.choice([None, "first", "second"]), draw.choice(_CAPS), draw.random() < 0.3)
    return draw.choice([(spawn,), (spawn, Append(name, _messages(draw, name, draw.randint(1, 4))))])


def _kind(draw: random.Random, present: int) -> str:
    if present < _FEWEST_SESSIONS:
        return "spawn"
    if present > _MOST_SESSIONS:
        return "delete"
    kinds = ["append", "batch", "transaction", "spawn", "complete", "delete"]
    return draw.choices(kinds, [7, 4, 4, 2, 1, 1])[0]


def _messages(draw: random.Random, name: str, size: int) -> tuple[NewMessage, ...]:
    keyed = draw.random() < 0.5
    return tuple(
        NewMessage(
            draw.choice(list(Role)),
            # Some are larger than a page of the database.
            f"{name}, message {number}" + " and so on" * draw.choice([0, 0, 0, 10, 1000]),
            tool_name=draw.choice([None, "search"]),
            metadata=draw.choice([None, {"number": number, "nested": {"ü": [1.5, None, name]}}]),
            idempotency_key=f"{name}, key {number}" if keyed else None,
        )
        for number in range(1, size + 1)
    )

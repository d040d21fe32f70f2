"""What a section of the benchmark works with, and what it leaves behind."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.conversations import ChatMessage
from benchmarks.databases import Databases, Durability
from benchmarks.rounds import Figure, Plan

RETAINED = 100
"""How many messages a session holds while it is appended to and read."""

READ_LIMIT = 50
"""How many of the newest messages everybody reads."""


@dataclass(frozen=True, slots=True)
class Bench:
    """The databases, the `RETAINED` messages and the patience of one run."""

    databases: Databases
    messages: Sequence[ChatMessage]
    runner: asyncio.Runner
    quick: bool

    def plan(self, rounds: int, slot_s: float = 0.5) -> Plan:
        """A plan for a full run, or what a quick one makes of it."""
        if self.quick:
            return Plan(rounds=min(rounds, 3), slot_s=min(slot_s, 0.1), block=20)
        return Plan(rounds=rounds, slot_s=slot_s, block=RETAINED)


@dataclass(slots=True)
class Results:
    """The figures of a section by name, and what else its part of the report needs."""

    figures: dict[str, Figure] = field(default_factory=dict)
    durability: dict[str, Durability] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The results as JSON."""
        return {
            "figures": {name: figure.to_dict() for name, figure in self.figures.items()},
            "durability": {name: dict(settings) for name, settings in self.durability.items()},
            "notes": self.notes,
        }

"""What a section of the benchmarks is given, and what it returns."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from benchmarks.conversations import ChatMessage
from benchmarks.databases import Databases, Durability
from benchmarks.rounds import Figure, Plan

RETAINED = 100
"""How many messages a session holds while it is appended to and read."""

READ_LIMIT = 50
"""How many of the newest messages a read asks for."""


@dataclass(frozen=True, slots=True)
class Bench:
    """The databases and the `RETAINED` messages of a run, whether it is a quick one, and a checkout to compare with."""

    databases: Databases
    messages: Sequence[ChatMessage]
    runner: asyncio.Runner
    quick: bool
    before: Path | None = None

    def plan(self, rounds: int, slot_s: float = 0.5) -> Plan:
        """How long to measure: these rounds and slots, or less in a quick run."""
        if self.quick:
            return Plan(rounds=min(rounds, 3), slot_s=min(slot_s, 0.1), block=20)
        return Plan(rounds=rounds, slot_s=slot_s, block=RETAINED)


@dataclass(slots=True)
class Results:
    """The figures of a section by name, and what else its part of the page needs. Survives JSON."""

    figures: dict[str, Figure] = field(default_factory=dict)
    durability: dict[str, Durability] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    origin: dict[str, str] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> Self:
        """The results in the file."""
        kept = json.loads(path.read_text(encoding="utf-8"))
        kept["figures"] = {name: Figure(**figure) for name, figure in kept["figures"].items()}
        return cls(**kept)

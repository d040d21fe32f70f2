"""What limits a spawn."""

from __future__ import annotations

from dataclasses import dataclass, fields

from sessions_db import validation


@dataclass(frozen=True, slots=True, kw_only=True)
class SpawnLimits:
    """How far spawning may go; None sets no limit. Sessions that are there count, whoever spawned them.

    Args:
        max_depth: sessions above the new one, up to one that has no parent.
        max_children: active sessions with the same parent, the new one included.
        max_active: active sub-agent and cron sessions of the new one's agent, itself included.

    Raises:
        InvalidInput: a limit is not an integer from 0.
    """

    max_depth: int | None = None
    max_children: int | None = None
    max_active: int | None = None

    def __post_init__(self) -> None:
        for each in fields(self):
            validation.optional_integer(each.name, getattr(self, each.name), minimum=0)

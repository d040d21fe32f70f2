"""Figures about a database."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sessions_db.models.camel_case import camel_case
from sessions_db.validation import JsonValue


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """How much a database holds.

    `appended` counts every message that the sessions ever had; `trimmed` are those no longer retained, and `archived`
    are the trimmed ones that were kept in the archive. `oldest` and `newest` are by creation, and `longest_idle` is the
    active session whose last activity is longest ago; each is a key with that time in milliseconds since the
    epoch, UTC. The counts by kind, status and agent are sorted, largest first.
    """

    sessions: int
    by_kind: Mapping[str, int] = field(hash=False)
    by_status: Mapping[str, int] = field(hash=False)
    by_agent: Mapping[str, int] = field(hash=False)
    labels: int
    appended: int
    retained: int
    trimmed: int
    archived: int
    events: int
    database_bytes: int
    oldest: tuple[str, int] | None
    newest: tuple[str, int] | None
    longest_idle: tuple[str, int] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """How many messages of a session are archived, and the numbers of the first and the last one."""

    session_key: str
    count: int
    first_seq: int
    last_seq: int

    def to_dict(self) -> dict[str, JsonValue]:
        """The counts as camelCase JSON."""
        return camel_case(self)

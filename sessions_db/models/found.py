"""What a search found."""

from __future__ import annotations

from dataclasses import dataclass

from sessions_db.models.camel_case import camel_case
from sessions_db.validation import JsonValue


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchHit:
    """A text that a search found: a message's content, or the task or label of a session.

    `field` is `content`, `task` or `label`. `seq` is the number of the message, and None for a task or label. `at_ms`
    is when the message was sent, or when the session was created (milliseconds since the epoch, UTC). `snippet` is
    what was found with up to 60 characters on each side; it is as stored, and may hold control characters.
    """

    session_key: str
    field: str
    seq: int | None
    at_ms: int
    snippet: str

    def to_dict(self) -> dict[str, JsonValue]:
        """The hit as camelCase JSON, without fields that are None."""
        return camel_case(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """What a search found, and how far it came.

    `complete` is whether everything was read; otherwise the search stopped at its limit or its time limit, in the
    session that was created at `reached_ms` (milliseconds since the epoch, UTC), which may be read in part.
    `sessions` is how many sessions it read, that one included. `reached_ms` is None if it read none.
    """

    hits: tuple[SearchHit, ...]
    sessions: int
    complete: bool
    reached_ms: int | None

    def to_dict(self) -> dict[str, JsonValue]:
        """The result as camelCase JSON, without fields that are None."""
        return {**camel_case(self), "hits": [hit.to_dict() for hit in self.hits]}

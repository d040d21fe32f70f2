"""Which sessions a call is about: the filters of `list`, `iterate`, `count`, the sweeps and the export."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Final

from sqlalchemy import ColumnElement, literal, select

from sessions_db.enums import SessionKind, SessionStatus
from sessions_db.schema import sessions

# No text has one.
_FIRST_SURROGATE: Final = 0xD800
_AFTER_SURROGATES: Final = 0xE000


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The sessions that pass every filter that is given."""

    keys: Collection[str] | None = None
    key_prefix: str | None = None
    kinds: Collection[SessionKind] | None = None
    statuses: Collection[SessionStatus] | None = None
    agent_ids: Collection[str] | None = None
    parent_keys: Collection[str] | None = None
    under: str | None = None
    active_since_ms: int | None = None
    created_from_ms: int | None = None
    created_before_ms: int | None = None

    def conditions(self) -> list[ColumnElement[bool]]:
        """The condition for each filter."""
        of, found = sessions.c, self._on_key()
        if self.kinds is not None:
            found.append(of.kind.in_(self.kinds))
        if self.statuses is not None:
            found.append(of.status.in_(self.statuses))
        if self.agent_ids is not None:
            found.append(is_one_of(of.agent_id, self.agent_ids))
        if self.parent_keys is not None:
            found.append(is_one_of(of.parent_key, self.parent_keys))
        if self.active_since_ms is not None:
            found.append(of.last_activity_ms >= self.active_since_ms)
        if self.created_from_ms is not None:
            found.append(of.created_ms >= self.created_from_ms)
        if self.created_before_ms is not None:
            found.append(of.created_ms < self.created_before_ms)
        return found

    def _on_key(self) -> list[ColumnElement[bool]]:
        key, found = sessions.c.key, list[ColumnElement[bool]]()
        if self.keys is not None:
            found.append(key.in_(self.keys))
        if self.key_prefix is not None:
            found += begins_with(key, self.key_prefix)
        if self.under is not None:
            found += is_below(literal(self.under, key.type))
        return found


def begins_with(key: ColumnElement[str], prefix: str) -> Iterator[ColumnElement[bool]]:
    """The conditions for a key that begins so: a range, because no planner takes a pattern's parameter to an index."""
    # Keys sort by their bytes.
    yield key >= prefix
    # What begins so comes before all that begins with the next character in the place of the last.
    shortened = prefix.rstrip(chr(sys.maxunicode))
    if shortened:
        following = ord(shortened[-1]) + 1
        yield key < shortened[:-1] + chr(_AFTER_SURROGATES if following == _FIRST_SURROGATE else following)


def is_one_of(column: ColumnElement[str], values: Collection[str]) -> ColumnElement[bool]:
    """The condition that the column has one of the values."""
    # Rows with one value come out of an index in the order of its next column, which no planner sees in a list of one.
    return column == next(iter(values)) if len(values) == 1 else column.in_(values)


def is_below(key: ColumnElement[str]) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    """The conditions for a session that the one with this key spawned, directly or indirectly."""
    tree = select(sessions.c.key).where(sessions.c.parent_key == key).cte("tree", recursive=True)
    # UNION drops keys that were met before, unlike UNION ALL: it ends a cycle, which only SQL by hand can make.
    tree = tree.union(select(sessions.c.key).where(sessions.c.parent_key == tree.c.key))
    return sessions.c.key.in_(select(tree.c.key)), sessions.c.key != key

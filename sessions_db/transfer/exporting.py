"""Exporting sessions as JSON Lines, which `importing` reads into this or another database."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sessions_db.enums import SessionKind, SessionStatus
from sessions_db.manager import SessionManager
from sessions_db.models import StoredSession
from sessions_db.transfer.lines import to_line


@dataclass(frozen=True, slots=True)
class Export:
    """How many lines there are, and the lines, which are read lazily."""

    total: int
    lines: Iterator[bytes]


@contextmanager
def export_lines(
    manager: SessionManager,
    *,
    agent_id: str | None = None,
    kinds: Collection[SessionKind | str] | None = None,
    statuses: Collection[SessionStatus | str] | None = None,
) -> Iterator[Export]:
    """The sessions that pass every filter that is given, one per line, oldest first, from one snapshot.

    Consume the lines within the block. The same sessions give the same bytes on both databases. Writers are not
    blocked.

    Raises:
        InvalidInput: an argument is not valid.
        DatabaseUnavailable: the database can no longer be read.
    """
    with manager.snapshot() as tx:

        def stored_sessions() -> Iterator[StoredSession]:
            last = None
            while page := tx.export_sessions(agent_id=agent_id, kinds=kinds, statuses=statuses, after=last):
                yield from page
                last = page[-1]

        total = tx.count(kinds, agent_id=agent_id, status=statuses)
        yield Export(total, map(to_line, stored_sessions()))

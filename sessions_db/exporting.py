"""Exporting sessions: JSON Lines out, which `importing` reads into this or another database."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sessions_db import validation
from sessions_db.errors import translated
from sessions_db.manager import SessionManager
from sessions_db.models import SessionKind, SessionStatus
from sessions_db.operations.transferring import Selection
from sessions_db.session_lines import to_line


@dataclass(frozen=True, slots=True)
class Export:
    """How many lines there are, and the lines, read while they are taken."""

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
    """The sessions that pass each filter given, a line each, the oldest first, as they were at one moment.

    The lines are to be taken within the block. The same sessions give the same bytes on both databases. `manager`
    must be a read-only one: on Postgres another one would see the changes that others make meanwhile, on SQLite it
    would keep them from writing.

    Raises:
        InvalidInput: an argument is not what it must be.
        DatabaseUnavailable: it can't be read any more.
    """
    selection = Selection(
        agent_id=None if agent_id is None else validation.agent_id(agent_id),
        kinds=None if kinds is None else validation.choices("kinds", kinds, SessionKind),
        statuses=None if statuses is None else validation.choices("statuses", statuses, SessionStatus),
    )
    with manager.transaction() as tx, translated(tx.connection):
        yield Export(selection.count(tx.connection), map(to_line, selection.read(tx.connection)))

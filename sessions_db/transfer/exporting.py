"""Exporting sessions as JSON Lines, which `importing` reads into this or another database."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import zip_longest

from sessions_db.enums import SessionKind, SessionStatus
from sessions_db.errors import SessionNotFound
from sessions_db.manager import SessionManager
from sessions_db.transfer.lines import to_line
from sessions_db.transfer.proving import proof_line, seals_line


@dataclass(frozen=True, slots=True)
class Export:
    """How many sessions there are, and the lines, which are read lazily."""

    total: int
    lines: Iterator[bytes]


@contextmanager
def export_lines(
    manager: SessionManager,
    *,
    agent_id: str | Collection[str] | None = None,
    kinds: Collection[SessionKind | str] | None = None,
    statuses: Collection[SessionStatus | str] | None = None,
    keys: Collection[str] | None = None,
    proof: bool = False,
) -> Iterator[Export]:
    """The sessions that pass every filter that is given, one per line, oldest first, from one snapshot.

    Consume the lines within the block. The same sessions give the same bytes on both databases. Writers are not
    blocked. With `proof`, the first line has all seals, and after each session comes a line that proves its messages,
    for `verify_export`.

    Raises:
        SessionNotFound: there is no session with one of the `keys`.
        InvalidInput: an argument is not valid.
        DatabaseUnavailable: the database can no longer be read.
    """
    with manager.snapshot() as tx:

        def lines() -> Iterator[bytes]:
            if proof:
                yield seals_line(tx.seals())
            last = None
            while page := tx.export_sessions(agent_id=agent_id, kinds=kinds, statuses=statuses, keys=keys, after=last):
                proofs = tx.proofs([session.key for session in page]) if proof else []
                for session, proved in zip_longest(page, proofs):
                    yield to_line(session)
                    if proved is not None:
                        yield proof_line(proved)
                last = page[-1]

        if keys is None:
            total = tx.count(kinds, agent_id=agent_id, status=statuses)
        else:
            for key in keys:
                if tx.history(key, limit=0) is None:
                    raise SessionNotFound(key)
            total = len({*keys})
        yield Export(total, lines())

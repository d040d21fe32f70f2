"""Seals: digests over the log and over what was said, kept elsewhere, so that neither can be rewritten unnoticed.

The digest of an event is that of its row (`sessions_db.digests`). A seal's `events_digest` is over a line for each
event since the seal before it, by id: its id, its at_ms and its digest. Its `transcripts_digest` is the root of the
Merkle tree over the digests of its transcripts, by session key and number. A seal's digest is that of its row, the
digest itself left out. Anyone who holds the last seal's digest can check the log without trusting its owner.

What a digest D that is kept elsewhere proves: only the row that was sealed has it. So D vouches for where its seal
ends, `through_event_id`, and for the seals, events and transcripts before it. Verifying since D therefore checks that
D's row has this digest, which needs no event, and recomputes every seal after it from the events beyond D's
`through_event_id`. A digest E that is expected must be among those, or be D itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any, Final

from sqlalchemy import Connection, Row, Table, func, insert, literal, select, tuple_

from sessions_db import clock
from sessions_db.database import backend_of
from sessions_db.digests import FIRST, Lines, Tree, own_digest, row_digest
from sessions_db.models import Seal, Transcript
from sessions_db.operations.operation import Needs, needs
from sessions_db.schema import event_digests, event_seals, sealed_transcripts, session_events

PAGE: Final = 1000
"""How many rows are read at once."""


@needs(Needs.TRANSACTION)
def last_event_id(conn: Connection) -> int:
    """The id of the newest event, 0 if there is none. No event with a lower id can come later."""
    # On Postgres, a writer takes an id before it commits. The lock waits for the writers that have one, and is released
    # with this transaction: other writers wait for a moment, not for the whole seal.
    backend_of(conn).lock_table(conn, session_events.name, "SHARE")
    return conn.execute(select(func.max(session_events.c.id))).scalar_one() or 0


@needs(Needs.TRANSACTION)
def seal(conn: Connection, through_event_id: int, actor: str | None) -> Seal | None:
    """The seal over the events up to this one, and over the transcripts that are in no seal yet.

    The last seal if there is nothing new; None if there is no event. Takes time in proportion to what is new.
    """
    backend_of(conn).lock_table(conn, event_seals.name, "EXCLUSIVE")
    last = _newest_seal(conn)
    after_id = last.through_event_id if last else 0
    seal_id = last.id + 1 if last else 1
    tree = transcripts_tree(conn, seal_id)
    if through_event_id <= after_id and not tree.length:
        return last
    # Another seal may have got further since.
    through_event_id = max(through_event_id, after_id)
    lines = Lines()
    while events := rows_by_event(conn, session_events, after_id, through_event_id):
        leaves = [{"event_id": event.id, "at_ms": event.at_ms, "digest": row_digest(event)} for event in events]
        conn.execute(insert(event_digests), leaves)
        for leaf in leaves:
            lines.add(leaf["event_id"], leaf["at_ms"], leaf["digest"])
        after_id = events[-1].id
    made = Seal(
        id=seal_id,
        sealed_ms=clock.now_ms(),
        actor=actor,
        through_event_id=through_event_id,
        event_count=lines.length,
        previous_digest=last.digest if last else FIRST,
        events_digest=lines.digest(),
        transcript_count=tree.length,
        transcripts_digest=tree.root(),
        digest="",
    )
    made = replace(made, digest=own_digest(made))
    conn.execute(insert(event_seals).values(asdict(made)))
    return made


def transcript_of(row: Sequence[Any]) -> Transcript:
    """The transcript that is in a row of its table."""
    return Transcript(**dict(zip(sealed_transcripts.c.keys(), row, strict=True)))


def transcripts_tree(conn: Connection, seal_id: int) -> Tree:
    """The tree over the transcripts of this seal."""
    return Tree(_transcript_digests(conn, seal_id))


def _transcript_digests(conn: Connection, seal_id: int) -> Iterator[str]:
    position = sealed_transcripts.c.session_key, sealed_transcripts.c.number
    after: tuple[str, int] = ("", 0)
    while True:
        query = select(*position, sealed_transcripts.c.digest).where(sealed_transcripts.c.seal_id == seal_id)
        later = tuple_(*position) > tuple_(*map(literal, after))
        rows = conn.execute(query.where(later).order_by(*position).limit(PAGE)).all()
        yield from (digest for _, _, digest in rows)
        if len(rows) < PAGE:
            return
        after = rows[-1][0], rows[-1][1]


@needs(Needs.READ)
def seals(conn: Connection) -> list[Seal]:
    """All seals, oldest first."""
    return [Seal(**row) for row in conn.execute(select(event_seals).order_by(event_seals.c.id)).mappings()]


def _newest_seal(conn: Connection) -> Seal | None:
    found = conn.execute(select(event_seals).order_by(event_seals.c.id.desc()).limit(1)).mappings().one_or_none()
    return None if found is None else Seal(**found)


def rows_by_event(
    conn: Connection, table: Table, after_id: int, through_id: int, limit: int | None = PAGE
) -> Sequence[Row[Any]]:
    """The rows of a table whose key is an event's id, by that id."""
    (event_id,) = table.primary_key
    query = select(table).where(event_id > after_id, event_id <= through_id).order_by(event_id).limit(limit)
    return conn.execute(query).all()

"""Seals: digests over the log that are kept elsewhere, so that a rewritten log can't pass for the original.

The digest of a row is the SHA-256 of its columns as a JSON array in UTF-8, without spaces, in the order of the table's
columns. A seal's `events_digest` is the SHA-256 of a line for each event since the seal before it, by id, ended by a
line feed: its id, its at_ms and its digest, separated by spaces. A seal's digest is that of its row, the digest itself
left out. Digests are in hexadecimal. Anyone who holds the last seal's digest can check the log without trusting its
owner.

What a digest D that is kept elsewhere proves: only the row that was sealed has it. So D vouches for where its seal
ends, `through_event_id`, and for the seals and events before it, by `previous_digest` and `events_digest`. Verifying
since D therefore checks that D's row has this digest, which needs no event, and recomputes every seal after it from the
events beyond D's `through_event_id`. A digest E that is expected must be among those, or be D itself.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, astuple, dataclass, replace
from datetime import timedelta
from itertools import pairwise
from typing import Any, Final

from sqlalchemy import Connection, Row, Table, func, insert, or_, select

from sessions_db import clock
from sessions_db.database import backend_of
from sessions_db.models import Seal, Verdict
from sessions_db.operations.operation import Needs, needs
from sessions_db.operations.retention import log_retention
from sessions_db.schema import event_digests, event_seals, session_events

_FIRST: Final = "0" * 64
_PAGE: Final = 1000


@needs(Needs.TRANSACTION)
def last_event_id(conn: Connection) -> int:
    """The id of the newest event, 0 if there is none. No event with a lower id can come later."""
    # On Postgres, a writer takes an id before it commits. The lock waits for the writers that have one, and is released
    # with this transaction: other writers wait for a moment, not for the whole seal.
    backend_of(conn).lock_table(conn, session_events.name, "SHARE")
    return conn.execute(select(func.max(session_events.c.id))).scalar_one() or 0


@needs(Needs.TRANSACTION)
def seal(conn: Connection, through_event_id: int, actor: str | None) -> Seal | None:
    """The seal over the events up to this one, or the last seal if it reaches as far; None if there is no event.

    Takes time in proportion to the events since the last seal.
    """
    backend_of(conn).lock_table(conn, event_seals.name, "EXCLUSIVE")
    last = _newest_seal(conn)
    after_id = last.through_event_id if last else 0
    if through_event_id <= after_id:
        return last
    chain = _Chain()
    while events := _rows(conn, session_events, after_id, through_event_id):
        leaves = [{"event_id": event.id, "at_ms": event.at_ms, "digest": _digest(event)} for event in events]
        conn.execute(insert(event_digests), leaves)
        for leaf in leaves:
            chain.add(**leaf)
        after_id = events[-1].id
    made = Seal(
        id=last.id + 1 if last else 1,
        sealed_ms=clock.now_ms(),
        actor=actor,
        through_event_id=through_event_id,
        event_count=chain.length,
        previous_digest=last.digest if last else _FIRST,
        events_digest=chain.digest(),
        digest="",
    )
    made = replace(made, digest=_seal_digest(made))
    conn.execute(insert(event_seals).values(asdict(made)))
    return made


@needs(Needs.SNAPSHOT)
def verify(conn: Connection, *, expect: str | None, since: str | None) -> Verdict:
    """Whether the sealed events are as they were sealed.

    Takes time in proportion to the events since the seal `since`.
    """
    seals = [Seal(**row) for row in conn.execute(select(event_seals).order_by(event_seals.c.id)).mappings()]
    newest = seals[-1] if seals else None
    found = _Found()
    try:
        _look_for_fault(conn, seals, found, expect=expect, since=since)
        fault = _Fault(None, None)
    except _Fault as raised:
        fault = raised
    through_id = newest.through_event_id if newest else 0
    unsealed = select(func.count()).select_from(session_events).where(session_events.c.id > through_id)
    return Verdict(
        fault=fault.text,
        event_id=fault.event_id,
        seal=newest,
        verified=found.verified,
        expired=found.expired,
        unsealed=conn.execute(unsealed).scalar_one(),
    )


def _newest_seal(conn: Connection) -> Seal | None:
    found = conn.execute(select(event_seals).order_by(event_seals.c.id.desc()).limit(1)).mappings().one_or_none()
    return None if found is None else Seal(**found)


class _Fault(Exception):
    def __init__(self, event_id: int | None, text: str | None) -> None:
        super().__init__(event_id, text)
        self.event_id = event_id
        self.text = text


@dataclass(slots=True)
class _Found:
    verified: int = 0
    expired: int = 0


class _Chain:
    """The digest of a seal, computed event by event."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self.length = 0

    def add(self, event_id: int, at_ms: int, digest: str) -> None:
        self._hash.update(f"{event_id} {at_ms} {digest}\n".encode())
        self.length += 1

    def digest(self) -> str:
        return self._hash.hexdigest()


def _look_for_fault(
    conn: Connection, seals: Sequence[Seal], found: _Found, *, expect: str | None, since: str | None
) -> None:
    """Count what is as it was sealed; raise the first fault."""
    for table in (session_events, event_digests):
        (event_id,) = table.primary_key
        outside = select(event_id).where(or_(event_id < 1, event_id.is_(None))).order_by(event_id).limit(1)
        for (number,) in conn.execute(outside):
            raise _Fault(number, f"in {table.name} has a number that is never given")
    digests = [made.digest for made in seals]
    for wanted in (expect, since):
        if wanted is not None and wanted not in digests:
            raise _Fault(None, f"no seal has the digest {wanted}")
    before = None
    if since is not None:
        before = seals[digests.index(since)]
        if _seal_digest(before) != since:
            raise _Fault(None, f"seal {before.id} was changed")
        seals = seals[digests.index(since) + 1 :]
        if expect not in (None, since, *(made.digest for made in seals)):
            raise _Fault(None, f"the seal {expect} does not come after the seal {since}")
    for made in seals:
        _check(conn, made, before, found)
        before = made
    after_id = before.through_event_id if before else 0
    stray = select(func.min(event_digests.c.event_id)).where(event_digests.c.event_id > after_id)
    if (stray_id := conn.execute(stray).scalar_one()) is not None:
        raise _Fault(stray_id, "has a digest that no seal covers")


def _check(conn: Connection, made: Seal, before: Seal | None, found: _Found) -> None:
    """Count what this seal covers; raise the fault with the lowest event id."""
    # A younger event can't have been deleted: the triggers refuse it.
    kept_since_ms = clock.now_ms() - log_retention(conn) // timedelta(milliseconds=1)
    seal_id, previous_digest, after_id = (
        (before.id, before.digest, before.through_event_id) if before else (0, _FIRST, 0)
    )
    chain = _Chain()
    digest_id = event_digests.c.event_id
    covered_rows = select(func.count()).where(digest_id > after_id, digest_id <= made.through_event_id)
    rows_there = conn.execute(covered_rows).scalar_one()
    while after_id < made.through_event_id:
        leaves = _rows(conn, event_digests, after_id, made.through_event_id)
        until_id = leaves[-1].event_id if len(leaves) == _PAGE else made.through_event_id
        events = _events(conn, after_id, until_id)
        slipped_in = min(events.keys() - {leaf.event_id for leaf in leaves}, default=until_id + 1)
        for leaf in leaves:
            if slipped_in < leaf.event_id:
                break
            event = events.get(leaf.event_id)
            if event is None and leaf.at_ms > kept_since_ms:
                raise _Fault(leaf.event_id, "was removed")
            if event is not None and _digest(event) != leaf.digest:
                raise _Fault(leaf.event_id, "was changed")
            chain.add(leaf.event_id, leaf.at_ms, leaf.digest)
            found.verified += event is not None
            found.expired += event is None
        if slipped_in <= until_id:
            raise _Fault(slipped_in, "was slipped in after its time")
        after_id = until_id
    covered = (seal_id + 1, previous_digest, chain.length, chain.digest())
    # A second row for the last event of a page is not read.
    if rows_there != chain.length or (made.id, made.previous_digest, made.event_count, made.events_digest) != covered:
        raise _Fault(None, f"seal {made.id} is not over the digests that are there for it")
    if made.digest != _seal_digest(made):
        raise _Fault(None, f"seal {made.id} was changed")


def _events(conn: Connection, after_id: int, through_id: int) -> dict[int, Row[Any]]:
    found = _rows(conn, session_events, after_id, through_id, limit=None)
    for event, following in pairwise(found):
        # Somebody dropped the primary key.
        if event.id == following.id:
            raise _Fault(event.id, "is there more than once")
    return {event.id: event for event in found}


def _rows(
    conn: Connection, table: Table, after_id: int, through_id: int, limit: int | None = _PAGE
) -> Sequence[Row[Any]]:
    """The rows of a table whose key is an event's id, by that id."""
    (event_id,) = table.primary_key
    query = select(table).where(event_id > after_id, event_id <= through_id).order_by(event_id).limit(limit)
    return conn.execute(query).all()


def _seal_digest(made: Seal) -> str:
    *columns, _ = astuple(made)
    return _digest(columns)


def _digest(columns: Iterable[object]) -> str:
    text = json.dumps([*columns], ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()

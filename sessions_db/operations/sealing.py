"""Seals: digests over the log that are kept elsewhere, so that a rewritten log can't pass for the original.

An event's digest is the SHA-256 of its columns as a JSON array in UTF-8, without spaces, in the order of the table's
columns. A seal's digest is the SHA-256 of these lines, each ended by a line feed: the digest of the seal before it (64
zeros for the first one), then for each event since then, by id: its id, its at_ms and its digest, separated by spaces.
Digests are in hexadecimal. Anyone who holds the last seal's digest can check the log without trusting its owner.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, Final

from sqlalchemy import Connection, Row, Table, func, insert, select

from sessions_db import clock
from sessions_db.database import backend_of
from sessions_db.limits import EVENT_RETENTION
from sessions_db.models import Seal, Verdict
from sessions_db.operations.operation import Needs, needs
from sessions_db.schema import event_digests, event_seals, session_events

_FIRST: Final = "0" * 64
_PAGE: Final = 1000

# A younger event can't have been deleted: the triggers refuse it.
_KEPT_MS: Final = EVENT_RETENTION // timedelta(milliseconds=1)


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
    previous_digest = last.digest if last else _FIRST
    chain = _Chain(previous_digest)
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
        previous_digest=previous_digest,
        digest=chain.digest(),
    )
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

    def __init__(self, previous_digest: str) -> None:
        self._hash = hashlib.sha256(f"{previous_digest}\n".encode())
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
    for wanted in (expect, since):
        if wanted is not None and wanted not in [made.digest for made in seals]:
            raise _Fault(None, f"no seal has the digest {wanted}")
    previous_digest, after_id = _FIRST, 0
    taken_for_granted = since is not None
    for made in seals:
        if not taken_for_granted:
            _check(conn, made, previous_digest, after_id, found)
        taken_for_granted = taken_for_granted and made.digest != since
        previous_digest, after_id = made.digest, made.through_event_id
    stray = select(func.min(event_digests.c.event_id)).where(event_digests.c.event_id > after_id)
    if (stray_id := conn.execute(stray).scalar_one()) is not None:
        raise _Fault(stray_id, "has a digest that no seal covers")


def _check(conn: Connection, made: Seal, previous_digest: str, after_id: int, found: _Found) -> None:
    """Count what this seal covers; raise the fault with the lowest event id."""
    kept_since_ms = clock.now_ms() - _KEPT_MS
    chain = _Chain(previous_digest)
    while after_id < made.through_event_id:
        leaves = _rows(conn, event_digests, after_id, made.through_event_id)
        until_id = leaves[-1].event_id if len(leaves) == _PAGE else made.through_event_id
        events = {event.id: event for event in _rows(conn, session_events, after_id, until_id, limit=None)}
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
    if (made.previous_digest, made.event_count, made.digest) != (previous_digest, chain.length, chain.digest()):
        raise _Fault(None, f"seal {made.id} is not over the digests that are there for it")


def _rows(
    conn: Connection, table: Table, after_id: int, through_id: int, limit: int | None = _PAGE
) -> Sequence[Row[Any]]:
    """The rows of a table whose key is an event's id, by that id."""
    (event_id,) = table.primary_key
    query = select(table).where(event_id > after_id, event_id <= through_id).order_by(event_id).limit(limit)
    return conn.execute(query).all()


def _digest(event: Row[Any]) -> str:
    text = json.dumps([*event], ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()

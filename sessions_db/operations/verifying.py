"""Verifying the log, and what was said, against the seals."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from sqlalchemy import Connection, Row, func, or_, select

from sessions_db import clock
from sessions_db.digests import FIRST, Lines, own_digest, row_digest
from sessions_db.models import Seal, Verdict
from sessions_db.operations.comparing import (
    check_transcripts,
    refuse_stray_transcripts,
    unsealed_messages,
)
from sessions_db.operations.faults import Fault, Found
from sessions_db.operations.operation import Needs, needs
from sessions_db.operations.retention import kept_since_ms
from sessions_db.operations.sealing import PAGE, rows_by_event, seals
from sessions_db.schema import event_digests, session_events


@needs(Needs.SNAPSHOT)
def verify(conn: Connection, *, expect: str | None, since: str | None) -> Verdict:
    """Whether the sealed events and messages are as they were sealed.

    Takes time in proportion to what came since the seal `since`.
    """
    made = seals(conn)
    newest = made[-1] if made else None
    found = Found()
    try:
        _look_for_fault(conn, made, found, expect=expect, since=since)
        fault = Fault(None)
    except Fault as raised:
        fault = raised
    through_id = newest.through_event_id if newest else 0
    unsealed = select(func.count()).select_from(session_events).where(session_events.c.id > through_id)
    return Verdict(
        fault=fault.text,
        event_id=fault.event_id,
        session_key=fault.session_key,
        seq=fault.seq,
        seal=newest,
        verified=found.verified,
        expired=found.expired,
        unsealed=conn.execute(unsealed).scalar_one(),
        messages_verified=found.messages_verified,
        messages_redacted=found.messages_redacted,
        messages_gone=found.messages_gone,
        messages_unsealed=unsealed_messages(conn, newest.id if newest else 0, everywhere=since is None),
    )


def _look_for_fault(
    conn: Connection, every: Sequence[Seal], found: Found, *, expect: str | None, since: str | None
) -> None:
    """Count what is as it was sealed; raise the first fault."""
    for table in (session_events, event_digests):
        (event_id,) = table.primary_key
        outside = select(event_id).where(or_(event_id < 1, event_id.is_(None))).order_by(event_id).limit(1)
        for (number,) in conn.execute(outside):
            raise Fault(f"in {table.name} has a number that is never given", event_id=number)
    digests = [made.digest for made in every]
    for wanted in (expect, since):
        if wanted is not None and wanted not in digests:
            raise Fault(f"no seal has the digest {wanted}")
    before = None
    if since is not None:
        before = every[digests.index(since)]
        if own_digest(before) != since:
            raise Fault(f"seal {before.id} was changed")
        every = every[digests.index(since) + 1 :]
        if expect not in (None, since, *(made.digest for made in every)):
            raise Fault(f"the seal {expect} does not come after the seal {since}")
    # A younger event can't have been deleted: the triggers refuse it.
    kept_ms = kept_since_ms(conn, clock.now_ms())
    for made in every:
        _check(conn, made, before, kept_ms, found)
        before = made
    after_id = before.through_event_id if before else 0
    refuse_stray_transcripts(conn, before.id if before else 0, everywhere=since is None)
    stray = select(func.min(event_digests.c.event_id)).where(event_digests.c.event_id > after_id)
    if (stray_id := conn.execute(stray).scalar_one()) is not None:
        raise Fault("has a digest that no seal covers", event_id=stray_id)


def _check(conn: Connection, made: Seal, before: Seal | None, kept_ms: int, found: Found) -> None:
    """Count what this seal covers; raise the fault with the lowest event id."""
    seal_id, previous_digest, after_id = (
        (before.id, before.digest, before.through_event_id) if before else (0, FIRST, 0)
    )
    chain = Lines()
    digest_id = event_digests.c.event_id
    covered_rows = select(func.count()).where(digest_id > after_id, digest_id <= made.through_event_id)
    rows_there = conn.execute(covered_rows).scalar_one()
    while after_id < made.through_event_id:
        leaves = rows_by_event(conn, event_digests, after_id, made.through_event_id)
        until_id = leaves[-1].event_id if len(leaves) == PAGE else made.through_event_id
        events = _events(conn, after_id, until_id)
        slipped_in = min(events.keys() - {leaf.event_id for leaf in leaves}, default=until_id + 1)
        for leaf in leaves:
            if slipped_in < leaf.event_id:
                break
            event = events.get(leaf.event_id)
            if event is None and leaf.at_ms > kept_ms:
                raise Fault("was removed", event_id=leaf.event_id)
            if event is not None and row_digest(event) != leaf.digest:
                raise Fault("was changed", event_id=leaf.event_id)
            chain.add(leaf.event_id, leaf.at_ms, leaf.digest)
            found.verified += event is not None
            found.expired += event is None
        if slipped_in <= until_id:
            raise Fault("was slipped in after its time", event_id=slipped_in)
        after_id = until_id
    covered = (seal_id + 1, previous_digest, chain.length, chain.digest())
    # A second row for the last event of a page is not read.
    if rows_there != chain.length or (made.id, made.previous_digest, made.event_count, made.events_digest) != covered:
        raise Fault(f"seal {made.id} is not over the digests that are there for it")
    check_transcripts(conn, made, before, found)
    if made.digest != own_digest(made):
        raise Fault(f"seal {made.id} was changed")


def _events(conn: Connection, after_id: int, through_id: int) -> dict[int, Row[Any]]:
    found = rows_by_event(conn, session_events, after_id, through_id, limit=None)
    for event, following in pairwise(found):
        # Somebody dropped the primary key.
        if event.id == following.id:
            raise Fault("is there more than once", event_id=event.id)
    return {event.id: event for event in found}

"""The log: its events and seals, and whether it and the transcripts are as they were sealed."""

from __future__ import annotations

import threading
from typing import Final

from sqlalchemy import select
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from sessions_db.enums import EventKind
from sessions_db.web import asking
from sessions_db.web.reading import Reading
from sessions_db.web.rendering import page
from sessions_db.web.views import EVENTS, SEALS, beginning

_EVENTS: Final = 100
_SEALS: Final = 10
_SHOWN: Final = 300
_VERIFYING_S: Final = 120.0
_AROUND: Final = 5

_EVENT: Final = (
    *(each for each in EVENTS.c if each.name != "reason"),
    beginning(EVENTS.c.reason, _SHOWN),
)

# Verifying reads all that was ever sealed.
_verifying = threading.Lock()


def log(request: Request) -> Response:
    """The events that pass every filter, newest first, a page at a time; and the newest seals."""
    reading: Reading = request.app.state.reading
    query = select(*_EVENT)
    for column, value in (
        (EVENTS.c.event, asking.choice(request, "event", EventKind)),
        (EVENTS.c.session_key, asking.text(request, "session")),
        (EVENTS.c.actor, asking.text(request, "actor")),
        (EVENTS.c.label, asking.text(request, "label")),
    ):
        if value is not None:
            query = query.where(column == value)
    if (since_ms := asking.moment_ms(request, "since")) is not None:
        query = query.where(EVENTS.c.at_ms >= since_ms)
    if (until_ms := asking.moment_ms(request, "until")) is not None:
        query = query.where(EVENTS.c.at_ms < until_ms)
    if (before := asking.integer(request, "before")) is not None:
        query = query.where(EVENTS.c.id < before)
    with reading.snapshot() as tx:
        found = tx.connection.execute(query.order_by(EVENTS.c.id.desc()).limit(_EVENTS + 1)).all()
        seals = tx.connection.execute(select(SEALS).order_by(SEALS.c.id.desc()).limit(_SEALS)).all()
    return page(
        request,
        "log.html",
        rows=found[:_EVENTS],
        before=found[_EVENTS - 1].id if len(found) > _EVENTS else None,
        seals=seals,
        events=list(EventKind),
    )


def verify(request: Request) -> Response:
    """Whether the log and the transcripts are as they were sealed; with a fault, the events around it."""
    reading: Reading = request.app.state.reading
    expect, since = asking.text(request, "expect"), asking.text(request, "since")
    if not _verifying.acquire(blocking=False):
        raise HTTPException(503, "Somebody else is verifying: try again later")
    try:
        with reading.snapshot(_VERIFYING_S) as tx:
            verdict = tx.verify_log(expect=expect, since=since)
            around = None
            if verdict.event_id is not None:
                near = select(*_EVENT).where(EVENTS.c.id <= verdict.event_id + _AROUND)
                around = tx.connection.execute(near.order_by(EVENTS.c.id.desc()).limit(2 * _AROUND + 1)).all()
    finally:
        _verifying.release()
    return page(request, "verify.html", verdict=verdict, around=around)

"""The sessions, newest first."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import ColumnElement, Select, func, literal, or_, select, tuple_
from starlette.requests import Request
from starlette.responses import Response

from sessions_db.enums import SessionKind, SessionStatus
from sessions_db.limits import MAX_INTEGER
from sessions_db.web import asking
from sessions_db.web.reading import OutOfTime, Reading
from sessions_db.web.rendering import page
from sessions_db.web.views import SESSIONS, beginning

_ROWS: Final = 50
_COUNTED: Final = 10_000
_COUNTING_S: Final = 1.0
_SHOWN: Final = 300

LINE: Final = (
    SESSIONS.c.session_key,
    SESSIONS.c.agent_id,
    SESSIONS.c.kind,
    SESSIONS.c.status,
    SESSIONS.c.label,
    beginning(SESSIONS.c.task, _SHOWN),
    beginning(SESSIONS.c.end_reason, _SHOWN),
    SESSIONS.c.created_ms,
    SESSIONS.c.created_at,
    SESSIONS.c.last_activity_at,
    SESSIONS.c.message_count,
)
"""What is shown of a session in a list."""


def sessions(request: Request) -> Response:
    """The sessions that pass every filter, a page at a time."""
    reading: Reading = request.app.state.reading
    conditions = _conditions(request)
    query = select(*LINE).where(*conditions)
    if (position := asking.text(request, "before")) is not None:
        created_ms, key = _position(position)
        query = query.where(tuple_(SESSIONS.c.created_ms, SESSIONS.c.session_key) < tuple_(literal(created_ms), key))
    query = query.order_by(SESSIONS.c.created_ms.desc(), SESSIONS.c.session_key.desc())
    with reading.snapshot() as tx:
        found = tx.connection.execute(query.limit(_ROWS + 1)).all()
    rows, more = found[:_ROWS], len(found) > _ROWS
    is_all = position is None and not more
    return page(
        request,
        "sessions.html",
        rows=rows,
        before=f"{rows[-1].created_ms}:{rows[-1].session_key}" if more else None,
        count=len(rows) if is_all else _count(reading, select(SESSIONS.c.created_ms).where(*conditions)),
        counted=_COUNTED,
        kinds=list(SessionKind),
        statuses=list(SessionStatus),
    )


def _conditions(request: Request) -> list[ColumnElement[bool]]:
    wanted = {
        SESSIONS.c.kind: asking.choice(request, "kind", SessionKind),
        SESSIONS.c.status: asking.choice(request, "status", SessionStatus),
        SESSIONS.c.agent_id: asking.text(request, "agent"),
        SESSIONS.c.label: asking.text(request, "label"),
    }
    conditions = [column == value for column, value in wanted.items() if value is not None]
    if (text := asking.text(request, "text")) is not None:
        texts = (SESSIONS.c.task, SESSIONS.c.label)
        conditions.append(or_(*(each.icontains(text, autoescape=True) for each in texts)))
    if (since_ms := asking.moment_ms(request, "since")) is not None:
        conditions.append(SESSIONS.c.created_ms >= since_ms)
    if (until_ms := asking.moment_ms(request, "until")) is not None:
        conditions.append(SESSIONS.c.created_ms < until_ms)
    return conditions


def _position(position: str) -> tuple[int, str]:
    created_ms, _, key = position.partition(":")
    return asking.to_integer("before", created_ms, minimum=-MAX_INTEGER), key


def _count(reading: Reading, query: Select[Any]) -> int | None:
    """How many there are, up to a limit; None if counting takes long."""
    limited = select(func.count()).select_from(query.limit(_COUNTED).subquery())
    try:
        with reading.snapshot(_COUNTING_S) as tx:
            return tx.connection.execute(limited).scalar_one()
    except OutOfTime:
        return None

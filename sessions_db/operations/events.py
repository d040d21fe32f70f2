"""Reading the log."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import Connection, RowMapping, select

from sessions_db.enums import EventKind
from sessions_db.models import SessionEvent
from sessions_db.operations.operation import Needs, needs
from sessions_db.operations.rows import status_from, telling_damage
from sessions_db.operations.selecting import is_one_of
from sessions_db.schema import session_events


@needs(Needs.READ)
def events(
    conn: Connection,
    *,
    session_keys: Collection[str] | None,
    kinds: Collection[EventKind] | None,
    after_id: int | None,
    limit: int,
) -> list[SessionEvent]:
    """The newest log entries that pass every filter, or the next ones after `after_id`; oldest first."""
    query = select(session_events).limit(limit)
    if session_keys is not None:
        query = query.where(is_one_of(session_events.c.session_key, session_keys))
    if kinds is not None:
        query = query.where(session_events.c.event.in_(kinds))
    if after_id is None:
        query = query.order_by(session_events.c.id.desc())
    else:
        query = query.where(session_events.c.id > after_id).order_by(session_events.c.id)
    return _events(conn.execute(query).mappings().all())


@telling_damage
def _events(rows: Sequence[RowMapping]) -> list[SessionEvent]:
    return sorted((_event(**row) for row in rows), key=lambda event: event.id)


def _event(*, event: str, from_status: str | None, to_status: str | None, **rest: Any) -> SessionEvent:
    return SessionEvent(
        event=EventKind(event),
        from_status=None if from_status is None else status_from(from_status),
        to_status=None if to_status is None else status_from(to_status),
        **rest,
    )

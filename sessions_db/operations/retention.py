"""How long the log is kept: the row of `log_policy`, which the triggers read."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Final

from sqlalchemy import Connection, select, update

from sessions_db.enums import EventKind
from sessions_db.limits import DEFAULT_LOG_DAYS
from sessions_db.operations.operation import Needs, needs
from sessions_db.schema import log_policy, session_events

_MILLISECOND: Final = timedelta(milliseconds=1)


@needs(Needs.READ)
def log_retention(conn: Connection) -> timedelta:
    """How long the database refuses to delete an event."""
    days = conn.execute(select(log_policy.c.retention_days)).scalar_one_or_none()
    return timedelta(days=DEFAULT_LOG_DAYS if days is None else days)


def kept_since_ms(conn: Connection, now_ms: int) -> int:
    """The time after which no event can have been deleted, by the policy of now and by those that the log tells of."""
    kept_ms = now_ms - log_retention(conn) // _MILLISECOND
    changes = select(session_events.c.at_ms, session_events.c.reason).where(
        session_events.c.event == EventKind.RETENTION_CHANGED.value
    )
    for until_ms, reason in conn.execute(changes):
        if (before := re.match(r"(\d{1,5}) -> ", reason or "")) is not None:
            kept_ms = max(kept_ms, until_ms - timedelta(days=int(before[1])) // _MILLISECOND)
    return kept_ms


@needs(Needs.LOGGED_STATEMENT)
def set_log_retention(conn: Connection, days: int) -> None:
    """Change it; the log records the change."""
    conn.execute(update(log_policy).values(retention_days=days))

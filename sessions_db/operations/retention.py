"""How long the log is kept: the row of `log_policy`, which the triggers read."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import Connection, select, update

from sessions_db.limits import DEFAULT_LOG_DAYS
from sessions_db.operations.operation import Needs, needs
from sessions_db.schema import log_policy


@needs(Needs.READ)
def log_retention(conn: Connection) -> timedelta:
    """How long the database refuses to delete an event."""
    days = conn.execute(select(log_policy.c.retention_days)).scalar_one_or_none()
    return timedelta(days=DEFAULT_LOG_DAYS if days is None else days)


@needs(Needs.LOGGED_STATEMENT)
def set_log_retention(conn: Connection, days: int) -> None:
    """Change it; the log records the change."""
    conn.execute(update(log_policy).values(retention_days=days))

"""Figures about the whole database."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Column, Connection, func, select

from sessions_db.database import backend_of
from sessions_db.frozen import FrozenDict
from sessions_db.models import Statistics
from sessions_db.operations.operation import Needs, needs
from sessions_db.schema import archived_messages, labels, messages, session_events, sessions


@needs(Needs.SNAPSHOT)
def statistics(conn: Connection) -> Statistics:
    """The figures, all of one moment."""
    count, appended = conn.execute(
        select(func.count(), func.coalesce(func.sum(sessions.c.last_seq), 0)).select_from(sessions)
    ).one()
    retained = _count(conn, messages)
    by_age = select(sessions.c.key, sessions.c.created_ms)
    by_activity = select(sessions.c.key, sessions.c.last_activity_ms).where(sessions.c.status == "active")
    return Statistics(
        sessions=count,
        by_kind=_counts(conn, sessions.c.kind),
        by_status=_counts(conn, sessions.c.status),
        by_agent=_counts(conn, sessions.c.agent_id),
        labels=_count(conn, labels),
        appended=int(appended),
        retained=retained,
        trimmed=int(appended) - retained,
        archived=_count(conn, archived_messages),
        events=_count(conn, session_events),
        database_bytes=conn.execute(backend_of(conn).database_bytes).scalar_one(),
        oldest=_first(conn, by_age.order_by(sessions.c.created_ms, sessions.c.key)),
        newest=_first(conn, by_age.order_by(sessions.c.created_ms.desc(), sessions.c.key.desc())),
        longest_idle=_first(conn, by_activity.order_by(sessions.c.last_activity_ms, sessions.c.key)),
    )


def _count(conn: Connection, table: Any) -> int:
    return conn.execute(select(func.count()).select_from(table)).scalar_one()


def _counts(conn: Connection, column: Column[str]) -> FrozenDict:
    """How many sessions have each value, the largest count first."""
    rows = [(value, count) for value, count in conn.execute(select(column, func.count()).group_by(column))]
    return FrozenDict(sorted(rows, key=lambda row: (-row[1], row[0])))


def _first(conn: Connection, query: Any) -> tuple[str, int] | None:
    row = conn.execute(query.limit(1)).first()
    return None if row is None else (row[0], row[1])

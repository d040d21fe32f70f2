"""Figures about the whole database."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Column, Connection, func, select, text

from sessions_db.schema import archived_messages, labels, messages, session_events, sessions


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """How much there is of what.

    `appended` counts all messages that the sessions ever had. `trimmed` are those no longer retained; those of
    them that were not deleted are `archived`. The newest and the oldest are by creation; `longest_idle` is the active
    session whose last activity is the longest ago, with that time. Sizes are in bytes.
    """

    sessions: int
    by_kind: dict[str, int]
    by_status: dict[str, int]
    by_agent: dict[str, int]
    labels: int
    appended: int
    retained: int
    trimmed: int
    archived: int
    events: int
    database_bytes: int
    oldest: tuple[str, int] | None
    newest: tuple[str, int] | None
    longest_idle: tuple[str, int] | None


def statistics(conn: Connection) -> Statistics:
    """The figures. Needs a transaction that sees one moment."""
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
        database_bytes=conn.execute(_SIZE[conn.dialect.name]).scalar_one(),
        oldest=_first(conn, by_age.order_by(sessions.c.created_ms, sessions.c.key)),
        newest=_first(conn, by_age.order_by(sessions.c.created_ms.desc(), sessions.c.key.desc())),
        longest_idle=_first(conn, by_activity.order_by(sessions.c.last_activity_ms, sessions.c.key)),
    )


_SIZE = {
    "sqlite": text("SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()"),
    "postgresql": text("SELECT pg_database_size(current_database())"),
}


def _count(conn: Connection, table: Any) -> int:
    return conn.execute(select(func.count()).select_from(table)).scalar_one()


def _counts(conn: Connection, column: Column[str]) -> dict[str, int]:
    """How many sessions have each value, those with the most first."""
    rows = [(value, count) for value, count in conn.execute(select(column, func.count()).group_by(column))]
    return dict(sorted(rows, key=lambda row: (-row[1], row[0])))


def _first(conn: Connection, query: Any) -> tuple[str, int] | None:
    row = conn.execute(query.limit(1)).first()
    return None if row is None else (row[0], row[1])

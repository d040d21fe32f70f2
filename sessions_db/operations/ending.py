"""Ending, reopening and deleting sessions."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import Connection, Select, case, delete, select, update

from sessions_db.errors import SessionNotActive, SessionNotFound
from sessions_db.models import Session, SessionKind, SessionStatus, clock_ms
from sessions_db.operations.attempts import attempts
from sessions_db.operations.reading import get, status_of
from sessions_db.schema import sessions


def end(conn: Connection, key: str, status: SessionStatus, reason: str | None) -> bool:
    """Whether this call ended the session: one compare-and-set, and a look only where it lost."""
    won = (
        update(sessions)
        .where(sessions.c.key == key, sessions.c.status == SessionStatus.ACTIVE.value)
        .values(status=status.value, finished_ms=clock_ms(), end_reason=reason)
    )
    turns = attempts(key)
    while True:
        next(turns)
        if conn.execute(won).rowcount:
            return True
        current = status_of(conn, key)
        if current is None:
            raise SessionNotFound(key)
        if current is status:
            return False
        # The loop goes on only if the session was reopened between the two statements.
        if current is not SessionStatus.ACTIVE:
            raise SessionNotActive(key, current)


def reopen(conn: Connection, key: str) -> Session:
    """The session, active again if it had ended. Needs a transaction."""
    at_ms = clock_ms()
    conn.execute(
        update(sessions)
        .where(sessions.c.key == key, sessions.c.status != SessionStatus.ACTIVE.value)
        .values(
            status=SessionStatus.ACTIVE.value,
            finished_ms=None,
            end_reason=None,
            # Reopening is activity: the next sweep for idle sessions must not end it at once.
            last_activity_ms=case((sessions.c.last_activity_ms < at_ms, at_ms), else_=sessions.c.last_activity_ms),
        )
    )
    session = get(conn, key)
    if session is None:
        raise SessionNotFound(key)
    return session


def timeout_idle(conn: Connection, idle_ms: int, kinds: Collection[SessionKind]) -> list[str]:
    """The keys, sorted, of the active sessions that this one statement ended for lack of activity."""
    at_ms = clock_ms()
    ended = conn.execute(
        update(sessions)
        .where(
            sessions.c.status == SessionStatus.ACTIVE.value,
            sessions.c.kind.in_(kinds),
            sessions.c.last_activity_ms <= at_ms - idle_ms,
        )
        .values(
            status=SessionStatus.TIMEOUT.value,
            finished_ms=at_ms,
            end_reason=f"idle for {idle_ms} ms or more",
        )
        .returning(sessions.c.key)
    )
    return sorted(ended.scalars())


def remove(conn: Connection, key: str) -> bool:
    """Whether there was such a session; its messages and labels go with it."""
    return conn.execute(delete(sessions).where(sessions.c.key == key)).rowcount > 0


def prunable(
    conn: Connection, finished_before_ms: int, kinds: Collection[SessionKind] | None, limit: int | None = None
) -> list[str]:
    """The keys of the sessions (at most `limit`) that ended before that time, the longest ended first."""
    return [*conn.execute(_prunable(finished_before_ms, kinds).limit(limit)).scalars()]


def prune(conn: Connection, finished_before_ms: int, kinds: Collection[SessionKind] | None, limit: int) -> list[str]:
    """The keys of at most `limit` sessions that this one statement deleted, the longest ended first."""
    oldest = _prunable(finished_before_ms, kinds).limit(limit)
    deleted = conn.execute(
        delete(sessions)
        # The second condition is checked again after a wait for a lock: a session reopened meanwhile stays.
        .where(sessions.c.key.in_(oldest), sessions.c.finished_ms < finished_before_ms)
        .returning(sessions.c.finished_ms, sessions.c.key)
    )
    return [key for _, key in sorted((row.finished_ms, row.key) for row in deleted)]


def _prunable(finished_before_ms: int, kinds: Collection[SessionKind] | None) -> Select[tuple[str]]:
    query = select(sessions.c.key).where(sessions.c.finished_ms < finished_before_ms)
    if kinds is not None:
        query = query.where(sessions.c.kind.in_(kinds))
    return query.order_by(sessions.c.finished_ms, sessions.c.key)

"""Ending, reopening and deleting sessions."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    CursorResult,
    Delete,
    Select,
    Update,
    case,
    delete,
    func,
    select,
    update,
)

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


def remove(conn: Connection, key: str) -> bool:
    """Whether there was such a session; its messages and labels go with it."""
    return conn.execute(delete(sessions).where(sessions.c.key == key)).rowcount > 0


def idle(idle_since_ms: int, kinds: Collection[SessionKind]) -> Sweep:
    """The active sessions of these kinds whose last activity was then or before, the oldest first."""
    return Sweep(
        sessions.c.status == SessionStatus.ACTIVE.value,
        sessions.c.kind.in_(kinds),
        sessions.c.last_activity_ms <= idle_since_ms,
        order=(sessions.c.created_ms, sessions.c.key),
    )


def finished(finished_before_ms: int, kinds: Collection[SessionKind] | None) -> Sweep:
    """The sessions (of these kinds) that ended before that time, the longest ended first."""
    conditions = [sessions.c.finished_ms < finished_before_ms]
    if kinds is not None:
        conditions.append(sessions.c.kind.in_(kinds))
    return Sweep(*conditions, order=(sessions.c.finished_ms, sessions.c.key))


class Sweep:
    """Sessions to be ended or deleted, a batch at a time."""

    def __init__(self, *conditions: ColumnElement[bool], order: tuple[Column[int], Column[str]]) -> None:
        self._conditions = conditions
        self._order = order

    def keys(self, conn: Connection, limit: int | None = None) -> list[str]:
        """The keys of the sessions (at most `limit`), in their order."""
        return _keys_in_order(conn.execute(self._query(limit)))

    def count(self, conn: Connection) -> int:
        """How many sessions there are."""
        return conn.execute(select(func.count()).select_from(sessions).where(*self._conditions)).scalar_one()

    def time_out(self, conn: Connection, reason: str, limit: int) -> list[str]:
        """The keys of at most `limit` sessions that this one statement ended, in their order."""
        ended = {"status": SessionStatus.TIMEOUT.value, "finished_ms": clock_ms(), "end_reason": reason}
        return self._swept(conn, update(sessions).values(ended), limit)

    def delete(self, conn: Connection, limit: int) -> list[str]:
        """The keys of at most `limit` sessions that this one statement deleted, in their order."""
        return self._swept(conn, delete(sessions), limit)

    def _swept(self, conn: Connection, change: Update | Delete, limit: int) -> list[str]:
        # The conditions are looked at again after a wait for a lock: a session that was reopened meanwhile stays.
        keys = select(self._query(limit).subquery().c.key)
        batch = change.where(sessions.c.key.in_(keys), *self._conditions)
        return _keys_in_order(conn.execute(batch.returning(*self._order)))

    def _query(self, limit: int | None) -> Select[int, str]:
        return select(*self._order).where(*self._conditions).order_by(*self._order).limit(limit)


def _keys_in_order(rows: CursorResult[int, str]) -> list[str]:
    # Here, as one of the databases gives what it changed in no order, and each has its own order of text.
    return [key for _, key in sorted((at_ms, key) for at_ms, key in rows)]

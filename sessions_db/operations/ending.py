"""Ending, reopening and deleting sessions."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import (
    ClauseElement,
    Column,
    ColumnElement,
    Connection,
    CursorResult,
    Delete,
    Select,
    Update,
    and_,
    bindparam,
    case,
    delete,
    func,
    select,
    update,
)

from sessions_db import clock
from sessions_db.database.statement import Statement
from sessions_db.enums import SessionStatus
from sessions_db.errors import SessionNotActive, SessionNotFound
from sessions_db.models import Session
from sessions_db.operations.attempts import attempts
from sessions_db.operations.operation import Needs, needs
from sessions_db.operations.reading import get, status_of
from sessions_db.operations.selecting import Selection
from sessions_db.schema import sessions


@needs(Needs.LOGGED_STATEMENT)
def end(conn: Connection, key: str, status: SessionStatus, reason: str | None) -> bool:
    """Whether this call ended the session: one compare-and-set, and a second statement only if it lost."""
    won = (
        update(sessions)
        .where(sessions.c.key == key, sessions.c.status == SessionStatus.ACTIVE.value)
        .values(status=status.value, finished_ms=clock.now_ms(), end_reason=reason)
    )
    tries = attempts(key)
    while True:
        next(tries)
        if conn.execute(won).rowcount:
            return True
        current = status_of(conn, key)
        if current is None:
            raise SessionNotFound(key)
        if current is status:
            return False
        # The loop continues only if the session was reopened between the two statements.
        if current is not SessionStatus.ACTIVE:
            raise SessionNotActive(key, current)


@needs(Needs.TRANSACTION)
def reopen(conn: Connection, key: str) -> Session:
    """The session, active again if it had ended."""
    at_ms = clock.now_ms()
    # Reopening is activity: the next sweep for idle sessions must not end the session at once.
    is_activity = and_(sessions.c.status != SessionStatus.ACTIVE.value, sessions.c.last_activity_ms < at_ms)
    # An active session too: the lock keeps others from ending it before it is read.
    conn.execute(
        update(sessions)
        .where(sessions.c.key == key)
        .values(
            status=SessionStatus.ACTIVE.value,
            finished_ms=None,
            end_reason=None,
            last_activity_ms=case((is_activity, at_ms), else_=sessions.c.last_activity_ms),
        )
    )
    session = get(conn, key)
    if session is None:
        raise SessionNotFound(key)
    return session


@needs(Needs.STATEMENT)
def touch(conn: Connection, key: str) -> None:
    """Note that the session is active now. One statement, unless it is not."""
    tries = attempts(key)
    while not _TOUCH.rows(conn, {"key": key, "at_ms": clock.now_ms()}):
        next(tries)
        status = status_of(conn, key)
        if status is None:
            raise SessionNotFound(key)
        # The loop continues only if the session was reopened between the two statements.
        if status is not SessionStatus.ACTIVE:
            raise SessionNotActive(key, status)


def _touch(_dialect: str) -> ClauseElement:
    at_ms = bindparam("at_ms", type_=sessions.c.last_activity_ms.type)
    later = case((sessions.c.last_activity_ms < at_ms, at_ms), else_=sessions.c.last_activity_ms)
    return (
        update(sessions)
        .where(sessions.c.key == bindparam("key"), sessions.c.status == SessionStatus.ACTIVE.value)
        .values(last_activity_ms=later)
        .returning(sessions.c.key)
    )


_TOUCH = Statement(_touch)


@needs(Needs.LOGGED_STATEMENT)
def remove(conn: Connection, key: str) -> bool:
    """Whether there was such a session; its messages and labels are deleted with it."""
    return conn.execute(delete(sessions).where(sessions.c.key == key)).rowcount > 0


@dataclass(frozen=True, slots=True)
class Sweep:
    """Sessions to be ended or deleted in batches: those that meet the conditions, in this order of time and key."""

    conditions: tuple[ColumnElement[bool], ...]
    order: tuple[Column[int], Column[str]]

    def query(self, limit: int | None) -> Select[int, str]:
        """The times and keys of the sessions, at most `limit`."""
        return select(*self.order).where(*self.conditions).order_by(*self.order).limit(limit)


def idle(idle_since_ms: int, selection: Selection) -> Sweep:
    """The active ones among the selected whose last activity was at that time or before, the oldest first."""
    conditions = (
        sessions.c.status == SessionStatus.ACTIVE.value,
        sessions.c.last_activity_ms <= idle_since_ms,
        *selection.conditions(),
    )
    return Sweep(conditions, (sessions.c.created_ms, sessions.c.key))


def finished(finished_before_ms: int, selection: Selection) -> Sweep:
    """Those among the selected that ended before that time, in the order in which they ended."""
    conditions = (sessions.c.finished_ms < finished_before_ms, *selection.conditions())
    return Sweep(conditions, (sessions.c.finished_ms, sessions.c.key))


@needs(Needs.READ)
def swept_keys(conn: Connection, sweep: Sweep, limit: int | None = None) -> list[str]:
    """The keys of the sessions of the sweep (at most `limit`), in its order."""
    return _keys_in_order(conn.execute(sweep.query(limit)))


@needs(Needs.READ)
def count_swept(conn: Connection, sweep: Sweep) -> int:
    """How many sessions are in the sweep."""
    return conn.execute(select(func.count()).select_from(sessions).where(*sweep.conditions)).scalar_one()


@needs(Needs.LOGGED_STATEMENT)
def time_out_swept(conn: Connection, sweep: Sweep, limit: int, reason: str) -> list[str]:
    """The keys of at most `limit` sessions that this one statement ended, in the order of the sweep."""
    ended = {"status": SessionStatus.TIMEOUT.value, "finished_ms": clock.now_ms(), "end_reason": reason}
    return _change(conn, sweep, update(sessions).values(ended), limit)


@needs(Needs.LOGGED_STATEMENT)
def delete_swept(conn: Connection, sweep: Sweep, limit: int) -> list[str]:
    """The keys of at most `limit` sessions that this one statement deleted, in the order of the sweep."""
    return _change(conn, sweep, delete(sessions), limit)


def _change(conn: Connection, sweep: Sweep, change: Update | Delete, limit: int) -> list[str]:
    # The conditions are checked again after a wait for a lock: a session that was reopened meanwhile is left alone.
    keys = select(sweep.query(limit).subquery().c.key)
    batch = change.where(sessions.c.key.in_(keys), *sweep.conditions)
    return _keys_in_order(conn.execute(batch.returning(*sweep.order)))


def _keys_in_order(rows: CursorResult[int, str]) -> list[str]:
    # Sorted here: Postgres returns changed rows in no particular order, and each database has its own collation.
    return [key for _, key in sorted((at_ms, key) for at_ms, key in rows)]

"""Assigning labels to sessions."""

from __future__ import annotations

from sqlalchemy import Connection, select, update

from sessions_db.enums import LabelConflict
from sessions_db.errors import LabelInUse
from sessions_db.operations.attempts import attempts
from sessions_db.schema import insert_if_free, labels


def assign(conn: Connection, label: str, key: str, at_ms: int, on_conflict: LabelConflict) -> None:
    """Give the label to the session, taking it from another one or refusing to.

    Raises:
        LabelInUse: the label belongs to a session and may not be taken over.
    """
    if on_conflict is LabelConflict.REPLACE:
        take_over(conn, label, key, at_ms)
        return
    tries = attempts(key)
    while not _assign_if_free(conn, label, key, at_ms):
        next(tries)
        # The loop continues only if the owner was deleted between the two statements.
        if (session_key := _owner(conn, label)) is not None:
            raise LabelInUse(label, session_key)


def take_over(conn: Connection, label: str, key: str, at_ms: int, *, only_from_older: bool = False) -> None:
    """Give the label to the session, no matter which one has it; or only if that one got it before `at_ms`."""
    move = update(labels).where(labels.c.label == label).values(session_key=key, assigned_ms=at_ms)
    if only_from_older:
        move = move.where(labels.c.assigned_ms < at_ms)
    tries = attempts(key)
    while not _assign_if_free(conn, label, key, at_ms):
        next(tries)
        # As above.
        if conn.execute(move).rowcount or (only_from_older and _owner(conn, label) is not None):
            return


def _assign_if_free(conn: Connection, label: str, key: str, at_ms: int) -> bool:
    row = {"label": label, "session_key": key, "assigned_ms": at_ms}
    return insert_if_free(conn, labels.c.label, row)


def _owner(conn: Connection, label: str) -> str | None:
    return conn.execute(select(labels.c.session_key).where(labels.c.label == label)).scalar_one_or_none()

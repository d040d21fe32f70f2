"""Assigning labels to sessions."""

from __future__ import annotations

from sqlalchemy import Connection, select
from sqlalchemy.dialects import postgresql, sqlite

from sessions_db.enums import LabelConflict
from sessions_db.errors import LabelInUse
from sessions_db.operations.attempts import attempts
from sessions_db.schema import insert_into, labels


def assign(conn: Connection, label: str, key: str, at_ms: int, on_conflict: LabelConflict) -> None:
    """Give the label to the session, taking it from another one or refusing to.

    Raises:
        LabelInUse: the label belongs to a session and may not be taken over.
    """
    if on_conflict is LabelConflict.REPLACE:
        take_over(conn, label, key, at_ms)
        return
    assign_if_free = _assignment(conn, label, key, at_ms).on_conflict_do_nothing().returning(labels.c.label)
    owner = select(labels.c.session_key).where(labels.c.label == label)
    tries = attempts(key)
    while conn.execute(assign_if_free).scalar_one_or_none() is None:
        next(tries)
        # The loop continues only if the owner was deleted between the two statements.
        if (session_key := conn.execute(owner).scalar_one_or_none()) is not None:
            raise LabelInUse(label, session_key)


def take_over(conn: Connection, label: str, key: str, at_ms: int, *, only_from_older: bool = False) -> None:
    """Give the label to the session, no matter which one has it; or only if that one got it before `at_ms`."""
    assign = _assignment(conn, label, key, at_ms)
    conn.execute(
        assign.on_conflict_do_update(
            index_elements=[labels.c.label],
            set_={"session_key": assign.excluded.session_key, "assigned_ms": assign.excluded.assigned_ms},
            where=labels.c.assigned_ms < assign.excluded.assigned_ms if only_from_older else None,
        )
    )


def _assignment(conn: Connection, label: str, key: str, at_ms: int) -> postgresql.Insert | sqlite.Insert:
    return insert_into(conn.dialect.name, labels).values(label=label, session_key=key, assigned_ms=at_ms)

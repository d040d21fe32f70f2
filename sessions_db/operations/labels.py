"""Assigning labels to sessions."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, bindparam, select, update

from sessions_db.database.statement import Statement
from sessions_db.enums import LabelConflict
from sessions_db.errors import LabelInUse
from sessions_db.operations.attempts import attempts
from sessions_db.schema import insert_if_free, labels


def assign(conn: Connection, label: str, key: str, at_ms: int) -> None:
    """Give the label to the session, if it belongs to none.

    Raises:
        LabelInUse: the label belongs to another session.
    """
    tries = attempts(key)
    while not _assign_if_free(conn, label, key, at_ms):
        next(tries)
        # The loop continues only if the owner was deleted between the two statements.
        if (session_key := owner(conn, label)) is not None:
            raise LabelInUse(label, session_key)


def take_over(conn: Connection, label: str, key: str, at_ms: int, *, only_from_older: bool = False) -> None:
    """Give the label to the session, no matter which one has it; or only if that one got it before `at_ms`."""
    move = _MOVE_FROM_OLDER if only_from_older else _MOVE
    tries = attempts(key)
    while not _assign_if_free(conn, label, key, at_ms):
        next(tries)
        # As above.
        moved = move.rows(conn, {"of_label": label, "new_session_key": key, "new_assigned_ms": at_ms})
        if moved or (only_from_older and owner(conn, label) is not None):
            return


def give(conn: Connection, label: str, key: str, at_ms: int, conflict: LabelConflict) -> None:
    """Give the label to the session; what to do if another session has it, `conflict` says.

    Raises:
        LabelInUse: the label belongs to another session, and is not to be taken over.
    """
    if conflict is LabelConflict.REPLACE:
        take_over(conn, label, key, at_ms)
    else:
        assign(conn, label, key, at_ms)


def _assign_if_free(conn: Connection, label: str, key: str, at_ms: int) -> bool:
    row = {"new_label": label, "new_session_key": key, "new_assigned_ms": at_ms}
    return bool(_ASSIGN_IF_FREE.rows(conn, row))


def owner(conn: Connection, label: str) -> str | None:
    """The session that owns the label, or None."""
    for (session_key,) in _OWNER.rows(conn, {"of_label": label}):
        return str(session_key)
    return None


_IS_OF: Final = labels.c.label == bindparam("of_label")
_NEW_OWNER: Final = {
    name: bindparam(f"new_{name}", type_=labels.c[name].type) for name in ("session_key", "assigned_ms")
}

_ASSIGN_IF_FREE = Statement(lambda dialect: insert_if_free(dialect, labels.c.label, labels.c.keys()))
_MOVE = Statement(lambda _: update(labels).where(_IS_OF).values(_NEW_OWNER).returning(labels.c.label))
_MOVE_FROM_OLDER = Statement(
    lambda _: (
        update(labels)
        .where(_IS_OF, labels.c.assigned_ms < _NEW_OWNER["assigned_ms"])
        .values(_NEW_OWNER)
        .returning(labels.c.label)
    )
)
_OWNER = Statement(lambda _: select(labels.c.session_key).where(_IS_OF))

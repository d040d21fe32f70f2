"""Spawning within limits."""

from __future__ import annotations

from typing import Final

from sqlalchemy import ColumnElement, Connection, bindparam, func, select

from sessions_db.database import backend_of
from sessions_db.database.statement import Statement
from sessions_db.enums import LabelConflict, SessionStatus
from sessions_db.errors import LimitReached
from sessions_db.models import NewSession, SpawnLimits
from sessions_db.operations.labels import give
from sessions_db.operations.operation import Needs, needs
from sessions_db.operations.reading import locked
from sessions_db.operations.starting import insert_session, spawned_before
from sessions_db.schema import sessions


@needs(Needs.TRANSACTION)
def spawn_within(
    conn: Connection, limits: SpawnLimits, new: NewSession, idempotency_key: str | None, conflict: LabelConflict
) -> str:
    """The key of the new session, or of the one that this idempotency key made before, whatever the limits are.

    Raises:
        LimitReached: one of the limits.
        SessionNotFound: there is no parent.
        LabelInUse: another session has the label, which is not to be taken over.
        IdempotencyConflict: this idempotency key made another session.
    """
    # Spawns that count the same sessions wait for each other: else, on Postgres, two would not count each other's. They
    # lock in this order, so that they can't wait in a circle. An agent has no row of its own, hence the name.
    if limits.max_active is not None:
        backend_of(conn).lock_name(conn, f"spawns of {new.agent_id}")
    if limits.max_children is not None and new.parent_key is not None:
        locked(conn, new.parent_key)
    if idempotency_key is not None:
        made = spawned_before(conn, idempotency_key, new.agent_id, new.kind, lambda _: new)
        if made is not None:
            return made
    _check(conn, limits, new)
    key, created_ms = insert_session(conn, new, idempotency_key)
    if new.label is not None and created_ms is not None:
        give(conn, new.label, key, created_ms, conflict)
    return key


def _check(conn: Connection, limits: SpawnLimits, new: NewSession) -> None:
    if limits.max_depth is not None and _is_deeper(conn, new.parent_key, limits.max_depth):
        raise LimitReached("max_depth", limits.max_depth)
    if limits.max_children is not None and new.parent_key is not None:
        _require_room(conn, _CHILDREN, new.parent_key, "max_children", limits.max_children)
    if limits.max_active is not None:
        _require_room(conn, _ACTIVE, new.agent_id, "max_active", limits.max_active)


def _is_deeper(conn: Connection, parent_key: str | None, depth: int) -> bool:
    """Whether a session with this parent has more than `depth` sessions above it."""
    # One by one and no further than needed, because a session has few above it.
    met = set[str]()
    while parent_key is not None and len(met) < depth:
        if parent_key in met:  # a cycle, which only SQL by hand can make, has no top
            return True
        met.add(parent_key)
        rows = _PARENT.rows(conn, {"key": parent_key})
        parent_key = rows[0][0] if rows else None
    return parent_key is not None


def _require_room(conn: Connection, counting: Statement, of: str, limit: str, maximum: int) -> None:
    ((count,),) = counting.rows(conn, {"of": of})
    if count >= maximum:
        raise LimitReached(limit, maximum)


def _counting(*conditions: ColumnElement[bool]) -> Statement:
    is_active = sessions.c.status == SessionStatus.ACTIVE.value
    return Statement(lambda _: select(func.count()).select_from(sessions).where(is_active, *conditions))


_PARENT: Final = Statement(lambda _: select(sessions.c.parent_key).where(sessions.c.key == bindparam("key")))
_CHILDREN: Final = _counting(sessions.c.parent_key == bindparam("of"))
_ACTIVE: Final = _counting(sessions.c.agent_id == bindparam("of"), sessions.c.run_id.is_not(None))

"""Starting sessions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from functools import cache
from operator import attrgetter
from typing import Any, Final

from sqlalchemy import ClauseElement, ColumnElement, Connection, bindparam, exists, func, select

from sessions_db import clock
from sessions_db.database import backend_of
from sessions_db.database.statement import Statement
from sessions_db.enums import EventKind, SessionKind, SessionStatus
from sessions_db.errors import IdempotencyConflict, SessionNotFound
from sessions_db.keys import repeated_key, spawned_key
from sessions_db.models import NewSession, Session
from sessions_db.operations.acting import take_back_names
from sessions_db.operations.attempts import attempts
from sessions_db.operations.labels import assign
from sessions_db.operations.operation import Needs, needs
from sessions_db.operations.reading import get, status_of
from sessions_db.operations.repeating import check_spawn
from sessions_db.operations.rows import SESSION_COLUMNS, sessions_of
from sessions_db.schema import (
    UNLESS_NAMED,
    insert_if_free,
    insert_into,
    labelling,
    labels,
    session_events,
    sessions,
    to_json,
)

try:
    from uuid import uuid7  # type: ignore[attr-defined, unused-ignore]
except ImportError:  # Python before 3.14
    from uuid6 import uuid7

# The columns that the caller's session fills, and the others.
_GIVEN: Final = tuple(field.name for field in fields(NewSession))
_COLUMNS: Final = (*_GIVEN, "key", "status", "run_id", "created_ms", "last_activity_ms")
_PARAMETERS: Final = tuple(f"new_{name}" for name in _GIVEN)
_values = attrgetter(*_GIVEN)


# A main session and a conversation are no runs: nobody spawns them.
_RUNS: Final = (SessionKind.SUBAGENT, SessionKind.CRON)


@needs(Needs.LOGGED_STATEMENT)
def get_or_create(conn: Connection, key: str, new: NewSession) -> Session:
    """The session with this key. Racing writers insert one row, because the key is the same.

    A new one is as the statement made it: whoever created it is not told of what came after.
    """
    tries = attempts(key)
    while True:
        next(tries)
        if made := sessions_of(_CREATE.rows(conn, _row(key, new))):
            return made[0]
        if (session := get(conn, key)) is not None:
            return session


@needs(Needs.UNNAMED_STATEMENT)
def spawn(conn: Connection, new: NewSession, idempotency_key: str | None) -> str:
    """The key of the new session, or of the one that this idempotency key made before. It gets no label."""
    key, _ = insert_session(conn, new, idempotency_key)
    return key


@needs(Needs.UNNAMED_STATEMENT)
def spawn_with_label(conn: Connection, new: NewSession, idempotency_key: str | None) -> str:
    """Like `spawn`; a new session gets its label, whichever session has it."""
    key, _ = insert_session(conn, new, idempotency_key, with_label=True)
    return key


@needs(Needs.TRANSACTION)
def spawn_with_free_label(conn: Connection, new: NewSession, idempotency_key: str | None) -> str:
    """Like `spawn`; a new session gets its label.

    Raises:
        LabelInUse: another session has the label.
    """
    key, created_ms = insert_session(conn, new, idempotency_key)
    if new.label is not None and created_ms is not None:
        assign(conn, new.label, key, created_ms)
    return key


def insert_session(
    conn: Connection, new: NewSession, idempotency_key: str | None, *, with_label: bool = False
) -> tuple[str, int | None]:
    """The session's key, and when it was created; None if this idempotency key made it before."""
    key = _new_key(new.agent_id, new.kind, idempotency_key)
    tries = attempts(key)
    while True:
        is_alone = backend_of(conn).is_idle(conn)
        created_ms = _insert(conn, key, new, with_label=with_label, is_alone=is_alone)
        if created_ms is not None:
            return key, created_ms
        next(tries)
        if is_alone and take_back_names(conn):
            continue
        if idempotency_key is not None and _was_spawned(conn, key, idempotency_key, lambda _: new):
            return key, None
        if new.parent_key is not None and status_of(conn, new.parent_key) is None:
            raise SessionNotFound(new.parent_key)
        # The loop continues only if the first session was deleted, or the parent created, between the statements.


def spawned_before(
    conn: Connection,
    idempotency_key: str,
    agent_id: str,
    kind: SessionKind,
    again: Callable[[Session], NewSession],
) -> str | None:
    """The key of the session that this idempotency key made; None if it is not there.

    Raises:
        IdempotencyConflict: it was spawned with other arguments than `again` gives for it.
    """
    key = _new_key(agent_id, kind, idempotency_key)
    return key if _was_spawned(conn, key, idempotency_key, again) else None


def _new_key(agent_id: str, kind: SessionKind, idempotency_key: str | None) -> str:
    # The same idempotency key gives the same session key, and the primary key allows only one row with it.
    return (
        spawned_key(agent_id, kind, uuid7())
        if idempotency_key is None
        else repeated_key(agent_id, kind, idempotency_key)
    )


def _was_spawned(conn: Connection, key: str, idempotency_key: str, again: Callable[[Session], NewSession]) -> bool:
    """Whether the session that this idempotency key makes is there.

    Raises:
        IdempotencyConflict: it is, and was spawned with other arguments.
    """
    found = sessions_of(_SPAWNED.rows(conn, {"key": key}))
    for first in found:
        try:
            check_spawn(idempotency_key, first, again(first))
        except IdempotencyConflict as conflict:
            # What was changed since is not what the first call said.
            if not _updated(conn, key).issuperset(conflict.differing):
                raise
    return bool(found)


def _updated(conn: Connection, key: str) -> set[str]:
    """The columns that the log says were changed since the session was created."""
    log, later = session_events, session_events.alias("created")
    created = select(func.max(later.c.id)).where(later.c.session_key == key, later.c.event == EventKind.CREATED.value)
    query = select(log.c.reason).where(
        log.c.session_key == key,
        log.c.event == EventKind.SESSION_UPDATED.value,
        log.c.id > created.scalar_subquery(),
    )
    return {name for (reason,) in conn.execute(query) for name in reason.split(", ")}


_SPAWNED = Statement(lambda _: select(*SESSION_COLUMNS).where(sessions.c.key == bindparam("key")))


def _insert(conn: Connection, key: str, new: NewSession, *, with_label: bool, is_alone: bool) -> int | None:
    """When the session was created; None if there already is one with this key, or no session `parent_key`.

    If it is a transaction of its own, also None if somebody left a name for the log.
    """
    row = _row(key, new)
    # A look of its own took a twentieth of the time of a spawn on SQLite (measured once).
    row["is_alone"] = int(is_alone)
    statement = _statement(has_parent=new.parent_key is not None, with_label=with_label)
    return row["new_created_ms"] if statement.rows(conn, row) else None


def _row(key: str, new: NewSession) -> dict[str, Any]:
    """The parameters of the statements that insert the session, created now."""
    row: dict[str, Any] = dict(zip(_PARAMETERS, _values(new), strict=True))
    row["new_key"] = key
    row["new_status"] = SessionStatus.ACTIVE.value
    row["new_run_id"] = str(uuid7()) if new.kind in _RUNS else None
    row["new_created_ms"] = row["new_last_activity_ms"] = clock.now_ms()
    row["new_kind"] = new.kind.value
    row["new_archive_trimmed"] = int(new.archive_trimmed)
    row["new_metadata"] = to_json(new.metadata)
    return row


_CREATE = Statement(lambda dialect: insert_if_free(dialect, sessions.c.key, _COLUMNS, returning=SESSION_COLUMNS))


@cache
def _statement(*, has_parent: bool, with_label: bool) -> Statement:
    parent = exists().where(sessions.c.key == bindparam("new_parent_key", type_=sessions.c.parent_key.type))

    def build(dialect: str) -> ClauseElement:
        into = labelling(dialect) if with_label else sessions
        conditions: list[ColumnElement[bool]] = [parent] if has_parent else []
        if dialect in UNLESS_NAMED:
            conditions.append(UNLESS_NAMED[dialect])
        insert = insert_if_free(dialect, into.c.key, _COLUMNS, *conditions)
        if into is not sessions or not with_label:
            return insert
        made = insert.cte("made")
        label, created_ms = (bindparam(f"new_{name}", type_=sessions.c[name].type) for name in ("label", "created_ms"))
        assigned = insert_into(dialect, labels).from_select(labels.c.keys(), select(label, made.c.key, created_ms))
        moved = {name: assigned.excluded[name] for name in ("session_key", "assigned_ms")}
        return assigned.on_conflict_do_update(index_elements=[labels.c.label], set_=moved).returning(labels.c.label)

    return Statement(build)

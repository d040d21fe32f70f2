"""Reading sessions."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import (
    CTE,
    ColumnElement,
    CompoundSelect,
    Connection,
    Select,
    and_,
    bindparam,
    func,
    literal,
    literal_column,
    null,
    select,
    tuple_,
    union_all,
)

from sessions_db.database.statement import Statement
from sessions_db.enums import SessionKind, SessionStatus
from sessions_db.models import Session
from sessions_db.operations.operation import Needs, needs
from sessions_db.operations.rows import MESSAGE_COLUMNS, SESSION_COLUMNS, sessions_of, status_from
from sessions_db.schema import labels, messages, sessions


@needs(Needs.READ)
def get(conn: Connection, key: str) -> Session | None:
    """The session with its retained messages, from one statement."""
    found = sessions_of(_GET.rows(conn, {"key": key}))
    return found[0] if found else None


@needs(Needs.READ)
def get_by_label(conn: Connection, label: str) -> Session | None:
    """The session that owns the label, with its retained messages, from one statement."""
    found = sessions_of(_GET_BY_LABEL.rows(conn, {"label": label}))
    return found[0] if found else None


def status_of(conn: Connection, key: str) -> SessionStatus | None:
    """The session's status, or None if there is no such session."""
    for (status,) in _STATUS.rows(conn, {"key": key}):
        return status_from(status)
    return None


def filters(
    *,
    agent_id: str | None = None,
    kinds: Collection[SessionKind] | None = None,
    statuses: Collection[SessionStatus] | None = None,
    keys: Collection[str] | None = None,
) -> list[ColumnElement[bool]]:
    """The conditions for each filter that is given."""
    conditions: list[ColumnElement[bool]] = []
    if agent_id is not None:
        conditions.append(sessions.c.agent_id == agent_id)
    if kinds is not None:
        conditions.append(sessions.c.kind.in_(kinds))
    if statuses is not None:
        conditions.append(sessions.c.status.in_(statuses))
    if keys is not None:
        conditions.append(sessions.c.key.in_(keys))
    return conditions


@needs(Needs.READ)
def page(
    conn: Connection,
    *,
    kinds: Collection[SessionKind] | None,
    statuses: Collection[SessionStatus] | None,
    agent_id: str | None,
    parent_key: str | None,
    active_since_ms: int | None,
    before: Session | None,
    limit: int,
    message_limit: int,
) -> list[Session]:
    """The sessions that pass every filter, newest first, from one statement."""
    query = select(*SESSION_COLUMNS).where(*filters(agent_id=agent_id, kinds=kinds, statuses=statuses))
    if parent_key is not None:
        query = query.where(sessions.c.parent_key == parent_key)
    if active_since_ms is not None:
        query = query.where(sessions.c.last_activity_ms >= active_since_ms)
    if before is not None:
        position = tuple_(literal(before.created_ms), literal(before.key))
        query = query.where(tuple_(sessions.c.created_ms, sessions.c.key) < position)
    query = query.order_by(sessions.c.created_ms.desc(), sessions.c.key.desc()).limit(limit)
    return sessions_of(conn.execute(_with_messages(query, message_limit) if message_limit else query))


@needs(Needs.READ)
def count(
    conn: Connection,
    *,
    agent_id: str | None,
    kinds: Collection[SessionKind] | None,
    statuses: Collection[SessionStatus] | None,
    descendants_of: str | None,
) -> int:
    """How many sessions pass every filter."""
    query = select(func.count()).select_from(sessions)
    query = query.where(*filters(agent_id=agent_id, kinds=kinds, statuses=statuses))
    if descendants_of is not None:
        query = query.where(*_is_below()).params(key=descendants_of)
    return conn.execute(query).scalar_one()


@needs(Needs.READ)
def children(conn: Connection, key: str) -> list[Session]:
    """The sessions spawned by `key`, oldest first."""
    return sessions_of(_CHILDREN.rows(conn, {"key": key}))


@needs(Needs.READ)
def descendants(conn: Connection, key: str) -> list[Session]:
    """The sessions spawned by `key`, directly or indirectly, oldest first."""
    return sessions_of(_DESCENDANTS.rows(conn, {"key": key}))


def _with_messages(query: Select[Any], message_limit: int | None) -> CompoundSelect[Any]:
    """`query`, whose columns are `SESSION_COLUMNS`, and the newest retained messages of each session in it."""
    found = query.cte("page")
    # Numbers have no gaps and trimming removes the oldest, so the newest n are those above last_seq - n.
    newest = messages.c.seq > found.c.message_count - message_limit if message_limit is not None else None
    on = messages.c.session_key == found.c.key
    session_only = [null() for _ in SESSION_COLUMNS[2:]]
    message_only = [null() for _ in MESSAGE_COLUMNS]
    return union_all(
        select(*found.c, *message_only),
        select(messages.c.seq, found.c.key, *session_only, *MESSAGE_COLUMNS).select_from(
            found.join(messages, on if newest is None else and_(on, newest))
        ),
    ).order_by("seq", literal_column("created_ms").desc(), literal_column("key").desc())


_GET = Statement(
    lambda _: _with_messages(select(*SESSION_COLUMNS).where(sessions.c.key == bindparam("key")), None),
)
_GET_BY_LABEL = Statement(
    lambda _: _with_messages(
        select(*SESSION_COLUMNS)
        .join(labels, labels.c.session_key == sessions.c.key)
        .where(labels.c.label == bindparam("label")),
        None,
    ),
)
_CHILDREN = Statement(
    lambda _: (
        select(*SESSION_COLUMNS)
        .where(sessions.c.parent_key == bindparam("key"))
        .order_by(sessions.c.created_ms, sessions.c.key)
    )
)


_STATUS = Statement(lambda _: select(sessions.c.status).where(sessions.c.key == bindparam("key")))


def _is_below() -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    """The conditions for a session that the one named by the parameter `key` spawned, directly or indirectly."""
    tree: CTE = select(sessions.c.key).where(sessions.c.parent_key == bindparam("key")).cte("tree", recursive=True)
    # UNION drops keys that were met before, unlike UNION ALL: it ends a cycle, which only SQL by hand can make.
    tree = tree.union(select(sessions.c.key).where(sessions.c.parent_key == tree.c.key))
    return sessions.c.key.in_(select(tree.c.key)), sessions.c.key != bindparam("key")


_DESCENDANTS = Statement(
    lambda _: select(*SESSION_COLUMNS).where(*_is_below()).order_by(sessions.c.created_ms, sessions.c.key)
)

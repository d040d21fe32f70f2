"""Reading sessions and messages.

Sessions come as rows numbered 0, their messages as rows that carry the message's own number, so that one statement,
which sees one moment, gives both and repeats nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Executable,
    Row,
    Select,
    and_,
    bindparam,
    literal,
    literal_column,
    null,
    select,
    tuple_,
    union_all,
)

from sessions_db.models import Message, Role, Session, SessionKind, SessionStatus
from sessions_db.schema import labels, messages, sessions

_SESSION_COLUMNS: tuple[ColumnElement[Any], ...] = (
    literal_column("0").label("seq"),
    sessions.c.key,
    sessions.c.metadata,
    sessions.c.agent_id,
    sessions.c.kind,
    sessions.c.status,
    sessions.c.label,
    sessions.c.task,
    sessions.c.created_ms,
    sessions.c.finished_ms,
    sessions.c.run_id,
    sessions.c.parent_key,
    sessions.c.last_seq,
    sessions.c.last_activity_ms,
    sessions.c.end_reason,
)

MESSAGE_COLUMNS: tuple[ColumnElement[Any], ...] = (
    messages.c.seq,
    messages.c.metadata,
    messages.c.role,
    messages.c.content,
    messages.c.timestamp_ms,
    messages.c.tool_name,
)


def get(conn: Connection, key: str) -> Session | None:
    """The session with its retained messages, from one statement."""
    found = _sessions(conn, _GET, {"key": key})
    return found[0] if found else None


def get_by_label(conn: Connection, label: str) -> Session | None:
    """The session that owns the label, with its retained messages, from one statement."""
    found = _sessions(conn, _GET_BY_LABEL, {"label": label})
    return found[0] if found else None


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
    query = select(*_SESSION_COLUMNS)
    if kinds is not None:
        query = query.where(sessions.c.kind.in_(kinds))
    if statuses is not None:
        query = query.where(sessions.c.status.in_(statuses))
    if agent_id is not None:
        query = query.where(sessions.c.agent_id == agent_id)
    if parent_key is not None:
        query = query.where(sessions.c.parent_key == parent_key)
    if active_since_ms is not None:
        query = query.where(sessions.c.last_activity_ms >= active_since_ms)
    if before is not None:
        position = tuple_(literal(before.created_ms), literal(before.key))
        query = query.where(tuple_(sessions.c.created_ms, sessions.c.key) < position)
    query = query.order_by(sessions.c.created_ms.desc(), sessions.c.key.desc()).limit(limit)
    return _sessions(conn, _with_messages(query, message_limit) if message_limit else query)


def children(conn: Connection, key: str) -> list[Session]:
    """The sessions spawned by `key`, oldest first."""
    return _sessions(conn, _CHILDREN, {"key": key})


def descendants(conn: Connection, key: str) -> list[Session]:
    """The sessions spawned by `key`, and by those, and so on, oldest first."""
    return _sessions(conn, _DESCENDANTS, {"key": key})


def history(conn: Connection, key: str, *, limit: int | None, include_tools: bool) -> list[Message] | None:
    """The newest retained messages, oldest first. A second statement only where there are none."""
    query = _HISTORY if include_tools else _HISTORY_WITHOUT_TOOLS
    rows: Sequence[Row[*tuple[Any, ...]]] = []
    if limit != 0:
        rows = conn.execute(query if limit is None else query.limit(limit), {"key": key}).all()
    if not rows and status_of(conn, key) is None:
        return None
    return [message_of(row) for row in reversed(rows)]


def _with_messages(query: Select[Any], message_limit: int | None) -> Executable:
    """`query`, whose columns are `_SESSION_COLUMNS`, and the newest retained messages of each session in it."""
    found = query.cte("page")
    # Numbers have no gaps and trimming takes the oldest, so the newest n are those above last_seq - n.
    newest = messages.c.seq > found.c.last_seq - message_limit if message_limit is not None else None
    on = messages.c.session_key == found.c.key
    session_only = [null() for _ in _SESSION_COLUMNS[3:]]
    message_only = [null() for _ in MESSAGE_COLUMNS[2:]]
    return union_all(
        select(*found.c, *message_only),
        select(messages.c.seq, found.c.key, messages.c.metadata, *session_only, *MESSAGE_COLUMNS[2:]).select_from(
            found.join(messages, on if newest is None else and_(on, newest))
        ),
    ).order_by("seq", literal_column("created_ms").desc(), literal_column("key").desc())


_GET = _with_messages(select(*_SESSION_COLUMNS).where(sessions.c.key == bindparam("key")), None)
_GET_BY_LABEL = _with_messages(
    select(*_SESSION_COLUMNS)
    .join(labels, labels.c.session_key == sessions.c.key)
    .where(labels.c.label == bindparam("label")),
    None,
)
_CHILDREN = (
    select(*_SESSION_COLUMNS)
    .where(sessions.c.parent_key == bindparam("key"))
    .order_by(sessions.c.created_ms, sessions.c.key)
)
_HISTORY = select(*MESSAGE_COLUMNS).where(messages.c.session_key == bindparam("key")).order_by(messages.c.seq.desc())
_HISTORY_WITHOUT_TOOLS = _HISTORY.where(messages.c.role != Role.TOOL.value)


def _descendants() -> Select[Any]:
    tree = select(sessions.c.key).where(sessions.c.parent_key == bindparam("key")).cte("tree", recursive=True)
    # UNION, not UNION ALL: a key that was met before is dropped, so a cycle made by hand ends.
    tree = tree.union(select(sessions.c.key).where(sessions.c.parent_key == tree.c.key))
    return (
        select(*_SESSION_COLUMNS)
        .where(sessions.c.key.in_(select(tree.c.key)), sessions.c.key != bindparam("key"))
        .order_by(sessions.c.created_ms, sessions.c.key)
    )


_DESCENDANTS = _descendants()


def _sessions(conn: Connection, query: Executable, parameters: dict[str, str] | None = None) -> list[Session]:
    found: list[Row[Any]] = []
    retained: dict[str, list[Message]] = {}
    rows: Sequence[Any] = conn.execute(query, parameters).all()
    for row in rows:
        seq, key, metadata = row[:3]
        if seq == 0:
            found.append(row)
            retained[key] = []
        else:
            retained[key].append(message_of((seq, metadata, *row[len(_SESSION_COLUMNS) :])))
    return [_session(row, retained[row.key]) for row in found]


def _session(row: Row[Any], retained: Sequence[Message]) -> Session:
    return Session(
        key=row.key,
        agent_id=row.agent_id,
        kind=SessionKind(row.kind),
        status=SessionStatus(row.status),
        label=row.label,
        task=row.task,
        created_ms=row.created_ms,
        finished_ms=row.finished_ms,
        messages=tuple(retained),
        run_id=row.run_id,
        parent_key=row.parent_key,
        message_count=row.last_seq,
        last_activity_ms=row.last_activity_ms,
        end_reason=row.end_reason,
        metadata=row.metadata,
    )


def message_of(row: Sequence[Any]) -> Message:
    """The message that a row of `MESSAGE_COLUMNS` holds."""
    seq, metadata, role, content, timestamp_ms, tool_name = row
    return Message(
        role=Role(role),
        content=content,
        timestamp_ms=timestamp_ms,
        tool_name=tool_name,
        seq=seq,
        metadata=metadata,
    )


def status_of(conn: Connection, key: str) -> SessionStatus | None:
    """The session's status, or None if there is none."""
    status = conn.execute(_STATUS, {"key": key}).scalar_one_or_none()
    return None if status is None else SessionStatus(status)


_STATUS = select(sessions.c.status).where(sessions.c.key == bindparam("key"))

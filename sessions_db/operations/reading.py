"""Reading sessions and messages.

Sessions come as rows numbered 0, their messages as rows that carry the message's own number, so that one statement,
which sees one moment, gives both and repeats nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from sqlalchemy import (
    CTE,
    BigInteger,
    ColumnElement,
    CompoundSelect,
    Connection,
    RowMapping,
    Select,
    Text,
    and_,
    bindparam,
    cast,
    func,
    literal,
    literal_column,
    null,
    select,
    tuple_,
    union_all,
)

from sessions_db.errors import DatabaseUnavailable
from sessions_db.models import EventKind, Message, Role, Session, SessionEvent, SessionKind, SessionStatus
from sessions_db.operations.rendered import Rendered
from sessions_db.schema import from_json, labels, messages, session_events, sessions
from sessions_db.validation import MAX_INTEGER

_P = ParamSpec("_P")
_T = TypeVar("_T")

_SESSION_COLUMNS: tuple[ColumnElement[Any], ...] = (
    literal_column("0").label("seq"),
    sessions.c.key,
    sessions.c.agent_id,
    sessions.c.kind,
    sessions.c.status,
    sessions.c.label,
    sessions.c.task,
    sessions.c.created_ms,
    sessions.c.finished_ms,
    sessions.c.run_id,
    sessions.c.parent_key,
    sessions.c.last_seq.label("message_count"),
    sessions.c.last_activity_ms,
    sessions.c.end_reason,
    # As text, whatever reader of JSON the caller's engine has.
    cast(sessions.c.metadata, Text).label("metadata"),
)
_SESSION_FIELDS = [str(column.key) for column in _SESSION_COLUMNS[1:]]

# In the order of the fields of `Message`.
MESSAGE_COLUMNS: tuple[ColumnElement[Any], ...] = (
    messages.c.seq,
    messages.c.role,
    messages.c.content,
    messages.c.timestamp_ms,
    messages.c.tool_name,
    cast(messages.c.metadata, Text).label("metadata"),
)


def _telling_damage(read: Callable[_P, _T]) -> Callable[_P, _T]:
    """The function, which makes values of rows, with an error for what no constraint would have let in.

    SQLite keeps no checksums, and does not notice when the bytes of a file are changed within a value.
    """

    @wraps(read)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            return read(*args, **kwargs)
        except (KeyError, TypeError, ValueError) as error:
            damage = f"the database is damaged, it holds what can't have been stored: {error!r:.100}"
            raise DatabaseUnavailable(damage, 0.0) from error

    return call


def get(conn: Connection, key: str) -> Session | None:
    """The session with its retained messages, from one statement."""
    found = _sessions(_GET.rows(conn, {"key": key}))
    return found[0] if found else None


def get_by_label(conn: Connection, label: str) -> Session | None:
    """The session that owns the label, with its retained messages, from one statement."""
    found = _sessions(_GET_BY_LABEL.rows(conn, {"label": label}))
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
    return _sessions(conn.execute(_with_messages(query, message_limit) if message_limit else query))


def children(conn: Connection, key: str) -> list[Session]:
    """The sessions spawned by `key`, oldest first."""
    return _sessions(_CHILDREN.rows(conn, {"key": key}))


def descendants(conn: Connection, key: str) -> list[Session]:
    """The sessions spawned by `key`, and by those, and so on, oldest first."""
    return _sessions(_DESCENDANTS.rows(conn, {"key": key}))


def count_descendants(conn: Connection, key: str) -> int:
    """How many sessions `descendants` gives."""
    ((count,),) = _DESCENDANT_COUNT.rows(conn, {"key": key})
    return int(count)


def events(
    conn: Connection, *, session_key: str | None, kind: EventKind | None, after_id: int | None, limit: int
) -> list[SessionEvent]:
    """The newest entries of the log that pass every filter, or those next after one; oldest first."""
    query = select(session_events).limit(limit)
    if session_key is not None:
        query = query.where(session_events.c.session_key == session_key)
    if kind is not None:
        query = query.where(session_events.c.event == kind.value)
    if after_id is None:
        query = query.order_by(session_events.c.id.desc())
    else:
        query = query.where(session_events.c.id > after_id).order_by(session_events.c.id)
    return _events(conn.execute(query).mappings().all())


@_telling_damage
def _events(rows: Sequence[RowMapping]) -> list[SessionEvent]:
    return sorted((_event(**row) for row in rows), key=lambda event: event.id)


def _event(*, event: str, from_status: str | None, to_status: str | None, **rest: Any) -> SessionEvent:
    return SessionEvent(
        event=EventKind(event),
        from_status=None if from_status is None else SessionStatus(from_status),
        to_status=None if to_status is None else SessionStatus(to_status),
        **rest,
    )


def history(conn: Connection, key: str, *, limit: int | None, include_tools: bool) -> list[Message] | None:
    """The newest retained messages, oldest first. A second statement only where there are none."""
    query = _HISTORY if include_tools else _HISTORY_WITHOUT_TOOLS
    rows: Sequence[Any] = ()
    if limit != 0:
        rows = query.rows(conn, {"key": key, "limit": MAX_INTEGER if limit is None else limit})
    if not rows and status_of(conn, key) is None:
        return None
    return messages_of(reversed(rows))


def _with_messages(query: Select[Any], message_limit: int | None) -> CompoundSelect[Any]:
    """`query`, whose columns are `_SESSION_COLUMNS`, and the newest retained messages of each session in it."""
    found = query.cte("page")
    # Numbers have no gaps and trimming takes the oldest, so the newest n are those above last_seq - n.
    newest = messages.c.seq > found.c.message_count - message_limit if message_limit is not None else None
    on = messages.c.session_key == found.c.key
    session_only = [null() for _ in _SESSION_COLUMNS[2:]]
    message_only = [null() for _ in MESSAGE_COLUMNS]
    return union_all(
        select(*found.c, *message_only),
        select(messages.c.seq, found.c.key, *session_only, *MESSAGE_COLUMNS).select_from(
            found.join(messages, on if newest is None else and_(on, newest))
        ),
    ).order_by("seq", literal_column("created_ms").desc(), literal_column("key").desc())


_GET = Rendered(
    lambda _: _with_messages(select(*_SESSION_COLUMNS).where(sessions.c.key == bindparam("key")), None),
)
_GET_BY_LABEL = Rendered(
    lambda _: _with_messages(
        select(*_SESSION_COLUMNS)
        .join(labels, labels.c.session_key == sessions.c.key)
        .where(labels.c.label == bindparam("label")),
        None,
    ),
)
_CHILDREN = Rendered(
    lambda _: (
        select(*_SESSION_COLUMNS)
        .where(sessions.c.parent_key == bindparam("key"))
        .order_by(sessions.c.created_ms, sessions.c.key)
    )
)


def _history(*conditions: ColumnElement[bool]) -> Rendered:
    return Rendered(
        lambda _: (
            select(*MESSAGE_COLUMNS)
            .where(messages.c.session_key == bindparam("key"), *conditions)
            .order_by(messages.c.seq.desc())
            .limit(bindparam("limit", type_=BigInteger))
        )
    )


_HISTORY = _history()
_HISTORY_WITHOUT_TOOLS = _history(messages.c.role != Role.TOOL.value)


def _tree() -> CTE:
    tree = select(sessions.c.key).where(sessions.c.parent_key == bindparam("key")).cte("tree", recursive=True)
    # UNION, not UNION ALL: a key that was met before is dropped, so a cycle made by hand ends.
    return tree.union(select(sessions.c.key).where(sessions.c.parent_key == tree.c.key))


def _descendants(_dialect: str) -> Select[Any]:
    tree = _tree()
    return (
        select(*_SESSION_COLUMNS)
        .where(sessions.c.key.in_(select(tree.c.key)), sessions.c.key != bindparam("key"))
        .order_by(sessions.c.created_ms, sessions.c.key)
    )


_DESCENDANTS = Rendered(_descendants)


def _descendant_count(_dialect: str) -> Select[Any]:
    tree = _tree()
    return select(func.count()).select_from(tree).where(tree.c.key != bindparam("key"))


_DESCENDANT_COUNT = Rendered(_descendant_count)


@_telling_damage
def _sessions(rows: Iterable[Sequence[Any]]) -> list[Session]:
    found: list[Sequence[Any]] = []
    retained: dict[str, list[Sequence[Any]]] = {}
    for row in rows:
        seq, key = row[:2]
        if seq == 0:
            found.append(row[1 : len(_SESSION_COLUMNS)])
            retained[key] = []
        else:
            retained[key].append(row[len(_SESSION_COLUMNS) :])
    return [_session(row, retained[row[0]]) for row in found]


def _session(row: Sequence[Any], retained: Sequence[Sequence[Any]]) -> Session:
    fields = dict(zip(_SESSION_FIELDS, row, strict=True))
    fields["kind"] = SessionKind(fields["kind"])
    fields["status"] = SessionStatus(fields["status"])
    fields["metadata"] = from_json(fields["metadata"])
    return Session(**fields, messages=tuple(messages_of(retained)))


# `Role(role)` takes four times as long, for each message.
_ROLES = {role.value: role for role in Role}


@_telling_damage
def messages_of(rows: Iterable[Sequence[Any]]) -> list[Message]:
    """The messages that rows of `MESSAGE_COLUMNS` hold."""
    # Not `Message(...)`, whose `__new__` is a function in Python: that takes a sixth longer for all of this.
    new = tuple.__new__
    return [
        new(Message, (seq, _ROLES[role], content, timestamp_ms, tool_name, from_json(metadata) if metadata else None))
        for seq, role, content, timestamp_ms, tool_name, metadata in rows
    ]


def status_of(conn: Connection, key: str) -> SessionStatus | None:
    """The session's status, or None if there is none."""
    for (status,) in _STATUS.rows(conn, {"key": key}):
        return _status(status)
    return None


_status = _telling_damage(SessionStatus)


_STATUS = Rendered(lambda _: select(sessions.c.status).where(sessions.c.key == bindparam("key")))

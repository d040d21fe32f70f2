"""Reading sessions."""

from __future__ import annotations

from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    CompoundSelect,
    Connection,
    Row,
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
from sessions_db.enums import SessionStatus
from sessions_db.models import Session
from sessions_db.operations.operation import Needs, needs
from sessions_db.operations.rows import MESSAGE_COLUMNS, SESSION_COLUMNS, sessions_of, status_from
from sessions_db.operations.selecting import Selection, is_below
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


def locked(conn: Connection, key: str, *columns: ColumnElement[Any]) -> Row[Any] | None:
    """The key and these columns of the session, which nobody else changes until the transaction ends.

    Nor does anybody add, trim, archive or remove its messages. None if there is no such session.
    """
    query = select(sessions.c.key, *columns).where(sessions.c.key == key)
    return conn.execute(query.with_for_update(key_share=True)).first()


class State(NamedTuple):
    """What decides whether a message can be stored: the session's status, and how many messages it has had."""

    status: SessionStatus
    last_seq: int


def state_of(conn: Connection, key: str) -> State | None:
    """The session's state, or None if there is no such session."""
    for status, last_seq in _STATE.rows(conn, {"key": key}):
        return State(status_from(status), last_seq)
    return None


def status_of(conn: Connection, key: str) -> SessionStatus | None:
    """The session's status, or None if there is no such session."""
    state = state_of(conn, key)
    return None if state is None else state.status


class Place(NamedTuple):
    """A place in the order of sessions, newest first."""

    created_ms: int
    key: str


@needs(Needs.READ)
def page(
    conn: Connection, selection: Selection, *, before: Session | None, limit: int, message_limit: int
) -> list[Session]:
    """The selected sessions, newest first, from one statement."""
    query = _newest_first(select(*SESSION_COLUMNS).where(*selection.conditions()), before, limit)
    return sessions_of(conn.execute(_with_messages(query, message_limit) if message_limit else query))


@needs(Needs.READ)
def places(conn: Connection, selection: Selection, *, before: Session | Place, limit: int) -> list[Place]:
    """Where the selected sessions are in the order of `page`."""
    query = select(sessions.c.created_ms, sessions.c.key).where(*selection.conditions())
    return [Place(*row) for row in conn.execute(_newest_first(query, before, limit))]


@needs(Needs.READ)
def count(conn: Connection, selection: Selection) -> int:
    """How many sessions are selected."""
    return conn.execute(select(func.count()).select_from(sessions).where(*selection.conditions())).scalar_one()


@needs(Needs.READ)
def children(conn: Connection, key: str) -> list[Session]:
    """The sessions spawned by `key`, oldest first."""
    return sessions_of(_CHILDREN.rows(conn, {"key": key}))


@needs(Needs.READ)
def descendants(conn: Connection, key: str) -> list[Session]:
    """The sessions spawned by `key`, directly or indirectly, oldest first."""
    return sessions_of(_DESCENDANTS.rows(conn, {"key": key}))


def _newest_first(query: Select[Any], before: Session | Place | None, limit: int) -> Select[Any]:
    if before is not None:
        position = tuple_(literal(before.created_ms), literal(before.key))
        query = query.where(tuple_(sessions.c.created_ms, sessions.c.key) < position)
    return query.order_by(sessions.c.created_ms.desc(), sessions.c.key.desc()).limit(limit)


def _with_messages(query: Select[Any], message_limit: int | None) -> CompoundSelect[Any]:
    """`query`, whose columns are `SESSION_COLUMNS`, and the newest retained messages of each session in it."""
    found = query.cte("page")
    of, on = found, messages.c.session_key == found.c.key
    if message_limit is not None:
        # Not calculated: numbers are missing where messages were removed. Postgres would look it up for each message,
        # unless it is told to do so before.
        older = messages.alias("older")
        nth = select(older.c.seq).where(older.c.session_key == found.c.key).order_by(older.c.seq.desc())
        from_seq = func.coalesce(nth.limit(1).offset(message_limit - 1).scalar_subquery(), 0).label("from_seq")
        of = select(found.c.key, from_seq).cte("newest").prefix_with("MATERIALIZED", dialect="postgresql")
        # An expression, for which SQLite 3.53 makes no index of its own: it would read all messages, and look for each.
        key = of.c.key.concat(literal_column("''"))
        on = and_(messages.c.session_key == key, messages.c.seq >= of.c.from_seq)
    session_only = [null() for _ in SESSION_COLUMNS[2:]]
    message_only = [null() for _ in MESSAGE_COLUMNS]
    return union_all(
        select(*found.c, *message_only),
        select(messages.c.seq, of.c.key, *session_only, *MESSAGE_COLUMNS).select_from(of.join(messages, on)),
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


_STATE = Statement(lambda _: select(sessions.c.status, sessions.c.last_seq).where(sessions.c.key == bindparam("key")))


_DESCENDANTS = Statement(
    lambda _: (
        select(*SESSION_COLUMNS)
        .where(*is_below(bindparam("key", type_=sessions.c.key.type)))
        .order_by(sessions.c.created_ms, sessions.c.key)
    )
)

"""Appending messages. The triggers of `messages` do the rest of each append: the counters and the trim query."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, TypeAlias

from sqlalchemy import (
    BigInteger,
    ClauseElement,
    ColumnElement,
    Connection,
    TableValuedAlias,
    Text,
    bindparam,
    cast,
    func,
    select,
    true,
)

from sessions_db.errors import InvalidInput, SessionNotActive, SessionNotFound
from sessions_db.models import Message, NewMessage, Role, SessionStatus, clock_ms
from sessions_db.operations.attempts import attempts
from sessions_db.operations.reading import MESSAGE_COLUMNS, messages_of, status_of
from sessions_db.operations.rendered import Rendered
from sessions_db.schema import Json, insert_into, messages, sessions, to_json

# SQLite's limit for a value. Postgres ends the connection of who sends it more than 2^30 bytes.
_MAX_BATCH_BYTES = 1_000_000_000


def append(conn: Connection, key: str, new: NewMessage, *, active_only: bool = False) -> Message:
    """The stored message, from one statement unless nothing is stored."""
    keyed = new.idempotency_key is not None
    statement = _append(active_only=active_only, keyed=keyed)
    turns = attempts(key)
    while True:
        next(turns)
        at_ms = clock_ms()
        parameters = {
            "key": key,
            "new_role": new.role,
            "new_content": new.content,
            "new_tool_name": new.tool_name,
            "new_metadata": to_json(new.metadata),
            "new_timestamp_ms": at_ms,
            "new_idempotency_key": new.idempotency_key,
        }
        for (seq,) in statement.rows(conn, parameters):
            return _stored(new, seq, at_ms)
        status = status_of(conn, key)
        if status is None:
            raise SessionNotFound(key)
        if active_only and status is not SessionStatus.ACTIVE:
            raise SessionNotActive(key, status)
        # Stored before; or, and then the loop goes on, the session was reopened or that message trimmed just now.
        if new.idempotency_key is not None:
            known = _known(conn, key, new.idempotency_key)
            if new.idempotency_key in known:
                return known[new.idempotency_key]


def append_many(conn: Connection, key: str, batch: Sequence[NewMessage]) -> list[Message]:
    """The stored messages, from one statement unless nothing is stored."""
    at_ms = clock_ms()
    rows = [(new.role, new.content, new.tool_name, to_json(new.metadata), new.idempotency_key) for new in batch]
    # psycopg takes as long to write arrays of them as Postgres takes to store them, and SQLite has none.
    text = json.dumps(rows, ensure_ascii=False)
    if len(text) > _MAX_BATCH_BYTES // 4 and (size := len(text.encode())) > _MAX_BATCH_BYTES:
        raise InvalidInput("messages", f"must be at most {_MAX_BATCH_BYTES} bytes together, as JSON", f"{size} bytes")
    parameters = {"key": key, "new_timestamp_ms": at_ms, "rows": text}
    turns = attempts(key)
    while True:
        next(turns)
        if found := _APPEND_MANY.rows(conn, parameters):
            numbers = sorted(seq for (seq,) in found)
            return [_stored(new, seq, at_ms) for new, seq in zip(batch, numbers, strict=True)]
        if status_of(conn, key) is None:
            raise SessionNotFound(key)
        # The loop goes on only if the session was deleted and made anew while the statement waited for it.
        if not batch:
            return []


def append_many_once(conn: Connection, key: str, batch: Sequence[NewMessage]) -> list[Message]:
    """As `append_many`, messages with a known idempotency key stored only once. Needs a transaction."""
    # With the row locked, no other writer can add a key between the look-up and the statement.
    lock = select(sessions.c.key).where(sessions.c.key == key).with_for_update(key_share=True)
    if conn.execute(lock).scalar_one_or_none() is None:
        raise SessionNotFound(key)
    known = _known(conn, key)
    fresh: dict[str | int, NewMessage] = {}
    for position, new in enumerate(batch):
        if new.idempotency_key not in known:
            fresh.setdefault(position if new.idempotency_key is None else new.idempotency_key, new)
    stored = dict(zip(fresh, append_many(conn, key, list(fresh.values())), strict=True))
    return [
        stored[position] if new.idempotency_key is None else (known | stored)[new.idempotency_key]
        for position, new in enumerate(batch)
    ]


@cache
def _append(*, active_only: bool, keyed: bool) -> Rendered:
    # The lock makes writers of one session queue, each reading the last_seq that the one before it left.
    # SQLite has one writer at a time and ignores FOR UPDATE.
    session = (
        select(
            sessions.c.key,
            sessions.c.last_seq + 1,
            bindparam("new_role", type_=Text),
            bindparam("new_content", type_=Text),
            bindparam("new_tool_name", type_=Text),
            bindparam("new_metadata", type_=Json),
            bindparam("new_timestamp_ms", type_=BigInteger),
            bindparam("new_idempotency_key", type_=Text),
        )
        .where(sessions.c.key == bindparam("key"))
        .with_for_update(key_share=True)
    )
    if active_only:
        session = session.where(sessions.c.status == SessionStatus.ACTIVE.value)

    def build(dialect: str) -> ClauseElement:
        insert = insert_into(dialect, messages)
        if keyed:
            insert = insert.on_conflict_do_nothing(
                index_elements=[messages.c.session_key, messages.c.idempotency_key],
                index_where=messages.c.idempotency_key.is_not(None),
            )
        return insert.from_select(_APPENDED_COLUMNS, session).returning(messages.c.seq)

    return Rendered(build)


_APPENDED_COLUMNS = (
    "session_key",
    "seq",
    "role",
    "content",
    "tool_name",
    "metadata",
    "timestamp_ms",
    "idempotency_key",
)


def _append_many(dialect: str) -> ClauseElement:
    # The positions are those of `append_many`'s rows.
    rows, number, value = _rows_on_postgresql() if dialect == "postgresql" else _rows_on_sqlite()
    session = (
        select(sessions.c.key, sessions.c.last_seq)
        .where(sessions.c.key == bindparam("key"))
        .with_for_update(key_share=True)
        .cte("session")
    )
    batch = select(
        session.c.key,
        session.c.last_seq + number,
        value(0),
        value(1),
        value(2),
        cast(value(3), Json),
        bindparam("new_timestamp_ms", type_=BigInteger),
        value(4),
    ).select_from(session.join(rows, true()))
    return insert_into(dialect, messages).from_select(_APPENDED_COLUMNS, batch).returning(messages.c.seq)


_APPEND_MANY = Rendered(_append_many)


# A JSON array of arrays as rows: them, the column that numbers them from 1, and what gives the value at a position.
_Rows: TypeAlias = tuple[TableValuedAlias, ColumnElement[Any], Callable[[int], ColumnElement[Any]]]


def _rows_on_postgresql() -> _Rows:
    array = func.json_array_elements(bindparam("rows", type_=Json))
    rows = array.table_valued("value", with_ordinality="number").render_derived(name="batch")
    return rows, rows.c.number, lambda position: func.json_extract_path_text(rows.c.value, str(position))


def _rows_on_sqlite() -> _Rows:
    rows = func.json_each(bindparam("rows", type_=Text)).table_valued("key", "value", name="batch")
    return rows, rows.c.key + 1, lambda position: func.json_extract(rows.c.value, f"$[{position}]")


def _known(conn: Connection, key: str, idempotency_key: str | None = None) -> dict[str | int, Message]:
    """The retained messages of a session that have this idempotency key (default: any), by key."""
    query = select(messages.c.idempotency_key, *MESSAGE_COLUMNS).where(messages.c.session_key == key)
    if idempotency_key is None:
        query = query.where(messages.c.idempotency_key.is_not(None))
    else:
        query = query.where(messages.c.idempotency_key == idempotency_key)
    rows = conn.execute(query).all()
    return dict(zip((row[0] for row in rows), messages_of(row[1:] for row in rows), strict=True))


def _stored(new: NewMessage, seq: int, at_ms: int) -> Message:
    return Message(seq, Role(new.role), new.content, at_ms, new.tool_name, new.metadata)

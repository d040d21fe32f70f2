"""Appending messages. The triggers of `messages` do the rest of each append: the counters and the trim query."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields
from functools import cache
from operator import attrgetter
from typing import Any, Final

from sqlalchemy import ClauseElement, ColumnElement, Connection, bindparam, cast, exists, select, true

from sessions_db import clock
from sessions_db.database.statement import Statement
from sessions_db.enums import Role, SessionStatus
from sessions_db.errors import InvalidInput, SessionNotActive, SessionNotFound, Shown
from sessions_db.limits import MAX_BATCH_BYTES
from sessions_db.models import Message, NewMessage
from sessions_db.models.camel_case import copied
from sessions_db.operations.attempts import attempts
from sessions_db.operations.operation import Needs, needs
from sessions_db.operations.reading import status_of
from sessions_db.operations.repeating import check_message
from sessions_db.operations.rows import MESSAGE_COLUMNS, messages_of
from sessions_db.schema import Json, insert_into, json_rows, messages, sessions, to_json

# The columns that the caller's message fills. The others are the session's key, the number and the time.
_GIVEN: Final = tuple(field.name for field in fields(NewMessage))
_COLUMNS: Final = ("session_key", "seq", "timestamp_ms", *_GIVEN)
_PARAMETERS: Final = tuple(f"new_{name}" for name in _GIVEN)
_METADATA: Final = _GIVEN.index("metadata")
_values = attrgetter(*_GIVEN)


@needs(Needs.STATEMENT)
def append(conn: Connection, key: str, new: NewMessage, *, active_only: bool = False) -> Message:
    """The stored message. One statement, unless nothing is stored."""
    keyed = new.idempotency_key is not None
    statement = _append(active_only=active_only, keyed=keyed)
    parameters = dict(zip(_PARAMETERS, _row(new), strict=True))
    parameters["key"] = key
    tries = attempts(key)
    while True:
        next(tries)
        at_ms = clock.now_ms()
        parameters["new_timestamp_ms"] = at_ms
        for (seq,) in statement.rows(conn, parameters):
            return _stored(new, seq, at_ms)
        status = status_of(conn, key)
        if status is None:
            raise SessionNotFound(key)
        if active_only and status is not SessionStatus.ACTIVE:
            raise SessionNotActive(key, status)
        # It was stored before. If not, and the loop continues, the session was reopened or the message was trimmed
        # between the statements.
        if new.idempotency_key is not None:
            known = _known(conn, key, new.idempotency_key)
            if new.idempotency_key in known:
                check_message(key, new.idempotency_key, known[new.idempotency_key], new)
                return known[new.idempotency_key]


@needs(Needs.STATEMENT)
def append_many(conn: Connection, key: str, batch: Sequence[NewMessage]) -> list[Message]:
    """The stored messages. One statement, unless nothing is stored."""
    at_ms = clock.now_ms()
    # One JSON text: psycopg takes as long to encode arrays as Postgres takes to store them, and SQLite has no arrays.
    text = json.dumps([_row(new) for new in batch], ensure_ascii=False)
    if len(text) > MAX_BATCH_BYTES // 4 and (size := len(text.encode())) > MAX_BATCH_BYTES:
        limit = f"must be at most {MAX_BATCH_BYTES} bytes together, as JSON"
        raise InvalidInput("messages", limit, Shown(f"{size} bytes"))
    parameters = {"key": key, "new_timestamp_ms": at_ms, "rows": text}
    tries = attempts(key)
    while True:
        next(tries)
        if found := _APPEND_MANY.rows(conn, parameters):
            numbers = sorted(seq for (seq,) in found)
            return [_stored(new, seq, at_ms) for new, seq in zip(batch, numbers, strict=True)]
        if status_of(conn, key) is None:
            raise SessionNotFound(key)
        # The loop continues only if the session was deleted and recreated while the statement waited for it.
        if not batch:
            return []


@needs(Needs.TRANSACTION)
def append_many_once(conn: Connection, key: str, batch: Sequence[NewMessage]) -> list[Message]:
    """Like `append_many`, but messages with a known idempotency key are stored only once."""
    # With the row locked, no other writer can add a key between the look-up and the statement.
    lock = select(sessions.c.key).where(sessions.c.key == key).with_for_update(key_share=True)
    if conn.execute(lock).scalar_one_or_none() is None:
        raise SessionNotFound(key)
    known = _known(conn, key)
    fresh: dict[str | int, NewMessage] = {}
    for position, new in enumerate(batch):
        if new.idempotency_key is None:
            fresh[position] = new
        elif (first := known.get(new.idempotency_key) or fresh.get(new.idempotency_key)) is None:
            fresh[new.idempotency_key] = new
        else:
            check_message(key, new.idempotency_key, first, new)
    stored = dict(zip(fresh, append_many(conn, key, list(fresh.values())), strict=True))
    return [
        stored[position] if new.idempotency_key is None else (known | stored)[new.idempotency_key]
        for position, new in enumerate(batch)
    ]


@cache
def _append(*, active_only: bool, keyed: bool) -> Statement:
    # The lock makes writers to one session queue, so that each reads the last_seq left by the one before it. SQLite
    # has one writer at a time and ignores FOR UPDATE.
    session = (
        select(
            sessions.c.key,
            sessions.c.last_seq + 1,
            *(bindparam(f"new_{name}", type_=messages.c[name].type) for name in _COLUMNS[2:]),
        )
        .where(sessions.c.key == bindparam("key"))
        .with_for_update(key_share=True)
    )
    if active_only:
        session = session.where(sessions.c.status == SessionStatus.ACTIVE.value)

    if keyed:
        # SQLite's triggers refuse a conflict before ON CONFLICT sees it.
        is_known = messages.c.idempotency_key == bindparam("new_idempotency_key")
        session = session.where(~exists().where(messages.c.session_key == sessions.c.key, is_known))

    def build(dialect: str) -> ClauseElement:
        insert = insert_into(dialect, messages)
        if keyed:
            insert = insert.on_conflict_do_nothing(
                index_elements=[messages.c.session_key, messages.c.idempotency_key],
                index_where=messages.c.idempotency_key.is_not(None),
            )
        return insert.from_select(_COLUMNS, session).returning(messages.c.seq)

    return Statement(build)


def _append_many(dialect: str) -> ClauseElement:
    rows, number, value = json_rows(dialect, "rows")
    session = (
        select(sessions.c.key, sessions.c.last_seq)
        .where(sessions.c.key == bindparam("key"))
        .with_for_update(key_share=True)
        .cte("session")
    )

    def given(position: int) -> ColumnElement[Any]:
        return cast(value(position), Json) if position == _METADATA else value(position)

    batch = select(
        session.c.key,
        session.c.last_seq + number,
        bindparam("new_timestamp_ms", type_=messages.c.timestamp_ms.type),
        *(given(position) for position in range(len(_GIVEN))),
    ).select_from(session.join(rows, true()))
    return insert_into(dialect, messages).from_select(_COLUMNS, batch).returning(messages.c.seq)


_APPEND_MANY = Statement(_append_many)


def _known(conn: Connection, key: str, idempotency_key: str | None = None) -> dict[str | int, Message]:
    """The retained messages of a session that have this idempotency key (default: any), by key."""
    query = select(messages.c.idempotency_key, *MESSAGE_COLUMNS).where(messages.c.session_key == key)
    if idempotency_key is None:
        query = query.where(messages.c.idempotency_key.is_not(None))
    else:
        query = query.where(messages.c.idempotency_key == idempotency_key)
    rows = conn.execute(query).all()
    return dict(zip((row[0] for row in rows), messages_of(row[1:] for row in rows), strict=True))


def _row(new: NewMessage) -> list[Any]:
    """The values of `_GIVEN`, as they are sent."""
    row = [*_values(new)]
    row[_METADATA] = to_json(new.metadata)
    return row


def _stored(new: NewMessage, seq: int, at_ms: int) -> Message:
    # The caller's NewMessage keeps its metadata for itself.
    metadata = None if new.metadata is None else copied(new.metadata)
    return Message(seq, Role(new.role), new.content, at_ms, new.tool_name, metadata)

"""Appending the messages of one call, to its one session."""

from __future__ import annotations

from functools import cache, partial
from itertools import count
from typing import Any, Final

from sqlalchemy import ClauseElement, Connection, Select, bindparam, exists, select, true

from sessions_db import clock
from sessions_db.database.statement import Statement
from sessions_db.enums import SessionStatus
from sessions_db.models import Message
from sessions_db.operations.appending_together import (
    COLUMNS,
    Append,
    has_had_expected_count,
    left_out,
    stored_messages,
)
from sessions_db.operations.locking import IfLocked, locking
from sessions_db.operations.message_rows import GIVEN, given_values, row_of, sent_rows
from sessions_db.schema import insert_into, messages, sessions, text_rows

_PARAMETERS: Final = tuple(f"new_{name}" for name in GIVEN)


def append_one(conn: Connection, new: Append, *, if_locked: IfLocked) -> list[Message] | None:
    """The stored message, or None if nothing is stored. One statement."""
    (message,) = new.messages
    statement = _append_one(
        active_only=new.active_only,
        keyed=message.idempotency_key is not None,
        if_locked=if_locked,
        expecting=new.expected_count is not None,
    )
    parameters, at_ms = _parameters(new, dict(zip(_PARAMETERS, row_of(message), strict=True)))
    for (seq,) in statement.rows(conn, parameters):
        return stored_messages(new, seq, at_ms)
    return None


def append_several(conn: Connection, new: Append, *, if_locked: IfLocked) -> list[Message] | None:
    """The stored messages, or None if nothing is stored. One statement. None of them has an idempotency key.

    For five, Postgres takes half as long again with `append_together` (measured once).
    """
    rows = [row_of(message) for message in new.messages]
    size, first, parameters = sent_rows(conn, GIVEN, rows, partial(count, 1))
    statement = _append_several(
        size, active_only=new.active_only, if_locked=if_locked, expecting=new.expected_count is not None
    )
    parameters, at_ms = _parameters(new, parameters)
    found = statement.rows(conn, parameters, first)
    if not found:
        return None
    if len(found) < len(rows):
        raise left_out()
    first_seq = min(seq for (seq,) in found)
    return stored_messages(new, first_seq, at_ms)


def _parameters(new: Append, parameters: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """All parameters, and the time that is stored with the messages."""
    at_ms = clock.now_ms()
    parameters["key"] = new.key
    parameters["new_timestamp_ms"] = at_ms
    if new.expected_count is not None:
        parameters["expected_count"] = new.expected_count
    return parameters, at_ms


@cache
def _append_one(*, active_only: bool, keyed: bool, if_locked: IfLocked, expecting: bool) -> Statement:
    values = (bindparam(f"new_{name}", type_=messages.c[name].type) for name in COLUMNS[2:])
    rows = select(sessions.c.key, sessions.c.last_seq + 1, *values)
    rows = _locking(rows, active_only=active_only, if_locked=if_locked, expecting=expecting)
    if keyed:
        # SQLite's triggers refuse a conflict before ON CONFLICT sees it.
        is_known = messages.c.idempotency_key == bindparam("new_idempotency_key")
        rows = rows.where(~exists().where(messages.c.session_key == sessions.c.key, is_known))

    def build(dialect: str) -> ClauseElement:
        insert = insert_into(dialect, messages)
        if keyed:
            insert = insert.on_conflict_do_nothing(
                index_elements=[messages.c.session_key, messages.c.idempotency_key],
                index_where=messages.c.idempotency_key.is_not(None),
            )
        return insert.from_select(COLUMNS, rows).returning(messages.c.seq)

    return Statement(build)


@cache
def _append_several(size: int, *, active_only: bool, if_locked: IfLocked, expecting: bool) -> Statement:
    session = _locking(
        select(sessions.c.key, sessions.c.last_seq),
        active_only=active_only,
        if_locked=if_locked,
        expecting=expecting,
    ).subquery("session")

    def build(dialect: str) -> ClauseElement:
        batch = text_rows(dialect, GIVEN, size)
        rows = select(
            session.c.key,
            session.c.last_seq + batch.number,
            bindparam("new_timestamp_ms", type_=messages.c.timestamp_ms.type),
            *given_values(batch),
        ).select_from(session.join(batch.rows, batch.number.is_not(None) if size else true()))
        return insert_into(dialect, messages).from_select(COLUMNS, rows).returning(messages.c.seq)

    return Statement(build)


def _locking(rows: Select[Any], *, active_only: bool, if_locked: IfLocked, expecting: bool) -> Select[Any]:
    # The lock makes writers to one session queue, so that each reads the last_seq left by the one before it.
    rows = locking(rows.where(sessions.c.key == bindparam("key")), if_locked)
    if active_only:
        rows = rows.where(sessions.c.status == SessionStatus.ACTIVE.value)
    if expecting:
        # Checked again after a wait for the lock.
        rows = rows.where(has_had_expected_count())
    return rows

"""Appending messages. The triggers of `messages` do the rest of each append: the counters and the trim query."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from sqlalchemy import ClauseElement, Connection, and_, bindparam, select

from sessions_db.database.statement import Statement
from sessions_db.enums import SessionStatus
from sessions_db.errors import SessionChanged, SessionNotActive, SessionNotFound
from sessions_db.models import Message, NewMessage
from sessions_db.operations.appending_alone import append_one, append_several
from sessions_db.operations.appending_together import Append, IfLocked, append_together
from sessions_db.operations.attempts import attempts
from sessions_db.operations.operation import Needs, needs
from sessions_db.operations.reading import locked, state_of
from sessions_db.operations.repeating import check_message
from sessions_db.operations.rows import MESSAGE_COLUMNS, messages_of
from sessions_db.schema import json_rows, messages


class SessionLocked(Exception):  # a signal within the package
    """Another transaction has locked the session."""


@needs(Needs.STATEMENT)
def append(conn: Connection, new: Append, *, if_locked: IfLocked = IfLocked.WAIT) -> list[Message]:
    """The stored messages. One statement, unless nothing is stored.

    Raises:
        SessionLocked: with `IfLocked.SKIP`, another transaction has locked the session.
    """
    key, idempotency_key = new.key, new.idempotency_key
    tries = attempts(key)
    while True:
        next(tries)
        if new.messages and (stored := _stored(conn, new, if_locked=if_locked)):
            return stored
        state = state_of(conn, key)
        if state is None:
            raise SessionNotFound(key)
        if idempotency_key is not None:
            # It was stored before, perhaps while the session was still active or had fewer messages. If not, it was
            # trimmed since.
            known = _known(conn, key, [idempotency_key])
            if idempotency_key in known:
                check_message(key, idempotency_key, known[idempotency_key], new.messages[0])
                return [known[idempotency_key]]
        if new.active_only and state.status is not SessionStatus.ACTIVE:
            raise SessionNotActive(key, state.status)
        _check_count(new, state.last_seq, if_locked=if_locked)
        if not new.messages:
            return []
        if if_locked is IfLocked.SKIP:
            raise SessionLocked
        # Between the statements the session was reopened, or deleted and made again.


def _check_count(new: Append, count: int, *, if_locked: IfLocked) -> None:
    expected = new.expected_count
    if expected is None or count == expected:
        return
    if if_locked is IfLocked.SKIP and count < expected:
        # Who has locked the session may be about to store what is missing.
        raise SessionLocked
    raise SessionChanged(new.key, expected, count)


@needs(Needs.TRANSACTION)
def append_many_once(
    conn: Connection, key: str, batch: Sequence[NewMessage], expected_count: int | None
) -> list[Message]:
    """Like `append`, but messages with a known idempotency key are stored only once.

    If all of them are known, nothing is stored, and it does not matter how many messages the session has had.
    """
    # With the row locked, no other writer can add a key between the look-up and the statement.
    if locked(conn, key) is None:
        raise SessionNotFound(key)
    known = _known(conn, key, (new.idempotency_key for new in batch if new.idempotency_key is not None))
    fresh: dict[str | int, NewMessage] = {}
    for position, new in enumerate(batch):
        if new.idempotency_key is None:
            fresh[position] = new
        elif (first := known.get(new.idempotency_key) or fresh.get(new.idempotency_key)) is None:
            fresh[new.idempotency_key] = new
        else:
            check_message(key, new.idempotency_key, first, new)
    if not fresh:
        expected_count = None
    rest = Append(key, list(fresh.values()), expected_count=expected_count)
    stored = dict(zip(fresh, append(conn, rest), strict=True))
    return [
        stored[position] if new.idempotency_key is None else (known | stored)[new.idempotency_key]
        for position, new in enumerate(batch)
    ]


def _stored(conn: Connection, new: Append, *, if_locked: IfLocked) -> list[Message] | None:
    """The stored messages; none, or None, if nothing is stored."""
    if len(new.messages) == 1:
        return append_one(conn, new, if_locked=if_locked)
    if all(message.idempotency_key is None for message in new.messages):
        return append_several(conn, new, if_locked=if_locked)
    (stored,) = append_together(conn, [new], if_locked=if_locked)
    return stored


def _known(conn: Connection, key: str, idempotency_keys: Iterable[str]) -> dict[str | int, Message]:
    """The retained messages of a session that have one of these idempotency keys, by key."""
    rows = _KNOWN.rows(conn, {"key": key, "keys": json.dumps([[each] for each in idempotency_keys])})
    found = [row for row in rows if row[1] is not None]
    return dict(zip((row[0] for row in found), messages_of(row[1:] for row in found), strict=True))


def _known_statement(dialect: str) -> ClauseElement:
    rows, _, value = json_rows(dialect, "keys")
    # An outer join, or SQLite would read all messages of the session and look for their keys in the array.
    is_theirs = and_(messages.c.session_key == bindparam("key"), messages.c.idempotency_key == value(0))
    return select(value(0), *MESSAGE_COLUMNS).select_from(rows.outerjoin(messages, is_theirs))


_KNOWN = Statement(_known_statement)

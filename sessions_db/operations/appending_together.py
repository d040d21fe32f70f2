"""Appends, and the one statement that stores those of several callers and sessions together."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cache
from itertools import islice
from operator import attrgetter
from typing import Any, Final

from sqlalchemy import ClauseElement, Connection, bindparam, cast, exists, func, or_, select

from sessions_db import clock
from sessions_db.database.statement import Statement
from sessions_db.enums import Role, SessionStatus
from sessions_db.errors import DatabaseUnavailable, InvalidInput, Shown
from sessions_db.limits import MAX_BATCH_BYTES
from sessions_db.models import Message, NewMessage
from sessions_db.models.camel_case import copied
from sessions_db.schema import Json, insert_into, json_rows, messages, sessions, to_json

GIVEN: Final = tuple(field.name for field in fields(NewMessage))
"""The columns that the caller's message fills."""

COLUMNS: Final = ("session_key", "seq", "timestamp_ms", *GIVEN)
"""All columns that an append fills."""

_METADATA: Final = GIVEN.index("metadata")
_values = attrgetter(*GIVEN)

# In the JSON of a message, what comes before the columns of `GIVEN`.
_KEY, _STATUS, _FIRST_GIVEN = range(3)


@dataclass(frozen=True, slots=True)
class Append:
    """Messages to be appended to a session, all or none.

    Args:
        key: the session's key.
        messages: in order. One with an idempotency key is the only one.
        active_only: whether the session must be active.
    """

    key: str
    messages: Sequence[NewMessage]
    active_only: bool = False

    @property
    def idempotency_key(self) -> str | None:
        """The key of its only message."""
        return self.messages[0].idempotency_key if len(self.messages) == 1 else None

    def json(self) -> str:
        """The rows of its messages, separated by commas."""
        status = SessionStatus.ACTIVE.value if self.active_only else None
        return ",".join(_encode([self.key, status, *row_of(new)]) for new in self.messages)


_encode = json.JSONEncoder(ensure_ascii=False).encode


def row_of(new: NewMessage) -> list[Any]:
    """The values of `GIVEN`, as they are sent."""
    row = [*_values(new)]
    row[_METADATA] = to_json(new.metadata)
    return row


def stored_message(new: NewMessage, seq: int, at_ms: int) -> Message:
    """The message that was stored under this number."""
    # The caller's NewMessage keeps its metadata for itself.
    metadata = None if new.metadata is None else copied(new.metadata)
    return Message(seq, Role(new.role), new.content, at_ms, new.tool_name, metadata)


def append_together(
    conn: Connection, appends: Sequence[Append], rows: Iterable[str] | None = None, *, skip_locked: bool = False
) -> list[list[Message] | None]:
    """For each append its stored messages, or None if nothing of it was stored. One statement.

    Nothing is stored in a session that does not exist or is not active as asked, and no message whose idempotency key
    the session retains. No key may come twice.

    Args:
        conn: a connection.
        appends: those of a session are numbered in this order.
        rows: what `Append.json` gives for each, if it is known.
        skip_locked: store nothing in a session that another transaction has locked, rather than wait for it.
    """
    text = f"[{','.join(rows or (append.json() for append in appends))}]"
    if len(text) > MAX_BATCH_BYTES // 4 and (size := len(text.encode())) > MAX_BATCH_BYTES:
        limit = f"must be at most {MAX_BATCH_BYTES} bytes together, as JSON"
        raise InvalidInput("messages", limit, Shown(f"{size} bytes"))
    at_ms = clock.now_ms()
    keys = json.dumps([[key] for key in {append.key for append in appends}])
    parameters = {"keys": keys, "rows": text, "new_timestamp_ms": at_ms}
    found = _statement(skip_locked=skip_locked).rows(conn, parameters)
    return [*_matched(appends, found, at_ms)]


def _matched(appends: Sequence[Append], found: Iterable[Sequence[Any]], at_ms: int) -> Iterator[list[Message] | None]:
    rows: defaultdict[str, list[tuple[int, str | None]]] = defaultdict(list)
    for key, seq, idempotency_key in found:
        rows[key].append((seq, idempotency_key))
    sent: defaultdict[str, list[Append]] = defaultdict(list)
    for append in appends:
        sent[append.key].append(append)
    numbers = {key: _numbers(sent[key], sorted(stored)) for key, stored in rows.items()}
    for append in appends:
        seqs = next(numbers[append.key]) if append.key in numbers else []
        pairs = zip(append.messages, seqs, strict=False)
        yield [stored_message(new, seq, at_ms) for new, seq in pairs] if seqs else None


def _numbers(appends: Sequence[Append], found: Sequence[tuple[int, str | None]]) -> Iterator[list[int]]:
    """The numbers of the messages of each append to one session; none if it was not stored."""
    if len(found) == sum(len(append.messages) for append in appends):
        seqs = iter([seq for seq, _ in found])
        for append in appends:
            yield [*islice(seqs, len(append.messages))]
        return
    keyed = {key: [seq] for seq, key in found if key is not None}
    unkeyed = [seq for seq, key in found if key is None]
    # Of those without an idempotency key, all that need an active session may be missing, and no others.
    sizes = {True: 0, False: 0}
    for append in appends:
        if append.idempotency_key is None:
            sizes[append.active_only] += len(append.messages)
    is_active = len(unkeyed) == sizes[True] + sizes[False]
    if not is_active and len(unkeyed) != sizes[False]:
        raise DatabaseUnavailable("a trigger left out some of the messages", 0.0, outcome_unknown=True)
    seqs = iter(unkeyed)
    for append in appends:
        if append.idempotency_key is not None:
            yield keyed.get(append.idempotency_key, [])
        else:
            yield [*islice(seqs, len(append.messages))] if is_active or not append.active_only else []


@cache
def _statement(*, skip_locked: bool) -> Statement:
    def build(dialect: str) -> ClauseElement:
        rows, number, value = json_rows(dialect, "rows", name="appended")
        keys, _, key = json_rows(dialect, "keys", name="keys")
        # Locked in the order of their keys, so that two statements over the same sessions never deadlock.
        session = (
            select(sessions.c.key, sessions.c.last_seq, sessions.c.status)
            .where(sessions.c.key.in_(select(key(0)).select_from(keys)))
            .order_by(sessions.c.key)
            .with_for_update(key_share=True, skip_locked=skip_locked)
            .subquery("session")
        )
        given = [value(_FIRST_GIVEN + position) for position in range(len(GIVEN))]
        is_known = exists().where(
            messages.c.session_key == session.c.key, messages.c.idempotency_key == given[GIVEN.index("idempotency_key")]
        )
        batch = (
            select(
                session.c.key,
                session.c.last_seq + func.row_number().over(partition_by=session.c.key, order_by=number),
                bindparam("new_timestamp_ms", type_=messages.c.timestamp_ms.type),
                *(cast(item, Json) if position == _METADATA else item for position, item in enumerate(given)),
            )
            .select_from(session.join(rows, value(_KEY) == session.c.key))
            .where(or_(value(_STATUS).is_(None), value(_STATUS) == session.c.status), ~is_known)
        )
        insert = insert_into(dialect, messages).from_select(COLUMNS, batch)
        return insert.returning(messages.c.session_key, messages.c.seq, messages.c.idempotency_key)

    return Statement(build)

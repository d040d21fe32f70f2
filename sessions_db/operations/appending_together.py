"""Appends, and the one statement that stores those of several callers and sessions together."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cache
from operator import attrgetter
from typing import Any, Final, cast

from sqlalchemy import ClauseElement, Connection, bindparam, exists, func, or_, select

from sessions_db import clock
from sessions_db.database.statement import Statement
from sessions_db.enums import Role, SessionStatus
from sessions_db.errors import DatabaseUnavailable, InvalidInput, Shown
from sessions_db.limits import MAX_BATCH_BYTES
from sessions_db.models import Message, NewMessage
from sessions_db.models.camel_case import copied
from sessions_db.schema import Json, insert_into, is_one_of, json_rows, messages, sessions, to_json

GIVEN: Final = tuple(field.name for field in fields(NewMessage))
"""The columns that the caller's message fills."""

COLUMNS: Final = ("session_key", "seq", "timestamp_ms", *GIVEN)
"""All columns that an append fills."""

_METADATA: Final = GIVEN.index("metadata")
_values = attrgetter(*GIVEN)

_encode = json.JSONEncoder(ensure_ascii=False).encode

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

    def rows(self) -> list[list[Any]]:
        """Its messages as `append_together` sends them."""
        status = SessionStatus.ACTIVE.value if self.active_only else None
        return [[self.key, status, *row_of(new)] for new in self.messages]


def row_of(new: NewMessage) -> list[Any]:
    """The values of `GIVEN`, as they are sent."""
    row = [*_values(new)]
    row[_METADATA] = to_json(new.metadata)
    return row


def stored_message(new: NewMessage, seq: int, at_ms: int) -> Message:
    """The message that was stored under this number."""
    # The caller's NewMessage keeps its metadata for itself. Its role is a member of the enum once it is checked.
    metadata = None if new.metadata is None else copied(new.metadata)
    role = cast(Role, new.role)
    return tuple.__new__(Message, (seq, role, new.content, at_ms, new.tool_name, metadata, None))


def append_together(
    conn: Connection,
    appends: Sequence[Append],
    rows: Sequence[list[Any]] | None = None,
    *,
    skip_locked: bool = False,
) -> list[list[Message] | None]:
    """For each append its stored messages, or None if nothing of it was stored. One statement.

    Nothing is stored in a session that does not exist or is not active as asked, and no message whose idempotency key
    the session retains. No key may come twice.

    Args:
        conn: a connection.
        appends: those of a session are numbered in this order.
        rows: what `Append.rows` gives for all of them, if it is known.
        skip_locked: store nothing in a session that another transaction has locked, rather than wait for it.
    """
    if rows is None:
        rows = [row for append in appends for row in append.rows()]
    text = _encode(rows)
    if len(text) > MAX_BATCH_BYTES // 4 and (size := len(text.encode())) > MAX_BATCH_BYTES:
        limit = f"must be at most {MAX_BATCH_BYTES} bytes together, as JSON"
        raise InvalidInput("messages", limit, Shown(f"{size} bytes"))
    at_ms = clock.now_ms()
    keys = _encode([*{append.key for append in appends}])
    parameters = {"keys": keys, "rows": text, "new_timestamp_ms": at_ms}
    found = _statement(skip_locked=skip_locked).rows(conn, parameters)
    numbers = _numbers(appends, found) if len(found) == len(rows) else _numbers_of_some(appends, found)
    return [
        [stored_message(new, seq, at_ms) for new, seq in zip(append.messages, seqs, strict=True)] if seqs else None
        for append, seqs in zip(appends, numbers, strict=True)
    ]


def _numbers(appends: Sequence[Append], found: Iterable[Sequence[Any]]) -> Iterator[list[int]]:
    """The numbers of each append's messages, all of which were stored."""
    of_session: defaultdict[str, list[int]] = defaultdict(list)
    for key, seq, _ in found:
        of_session[key].append(seq)
    left = {key: iter(sorted(seqs)) for key, seqs in of_session.items()}
    for append in appends:
        yield [next(left[append.key]) for _ in append.messages]


def _numbers_of_some(appends: Sequence[Append], found: Iterable[Sequence[Any]]) -> Iterator[list[int]]:
    """The numbers of each append's messages; none if it was not stored."""
    keyed = {(key, idempotency_key): [seq] for key, seq, idempotency_key in found if idempotency_key is not None}
    unkeyed = [row for row in found if row[2] is None]
    # Those of a session without idempotency keys are all stored, or all but those that need it to be active, or none.
    stored = Counter(key for key, *_ in unkeyed)
    sizes: Counter[str] = Counter()
    always: Counter[str] = Counter()
    for append in appends:
        if append.idempotency_key is None:
            sizes[append.key] += len(append.messages)
            always[append.key] += 0 if append.active_only else len(append.messages)
    if any(count not in (always[key], sizes[key]) for key, count in stored.items()):
        raise DatabaseUnavailable("a trigger left out some of the messages", 0.0, outcome_unknown=True)
    complete = [
        append
        for append in appends
        if append.idempotency_key is None
        and stored[append.key]
        and (not append.active_only or stored[append.key] == sizes[append.key])
    ]
    numbers = dict(zip(map(id, complete), _numbers(complete, unkeyed), strict=True))
    for append in appends:
        yield numbers.get(id(append)) or keyed.get((append.key, append.idempotency_key or ""), [])


@cache
def _statement(*, skip_locked: bool) -> Statement:
    def build(dialect: str) -> ClauseElement:
        rows, number, value = json_rows(dialect, "rows")
        # Locked in the order of their keys, so that two statements over the same sessions never deadlock.
        session = (
            select(sessions.c.key, sessions.c.last_seq, sessions.c.status)
            .where(is_one_of(dialect, sessions.c.key, "keys"))
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
                *(item.cast(Json) if position == _METADATA else item for position, item in enumerate(given)),
            )
            .select_from(session.join(rows, value(_KEY) == session.c.key))
            .where(or_(value(_STATUS).is_(None), value(_STATUS) == session.c.status), ~is_known)
        )
        insert = insert_into(dialect, messages).from_select(COLUMNS, batch)
        return insert.returning(messages.c.session_key, messages.c.seq, messages.c.idempotency_key)

    return Statement(build)

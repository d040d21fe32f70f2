"""Appends, and the one statement that stores those of several callers and sessions together."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cache
from itertools import repeat, zip_longest
from operator import attrgetter
from typing import Any, Final, NamedTuple, cast

from sqlalchemy import ClauseElement, ColumnElement, Connection, FromClause, bindparam, exists, func, or_, select

from sessions_db import clock
from sessions_db.database.statement import Statement
from sessions_db.enums import Role, SessionStatus
from sessions_db.errors import DatabaseUnavailable, InvalidInput, Shown
from sessions_db.limits import MAX_BATCH_BYTES, MAX_GROUP_LENGTH, MAX_GROUP_MESSAGES
from sessions_db.models import Message, NewMessage
from sessions_db.models.camel_case import copied
from sessions_db.operations.locking import IfLocked, locking
from sessions_db.schema import (
    Json,
    bound_rows,
    has_bound_rows,
    insert_into,
    is_one_of,
    messages,
    names_of_bound,
    sessions,
    text_rows,
    text_rows_parameters,
    to_json,
)

GIVEN: Final = tuple(field.name for field in fields(NewMessage))
"""The columns that the caller's message fills."""

COLUMNS: Final = ("session_key", "seq", "timestamp_ms", *GIVEN)
"""All columns that an append fills."""

_METADATA: Final = GIVEN.index("metadata")
_values = attrgetter(*GIVEN)

_encode = json.JSONEncoder(ensure_ascii=False).encode

# In the row of a message, what comes before the columns of `GIVEN`.
_KEY, _STATUS, _FIRST_GIVEN = range(3)
_IDEMPOTENCY_KEY: Final = _FIRST_GIVEN + GIVEN.index("idempotency_key")
_WIDTH: Final = _FIRST_GIVEN + len(GIVEN)

# The fewest rows that a statement has parameters for.
_SMALLEST: Final = 4

_CONTENT_THERE: Final = _FIRST_GIVEN + GIVEN.index("content")
_METADATA_THERE: Final = _FIRST_GIVEN + _METADATA


@dataclass(frozen=True, slots=True)
class Append:
    """Messages to be appended to a session, all or none.

    Args:
        key: the session's key.
        messages: in order. One with an idempotency key is the only one.
        active_only: whether the session must be active.
        expected_count: how many messages the session must have had. Such an append is sent by itself.
    """

    key: str
    messages: Sequence[NewMessage]
    active_only: bool = False
    expected_count: int | None = None

    @property
    def idempotency_key(self) -> str | None:
        """The key of its only message."""
        return self.messages[0].idempotency_key if len(self.messages) == 1 else None

    def rows(self) -> list[list[Any]]:
        """Its messages as `append_together` sends them."""
        status = SessionStatus.ACTIVE.value if self.active_only else None
        return [[self.key, status, *row_of(new)] for new in self.messages]


def length_of(rows: Iterable[Sequence[Any]]) -> int:
    """The characters of the contents and metadata in what `Append.rows` gives."""
    length = 0
    for row in rows:
        length += len(row[_CONTENT_THERE])
        if row[_METADATA_THERE] is not None:
            length += len(row[_METADATA_THERE])
    return length


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
    if_locked: IfLocked = IfLocked.WAIT,
) -> list[list[Message] | None]:
    """For each append its stored messages, or None if nothing of it was stored. One statement.

    Nothing is stored in a session that does not exist or is not active as asked, and no message whose idempotency key
    the session retains. No key may come twice. One with an expected count is the only one.

    Args:
        conn: a connection.
        appends: those of a session are numbered in this order.
        rows: what `Append.rows` gives for all of them, if it is known.
        if_locked: what to do with sessions that another transaction has locked.
    """
    if rows is None:
        rows = [row for append in appends for row in append.rows()]
    at_ms = clock.now_ms()
    parameters, form = _bound(rows) if _can_be_bound(conn, rows) else _as_texts(conn, rows)
    parameters["new_timestamp_ms"] = at_ms
    expecting = appends[0].expected_count is not None
    if expecting:
        parameters["expected_count"] = appends[0].expected_count
    found = _statement(form, if_locked, expecting=expecting).rows(conn, parameters)
    # A session's numbers follow each other, in the order of its appends.
    next_seq: dict[str, int] = {}
    for key, seq, _ in found:
        if seq < next_seq.get(key, seq + 1):
            next_seq[key] = seq
    answers: list[list[Message] | None] = []
    for append, is_stored in zip(appends, _are_stored(appends, found, len(rows)), strict=True):
        if not (is_stored and append.messages):
            answers.append(None)
            continue
        seq = next_seq[append.key]
        next_seq[append.key] += len(append.messages)
        answers.append([stored_message(new, number, at_ms) for number, new in enumerate(append.messages, seq)])
    return answers


class _Form(NamedTuple):
    """How the statement is given its rows.

    Args:
        size: as so many rows of parameters; 0 for `text_rows`.
        is_numbered: whether their numbers are those within their sessions. Otherwise the statement counts.
    """

    size: int
    is_numbered: bool


_TEXTS: Final = _Form(0, is_numbered=False)


def _can_be_bound(conn: Connection, rows: Sequence[list[Any]]) -> bool:
    return has_bound_rows(conn.dialect.name) and len(rows) <= MAX_GROUP_MESSAGES and length_of(rows) <= MAX_GROUP_LENGTH


def _bound(rows: Sequence[list[Any]]) -> tuple[dict[str, Any], _Form]:
    # In few sizes, as each is a statement of its own. What is missing has no key, and so no session.
    size = max(_SMALLEST, 1 << (len(rows) - 1).bit_length())
    counts: dict[str, int] = {}
    values: list[Any] = []
    for row in rows:
        key = row[_KEY]
        counts[key] = count = counts.get(key, 0) + 1
        values.append(count)
        values += row
    # If the rows of each session are all stored, or none.
    is_numbered = len(counts) == len(rows) or (
        len({row[_STATUS] for row in rows}) == 1 and all(row[_IDEMPOTENCY_KEY] is None for row in rows)
    )
    names = names_of_bound(size, _WIDTH)
    return dict(zip_longest(names, values)), _Form(size, is_numbered)


def _as_texts(conn: Connection, rows: Sequence[list[Any]]) -> tuple[dict[str, Any], _Form]:
    return given_parameters(conn, rows) | {"keys": _encode([*{row[_KEY] for row in rows}])}, _TEXTS


def given_parameters(conn: Connection, rows: Sequence[Sequence[Any]]) -> dict[str, Any]:
    """What sends these rows to `text_rows`.

    Raises:
        InvalidInput: they are too large for a statement.
    """
    parameters: dict[str, Any] = {**text_rows_parameters(conn.dialect.name, rows)}
    if sum(map(len, parameters.values())) > MAX_BATCH_BYTES // 4:
        size = sum(len(text.encode()) for text in parameters.values())
        if size > MAX_BATCH_BYTES:
            limit = f"must be at most {MAX_BATCH_BYTES} bytes together, as JSON"
            raise InvalidInput("messages", limit, Shown(f"{size} bytes"))
    return parameters


def given_values(value: Callable[[int], ColumnElement[Any]], first: int) -> Iterator[ColumnElement[Any]]:
    """The values of the columns of `GIVEN` in such rows, where the first has this position."""
    for position in range(len(GIVEN)):
        item = value(first + position)
        yield item.cast(Json) if position == _METADATA else item


def left_out() -> DatabaseUnavailable:
    """The error for an append of which only a part was stored, by a trigger of somebody else's."""
    return DatabaseUnavailable("a trigger left out some of the messages", 0.0, outcome_unknown=True)


def _are_stored(appends: Sequence[Append], found: Sequence[Sequence[Any]], sent: int) -> Iterable[bool]:
    """Whether each append was stored, by the rows that were found of those that were sent."""
    if len(found) == sent:
        return repeat(True, len(appends))
    keyed = {(key, idempotency_key) for key, _, idempotency_key in found if idempotency_key is not None}
    # Those of a session without idempotency keys are all stored, or all but those that need it to be active, or none.
    stored = Counter(key for key, _, idempotency_key in found if idempotency_key is None)
    sizes: Counter[str] = Counter()
    always: Counter[str] = Counter()
    for append in appends:
        if append.idempotency_key is None:
            sizes[append.key] += len(append.messages)
            always[append.key] += 0 if append.active_only else len(append.messages)
    if any(count not in (always[key], sizes[key]) for key, count in stored.items()):
        raise left_out()
    return [
        (append.key, append.idempotency_key) in keyed
        if append.idempotency_key is not None
        else stored[append.key] > 0 and (not append.active_only or stored[append.key] == sizes[append.key])
        for append in appends
    ]


def has_had_expected_count() -> ColumnElement[bool]:
    """Whether the session has had as many messages as the parameter `expected_count` says."""
    return sessions.c.last_seq == bindparam("expected_count", type_=sessions.c.last_seq.type)


@cache
def _statement(form: _Form, if_locked: IfLocked, *, expecting: bool) -> Statement:
    def build(dialect: str) -> ClauseElement:
        conditions = [has_had_expected_count()] if expecting else []
        session: FromClause = sessions
        if form.size:
            rows, number, value = bound_rows(form.size, _WIDTH)
        else:
            rows, number, value = text_rows(dialect, _WIDTH)
            # Locked in the order of their keys, so that two statements over the same sessions never deadlock.
            session = locking(
                select(sessions.c.key, sessions.c.last_seq, sessions.c.status)
                .where(is_one_of(dialect, sessions.c.key, "keys"), *conditions)
                .order_by(sessions.c.key),
                if_locked,
            ).subquery("session")
        if not form.is_numbered:
            number = func.row_number().over(partition_by=session.c.key, order_by=number)
        is_known = exists().where(
            messages.c.session_key == session.c.key, messages.c.idempotency_key == value(_IDEMPOTENCY_KEY)
        )
        batch = (
            select(
                session.c.key,
                session.c.last_seq + number,
                bindparam("new_timestamp_ms", type_=messages.c.timestamp_ms.type),
                *given_values(value, _FIRST_GIVEN),
            )
            .select_from(session.join(rows, value(_KEY) == session.c.key))
            .where(or_(value(_STATUS).is_(None), value(_STATUS) == session.c.status), ~is_known)
        )
        if form.size:
            batch = batch.where(*conditions)
        insert = insert_into(dialect, messages).from_select(COLUMNS, batch)
        return insert.returning(messages.c.session_key, messages.c.seq, messages.c.idempotency_key)

    return Statement(build)

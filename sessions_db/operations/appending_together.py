"""Appends, and the one statement that stores those of several callers and sessions together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache, partial
from itertools import repeat
from typing import Any, Final, NamedTuple, Self, cast

from sqlalchemy import ClauseElement, ColumnElement, Connection, FromClause, bindparam, exists, func, or_, select

from sessions_db import clock
from sessions_db.database.statement import Statement
from sessions_db.enums import Role, SessionStatus
from sessions_db.errors import DatabaseUnavailable
from sessions_db.models import Message, NewMessage
from sessions_db.models.camel_case import copied
from sessions_db.operations.locking import IfLocked, locking
from sessions_db.operations.message_rows import GIVEN, given_values, row_of, sent_rows
from sessions_db.schema import insert_into, is_one_of, messages, sessions, text_rows, to_json

COLUMNS: Final = ("session_key", "seq", "timestamp_ms", *GIVEN)
"""All columns that an append fills."""

SENT: Final = ("to_key", *GIVEN, "needed_status")
"""The texts of a message that is sent with those of other sessions. The last ones are left out if no row needs them."""

_KEY: Final = 0
_IDEMPOTENCY_KEY: Final = SENT.index("idempotency_key")
_STATUS: Final = SENT.index("needed_status")


class Append(NamedTuple):
    """Messages to be appended to a session, all or none.

    Args:
        key: the session's key.
        messages: in order. One with an idempotency key is the only one.
        active_only: whether the session must be active.
        expected_count: how many messages the session must have had. Such an append is sent by itself.
        owns_messages: whether nobody else has the messages: what is returned then has their metadata, not a copy.
    """

    key: str
    messages: Sequence[NewMessage]
    active_only: bool = False
    expected_count: int | None = None
    owns_messages: bool = False

    @property
    def idempotency_key(self) -> str | None:
        """The key of its only message."""
        return self.messages[0].idempotency_key if len(self.messages) == 1 else None

    def rows(self) -> list[list[Any]]:
        """Its messages as `append_together` sends them."""
        status = SessionStatus.ACTIVE.value if self.active_only else None
        return [[self.key, *row_of(new), status] for new in self.messages]


def stored_messages(append: Append, first_seq: int, at_ms: int) -> list[Message]:
    """The messages of an append that was stored, from this number on."""
    stored = []
    for seq, new in enumerate(append.messages, first_seq):
        # The caller's NewMessage keeps its metadata for itself.
        metadata = new.metadata if append.owns_messages or new.metadata is None else copied(new.metadata)
        # Its role is a member of the enum once it is checked.
        row = (seq, cast(Role, new.role), new.content, at_ms, new.tool_name, metadata, None)
        stored.append(tuple.__new__(Message, row))
    return stored


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
        rows: what `Append.rows` gives for all of them, if it is known and within the bounds of a group.
        if_locked: what to do with sessions that another transaction has locked.
    """
    is_bounded = rows is not None
    if rows is None:
        rows = [row for append in appends for row in append.rows()]
    if not rows:
        return [None] * len(appends)
    form = _Form.of(rows)
    size, first, parameters = sent_rows(
        conn, form.names, [row[: len(form.names)] for row in rows], partial(_numbers, rows), is_bounded=is_bounded
    )
    form = form._replace(size=size)
    at_ms = clock.now_ms()
    if not size:
        parameters["keys"] = to_json([*{append.key for append in appends}])
    parameters["new_timestamp_ms"] = at_ms
    expecting = appends[0].expected_count is not None
    if expecting:
        parameters["expected_count"] = appends[0].expected_count
    found = _statement(form, if_locked, expecting=expecting).rows(conn, parameters, first)
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
        answers.append(stored_messages(append, seq, at_ms))
    return answers


class _Form(NamedTuple):
    """How the statement is given its rows.

    Args:
        names: their texts.
        is_active_only: whether all of them need their session to be active. If only some do, their texts say so.
        has_numbers: whether what is stored has the numbers of the rows within their sessions: those of each session are
            all stored, or none. Otherwise the statement counts.
        size: as so many rows of parameters, or otherwise, if 0.
    """

    names: tuple[str, ...]
    is_active_only: bool
    has_numbers: bool
    size: int = 0

    @classmethod
    def of(cls, rows: Sequence[Sequence[Any]]) -> Self:
        """The form for rows of `SENT`."""
        statuses = {row[_STATUS] for row in rows}
        is_keyed = any(row[_IDEMPOTENCY_KEY] is not None for row in rows)
        is_mixed = len(statuses) > 1
        return cls(
            SENT if is_mixed else SENT[: _STATUS if is_keyed else _IDEMPOTENCY_KEY],
            is_active_only=statuses == {SessionStatus.ACTIVE.value},
            has_numbers=not (is_mixed or is_keyed) or len({row[_KEY] for row in rows}) == len(rows),
        )


def _numbers(rows: Sequence[Sequence[Any]]) -> list[int]:
    """The number of each row within its session."""
    counts: dict[str, int] = {}
    numbers: list[int] = []
    for row in rows:
        counts[row[_KEY]] = count = counts.get(row[_KEY], 0) + 1
        numbers.append(count)
    return numbers


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
        sent = text_rows(dialect, form.names, form.size)
        conditions = [has_had_expected_count()] if expecting else []
        session: FromClause = sessions
        if not form.size:
            # Locked in the order of their keys, so that two statements over the same sessions never deadlock.
            session = locking(
                select(sessions.c.key, sessions.c.last_seq, sessions.c.status)
                .where(is_one_of(dialect, sessions.c.key, "keys"), *conditions)
                .order_by(sessions.c.key),
                if_locked,
            ).subquery("session")
            conditions = []
        number = sent.number
        if not (form.size and form.has_numbers):
            number = func.row_number().over(partition_by=session.c.key, order_by=number)
        if form.is_active_only:
            conditions.append(session.c.status == SessionStatus.ACTIVE.value)
        if (needed := sent.texts.get("needed_status")) is not None:
            conditions.append(or_(needed.is_(None), needed == session.c.status))
        if (idempotency_key := sent.texts.get("idempotency_key")) is not None:
            is_theirs = messages.c.session_key == session.c.key
            conditions.append(~exists().where(is_theirs, messages.c.idempotency_key == idempotency_key))
        values = given_values(sent)
        batch = (
            select(
                session.c.key,
                session.c.last_seq + number,
                bindparam("new_timestamp_ms", type_=messages.c.timestamp_ms.type),
                *values,
            )
            .select_from(session.join(sent.rows, sent.texts["to_key"] == session.c.key))
            .where(*conditions)
        )
        insert = insert_into(dialect, messages).from_select(COLUMNS[: 3 + len(values)], batch)
        return insert.returning(messages.c.session_key, messages.c.seq, messages.c.idempotency_key)

    return Statement(build)

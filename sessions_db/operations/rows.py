"""Rows as values.

One statement reads sessions and their messages, so that both are from the same snapshot and nothing is repeated: a
session is a row whose `seq` is 0, a message is a row with its own number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from sqlalchemy import ColumnElement, Table, Text, cast, literal_column

from sessions_db.enums import Role, SessionKind, SessionStatus
from sessions_db.errors import DatabaseUnavailable
from sessions_db.models import Message, Session
from sessions_db.schema import archived_messages, each_from_json, from_json, messages, sessions

_P = ParamSpec("_P")
_T = TypeVar("_T")


def as_read(table: Table, name: str) -> ColumnElement[Any]:
    """The column, with JSON as text, whatever deserializer the caller's engine has."""
    column = table.c[name]
    return cast(column, Text).label(name) if name == "metadata" else column


_SESSION_FIELDS = [field.name for field in fields(Session) if field.name != "messages"]

SESSION_COLUMNS: tuple[ColumnElement[Any], ...] = (
    literal_column("0").label("seq"),
    *(
        sessions.c.last_seq.label(name) if name == "message_count" else as_read(sessions, name)
        for name in _SESSION_FIELDS
    ),
)
"""The columns that `sessions_of` turns into a session; the key comes second."""

MESSAGE_COLUMNS: tuple[ColumnElement[Any], ...] = tuple(
    as_read(messages, name) for name in Message._fields if name in messages.c
)
"""The columns that `messages_of` turns into a message."""

ARCHIVED_COLUMNS: tuple[ColumnElement[Any], ...] = tuple(as_read(archived_messages, name) for name in Message._fields)
"""The columns that `archived_of` turns into a message."""


def telling_damage(read: Callable[_P, _T]) -> Callable[_P, _T]:
    """Wrap a function that turns rows into values: what no constraint would have allowed raises `DatabaseUnavailable`.

    SQLite keeps no checksums, and does not notice when bytes change within a value.
    """

    @wraps(read)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            return read(*args, **kwargs)
        except (KeyError, TypeError, ValueError) as error:
            damage = f"the database is damaged, it holds what can't have been stored: {error!r:.100}"
            raise DatabaseUnavailable(damage, 0.0) from error

    return call


@telling_damage
def metadata_of(stored: str | None) -> Any:
    """The JSON object that a column `metadata` holds as text, or None."""
    return from_json(stored)


@telling_damage
def sessions_of(rows: Iterable[Sequence[Any]]) -> list[Session]:
    """The sessions that rows of `SESSION_COLUMNS` and `MESSAGE_COLUMNS` hold, in the order of their rows."""
    found: list[Sequence[Any]] = []
    retained: dict[str, list[Sequence[Any]]] = {}
    for row in rows:
        seq, key = row[:2]
        if seq == 0:
            found.append(row[1 : len(SESSION_COLUMNS)])
            retained[key] = []
        else:
            retained[key].append(row[len(SESSION_COLUMNS) :])
    return [_session(row, retained[row[0]]) for row in found]


def _session(row: Sequence[Any], retained: Sequence[Sequence[Any]]) -> Session:
    values = dict(zip(_SESSION_FIELDS, row, strict=True))
    values["kind"] = SessionKind(values["kind"])
    values["status"] = SessionStatus(values["status"])
    values["metadata"] = from_json(values["metadata"])
    return Session(**values, messages=tuple(messages_of(retained)))


# For each message, `Role(role)` takes four times as long as this look-up (measured once).
_ROLES = {role.value: role for role in Role}


@telling_damage
def messages_of(rows: Iterable[Sequence[Any]]) -> list[Message]:
    """The messages that rows of `MESSAGE_COLUMNS` hold."""
    rows = [*rows]
    metadata = iter(each_from_json([row[-1] for row in rows if row[-1] is not None]))
    # Not `Message(...)`: its `__new__` is written in Python, which makes this function a sixth slower (measured once).
    new = tuple.__new__
    return [
        new(
            Message,
            (seq, _ROLES[role], content, timestamp_ms, tool_name, None if stored is None else next(metadata), None),
        )
        for seq, role, content, timestamp_ms, tool_name, stored in rows
    ]


@telling_damage
def metadata_by_seq(rows: Sequence[Sequence[Any]]) -> list[tuple[int, Any]] | None:
    """The numbers and metadata that rows of these two hold; None if one has no metadata."""
    texts = [stored for _, stored in rows]
    return None if None in texts else [(row[0], found) for row, found in zip(rows, each_from_json(texts), strict=True)]


@telling_damage
def archived_of(rows: Iterable[Sequence[Any]]) -> list[Message]:
    """The messages that rows of `ARCHIVED_COLUMNS` hold."""
    found = list(rows)
    return [
        message._replace(archived_ms=row[-1])
        for message, row in zip(messages_of(row[:-1] for row in found), found, strict=True)
    ]


status_from = telling_damage(SessionStatus)
"""The status that a stored text stands for."""

"""Messages as rows that a statement is given."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from operator import attrgetter
from typing import Any, Final, NamedTuple

from sqlalchemy import ColumnElement, Connection

from sessions_db.errors import InvalidInput, Shown
from sessions_db.limits import MAX_BATCH_BYTES, MAX_GROUP_LENGTH, MAX_GROUP_MESSAGES
from sessions_db.models import NewMessage
from sessions_db.schema import (
    Json,
    TextRows,
    bound_rows_values,
    has_bound_rows,
    text_rows_parameters,
    to_json,
)

GIVEN: Final = tuple(field.name for field in fields(NewMessage))
"""The columns that the caller's message fills."""

# The fewest rows that a statement has parameters for.
_SMALLEST: Final = 4

_ROLE: Final = GIVEN.index("role")
_METADATA: Final = GIVEN.index("metadata")
_values = attrgetter(*GIVEN)


def length_of(names: Sequence[str], rows: Iterable[Sequence[Any]]) -> int:
    """The characters of the contents and metadata in rows of these texts."""
    content, metadata = names.index("content"), names.index("metadata")
    length = 0
    for row in rows:
        length += len(row[content])
        if row[metadata] is not None:
            length += len(row[metadata])
    return length


def row_of(new: NewMessage) -> list[Any]:
    """The values of `GIVEN`, as they are sent."""
    row = [*_values(new)]
    # Of a member of an enum, sqlite3 first asks how it wants to be stored, which takes it five times as long.
    row[_ROLE] = str.__str__(row[_ROLE])
    row[_METADATA] = to_json(new.metadata)
    return row


class SentRows(NamedTuple):
    """What a statement is sent for its rows.

    Args:
        size: so many rows of parameters, which come first in the statement; 0 if otherwise, numbered from 1.
        first: the values of these parameters.
        parameters: what is sent otherwise.
    """

    size: int
    first: Sequence[Any]
    parameters: dict[str, Any]


def sent_rows(
    conn: Connection,
    names: Sequence[str],
    rows: Sequence[Sequence[Any]],
    numbers: Callable[[], Iterable[int]],
    *,
    is_bounded: bool = False,
) -> SentRows:
    """What sends these rows with their numbers.

    Args:
        conn: a connection.
        names: the texts of a row.
        rows: the rows.
        numbers: makes their numbers, if they are sent.
        is_bounded: whether their length is known to be within that of a group.

    Raises:
        InvalidInput: they are too large for a statement.
    """
    dialect = conn.dialect.name
    is_few = has_bound_rows(dialect) and len(rows) <= MAX_GROUP_MESSAGES
    if is_few and (is_bounded or length_of(names, rows) <= MAX_GROUP_LENGTH):
        # In few sizes, as each is a statement of its own.
        size = max(_SMALLEST, 1 << (len(rows) - 1).bit_length())
        return SentRows(size, bound_rows_values(numbers(), rows, size), {})
    parameters = text_rows_parameters(dialect, names, rows)
    if sum(map(len, parameters.values())) > MAX_BATCH_BYTES // 4:
        bytes_sent = sum(len(text.encode()) for text in parameters.values())
        if bytes_sent > MAX_BATCH_BYTES:
            limit = f"must be at most {MAX_BATCH_BYTES} bytes together, as JSON"
            raise InvalidInput("messages", limit, Shown(f"{bytes_sent} bytes"))
    return SentRows(0, (), parameters)


def given_values(rows: TextRows) -> list[ColumnElement[Any]]:
    """The values of the columns of `GIVEN` in such rows, as far as they have them."""
    texts = [(name, rows.texts[name]) for name in GIVEN if name in rows.texts]
    return [value.cast(Json) if name == "metadata" else value for name, value in texts]

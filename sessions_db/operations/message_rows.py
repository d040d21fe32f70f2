"""Messages as rows that a statement is given."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from operator import attrgetter
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection

from sessions_db.errors import InvalidInput, Shown
from sessions_db.limits import MAX_BATCH_BYTES, MAX_GROUP_LENGTH, MAX_GROUP_MESSAGES
from sessions_db.models import NewMessage
from sessions_db.schema import (
    Json,
    TextRows,
    bound_rows_parameters,
    has_bound_rows,
    text_rows_parameters,
    to_json,
)

GIVEN: Final = tuple(field.name for field in fields(NewMessage))
"""The columns that the caller's message fills."""

# Counted from the end: other values may come first.
_CONTENT: Final = GIVEN.index("content") - len(GIVEN)
_METADATA: Final = GIVEN.index("metadata") - len(GIVEN)

# The fewest rows that a statement has parameters for.
_SMALLEST: Final = 4

_values = attrgetter(*GIVEN)


def length_of(rows: Iterable[Sequence[Any]]) -> int:
    """The characters of the contents and metadata in what `Append.rows` or `row_of` gives."""
    length = 0
    for row in rows:
        length += len(row[_CONTENT])
        if row[_METADATA] is not None:
            length += len(row[_METADATA])
    return length


def row_of(new: NewMessage) -> list[Any]:
    """The values of `GIVEN`, as they are sent."""
    row = [*_values(new)]
    row[_METADATA] = to_json(new.metadata)
    return row


def given_parameters(
    conn: Connection, names: Sequence[str], rows: Sequence[Sequence[Any]], numbers: Callable[[], Iterable[int]]
) -> tuple[dict[str, Any], int]:
    """What sends these rows with their numbers, and as how many rows of parameters; 0 if otherwise, numbered from 1.

    Raises:
        InvalidInput: they are too large for a statement.
    """
    dialect = conn.dialect.name
    if has_bound_rows(dialect) and len(rows) <= MAX_GROUP_MESSAGES and length_of(rows) <= MAX_GROUP_LENGTH:
        # In few sizes, as each is a statement of its own.
        size = max(_SMALLEST, 1 << (len(rows) - 1).bit_length())
        numbered = ([number, *row] for number, row in zip(numbers(), rows, strict=False))
        return bound_rows_parameters(numbered, size, len(names)), size
    parameters = text_rows_parameters(dialect, names, rows)
    if sum(map(len, parameters.values())) > MAX_BATCH_BYTES // 4:
        bytes_sent = sum(len(text.encode()) for text in parameters.values())
        if bytes_sent > MAX_BATCH_BYTES:
            limit = f"must be at most {MAX_BATCH_BYTES} bytes together, as JSON"
            raise InvalidInput("messages", limit, Shown(f"{bytes_sent} bytes"))
    return parameters, 0


def given_values(given: TextRows) -> list[ColumnElement[Any]]:
    """The values of the columns of `GIVEN` in such rows."""
    return [given.texts[name].cast(Json) if name == "metadata" else given.texts[name] for name in GIVEN]

"""Rows of texts that a statement is given: how it reads them, and how they are sent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import BigInteger, ColumnClause, ColumnElement, FromClause, Text, bindparam, column, func, values
from sqlalchemy.dialects import postgresql

from sessions_db.schema.expressions import json_rows
from sessions_db.schema.json import to_json

_JSON: Final = "rows"


class TextRows(NamedTuple):
    """The rows, the column that numbers them from 1, and the columns of texts by name."""

    rows: FromClause
    number: ColumnElement[int]
    texts: Mapping[str, ColumnElement[str]]


def text_rows(dialect: str, names: Sequence[str], size: int = 0) -> TextRows:
    """The rows that `text_rows_parameters` sends, or `bound_rows_values` as so many.

    On Postgres an array for each column: it parses JSON anew for each value that is taken out.
    """
    if size:
        columns: list[ColumnClause[Any]] = [column("number", BigInteger), *(column(name, Text) for name in names)]
        bound = [
            tuple(bindparam(f"row_{row}_{column.name}", type_=column.type) for column in columns) for row in range(size)
        ]
        batch = values(*columns, name="batch").data(bound).cte("batch")
        return TextRows(batch, batch.c.number, {name: batch.c[name] for name in names})
    if dialect == "postgresql":
        # Not cast from text: what is not a plain parameter confuses Citus.
        arrays = [bindparam(f"{_JSON}_{name}", type_=postgresql.ARRAY(Text)) for name in names]
        rows = func.unnest(*arrays).table_valued(*names, with_ordinality="number").render_derived(name="batch")
        return TextRows(rows, rows.c.number, {name: rows.c[name] for name in names})
    array, number, value = json_rows(dialect, _JSON)
    return TextRows(array, number, {name: value(position) for position, name in enumerate(names)})


def text_rows_parameters(dialect: str, names: Sequence[str], rows: Sequence[Sequence[str | None]]) -> dict[str, Any]:
    """The parameters for these rows, of one text or None for each name. There is at least one row."""
    if dialect == "postgresql":
        return {f"{_JSON}_{name}": _array(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}
    return {_JSON: to_json(rows)}


def has_bound_rows(dialect: str) -> bool:
    """Whether a few rows are better sent as parameters of their own."""
    # SQLite took twice as long to find the values of a message in JSON as to store it (measured once).
    return dialect == "sqlite"


def bound_rows_values(numbers: Iterable[int], rows: Sequence[Sequence[Any]], size: int) -> list[Any]:
    """What is sent for at least one and at most so many rows of texts or None, each with its number.

    The rows that are missing have None for their number, and empty texts.
    """
    values: list[Any] = []
    for number, row in zip(numbers, rows, strict=False):
        values.append(number)
        values += row
    # Not None for all: sqlite3 looks for an adapter of each, and takes three times as long as for a text.
    values += [None, *[""] * len(rows[0])] * (size - len(rows))
    return values


def _array(texts: Iterable[str | None]) -> str:
    """The text of an array of Postgres's."""
    quoted = ["NULL" if text is None else '"' + text.replace("\\", r"\\").replace('"', r"\"") + '"' for text in texts]
    return "{" + ",".join(quoted) + "}"

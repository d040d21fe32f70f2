"""Rows of texts that a statement is given: how it reads them, and how they are sent."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from sqlalchemy import ColumnElement, TableValuedAlias, Text, bindparam, func
from sqlalchemy.dialects import postgresql

_JSON: Final = "rows"

_encode = json.JSONEncoder(ensure_ascii=False).encode


class TextRows(NamedTuple):
    """The rows, the column that numbers them from 1, and the columns of texts by name."""

    rows: TableValuedAlias
    number: ColumnElement[int]
    texts: Mapping[str, ColumnElement[str]]


def text_rows(dialect: str, names: Sequence[str]) -> TextRows:
    """The rows that `text_rows_parameters` sends.

    On Postgres an array for each column: it parses JSON anew for each value that is taken out.
    """
    if dialect == "postgresql":
        # Not cast from text: what is not a plain parameter confuses Citus.
        arrays = [bindparam(f"{_JSON}_{name}", type_=postgresql.ARRAY(Text)) for name in names]
        rows = func.unnest(*arrays).table_valued(*names, with_ordinality="number").render_derived(name="batch")
        return TextRows(rows, rows.c.number, {name: rows.c[name] for name in names})
    rows = func.json_each(bindparam(_JSON, type_=Text)).table_valued("key", "value", name="batch")
    texts = {name: func.json_extract(rows.c.value, f"$[{position}]") for position, name in enumerate(names)}
    return TextRows(rows, rows.c.key + 1, texts)


def text_rows_parameters(dialect: str, names: Sequence[str], rows: Sequence[Sequence[str | None]]) -> dict[str, str]:
    """The parameters for these rows, of one text or None for each name. There is at least one row."""
    if dialect == "postgresql":
        return {f"{_JSON}_{name}": _array(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}
    return {_JSON: _encode(rows)}


def _array(texts: Iterable[str | None]) -> str:
    """The text of an array of Postgres's."""
    quoted = ["NULL" if text is None else '"' + text.replace("\\", r"\\").replace('"', r"\"") + '"' for text in texts]
    return "{" + ",".join(quoted) + "}"

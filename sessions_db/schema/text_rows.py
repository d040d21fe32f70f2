"""Rows of texts that a statement is given: how it reads them, and how they are sent."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Final

from sqlalchemy import Text, bindparam, func
from sqlalchemy.dialects import postgresql

from sessions_db.schema.expressions import GivenRows, json_rows

_PARAMETER: Final = "rows"

_encode = json.JSONEncoder(ensure_ascii=False).encode


def text_rows(dialect: str, width: int) -> GivenRows:
    """The rows that `text_rows_parameters` sends, of so many texts each, numbered from 1.

    On Postgres an array for each column: it parses JSON anew for each value that is taken out.
    """
    if dialect != "postgresql":
        return json_rows(dialect, _PARAMETER)
    # Not cast from text: what is not a plain parameter confuses Citus.
    arrays = [bindparam(f"{_PARAMETER}_{position}", type_=postgresql.ARRAY(Text)) for position in range(width)]
    names = [f"c{position}" for position in range(width)]
    rows = func.unnest(*arrays).table_valued(*names, with_ordinality="number").render_derived(name="batch")
    return GivenRows(rows, rows.c.number, lambda position: rows.c[names[position]])


def text_rows_parameters(dialect: str, rows: Sequence[Sequence[str | None]]) -> dict[str, str]:
    """The parameters for these rows. There is at least one."""
    if dialect != "postgresql":
        return {_PARAMETER: _encode(rows)}
    return {f"{_PARAMETER}_{position}": _array(texts) for position, texts in enumerate(zip(*rows, strict=True))}


def _array(texts: Iterable[str | None]) -> str:
    """The text of an array of Postgres's."""
    quoted = ["NULL" if text is None else '"' + text.replace("\\", r"\\").replace('"', r"\"") + '"' for text in texts]
    return "{" + ",".join(quoted) + "}"

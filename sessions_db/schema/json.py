"""JSON columns, and their text as Python objects."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import Dialect
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.types import UserDefinedType

from sessions_db.validation import JsonValue


class Json(UserDefinedType[dict[str, JsonValue]]):
    """A JSON object kept as the text that was written: key order and numbers come back exactly.

    That is why it is `JSON` on Postgres and not `JSONB`, which reorders keys. On SQLite it is `TEXT`. Columns are read
    as text, and parsed by `from_json` and `each_from_json`.
    """

    cache_ok = True
    # psycopg sends a str as text, which Postgres does not turn into json by itself.
    render_bind_cast = True

    def bind_processor(self, dialect: Dialect) -> Callable[[Any], str | None]:
        """Write an object as text that an auditor can read, without needless escapes."""
        return to_json


def to_json(value: JsonValue) -> str | None:
    """The text of a JSON value, or None for no value."""
    return None if value is None else _ENCODER.encode(value)


def from_json(value: str | None) -> Any:
    """The object that `to_json` wrote."""
    return None if value is None else _DECODER.decode(value)


def each_from_json(values: Sequence[str]) -> list[Any]:
    """The objects that `to_json` wrote."""
    # As one array: one by one, 50 objects of messages take half as long again (measured once).
    try:
        found = _DECODER.decode(f"[{','.join(values)}]")
    except (ValueError, RecursionError):
        found = []
    # If one of them is damaged, it raises the error that says how.
    return found if len(found) == len(values) else [_DECODER.decode(value) for value in values]


# `json.loads` and `json.dumps` examine their options on every call, for each message that is read or written.
_DECODER = json.JSONDecoder()
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False)


@compiles(Json, "sqlite")
def _json_on_sqlite(_type: Json, _compiler: object, **_kwargs: object) -> str:
    return "TEXT"


@compiles(Json, "postgresql")
def _json_on_postgresql(_type: Json, _compiler: object, **_kwargs: object) -> str:
    return "JSON"

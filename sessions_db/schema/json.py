"""JSON columns, and their text as Python objects."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from sqlalchemy import Dialect
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.types import UserDefinedType

from sessions_db.frozen import FrozenDict, with_frozen_lists
from sessions_db.validation import JsonValue


class Json(UserDefinedType[dict[str, JsonValue]]):
    """A JSON object kept as the text that was written: key order and numbers come back exactly.

    That is why it is `JSON` on Postgres and not `JSONB`, which reorders keys. On SQLite it is `TEXT`. Columns are read
    as text, and parsed by `from_json`.
    """

    cache_ok = True
    # psycopg sends a str as text, which Postgres does not turn into json by itself.
    render_bind_cast = True

    def bind_processor(self, dialect: Dialect) -> Callable[[Any], str | None]:
        """Write an object as text that an auditor can read, with nothing escaped that need not be."""
        return to_json


def to_json(value: JsonValue) -> str | None:
    """The text of a JSON object, or None for no object."""
    return None if value is None else _ENCODER.encode(value)


def from_json(value: str | None) -> Any:
    """The object that `to_json` wrote, as one that can't be changed."""
    if value is None:
        return None
    # Without lists no function of Python's is called for each object, which takes a third less time.
    decoder = _DECODER_WITH_LISTS if "[" in value else _DECODER
    # `decode` looks for white space around the object, which is rarely there and takes a third of its time.
    if value[:1] == "{":
        found, end = decoder.raw_decode(value)
        if end == len(value):
            return found
    return decoder.decode(value)


# `json.loads` and `json.dumps` examine their options on every call, for each message that is read or written.
_DECODER = json.JSONDecoder(object_hook=FrozenDict)
_DECODER_WITH_LISTS = json.JSONDecoder(object_hook=with_frozen_lists)
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False)


@compiles(Json, "sqlite")
def _json_on_sqlite(_type: Json, _compiler: object, **_kwargs: object) -> str:
    return "TEXT"


@compiles(Json, "postgresql")
def _json_on_postgresql(_type: Json, _compiler: object, **_kwargs: object) -> str:
    return "JSON"

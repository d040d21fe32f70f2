"""Values as camelCase JSON, and copies of JSON values."""

from __future__ import annotations

import inspect
from collections.abc import Hashable
from enum import StrEnum
from functools import cache
from typing import Any, cast

from sessions_db.validation import JsonValue


def camel_case(value: object) -> dict[str, JsonValue]:
    """The fields of a dataclass or named tuple, without those that are None."""
    items = ((name, getattr(value, field)) for field, name in _json_names(cast(Hashable, type(value))))
    return {name: _json(item) for name, item in items if item is not None}


def _json(item: object) -> JsonValue:
    match item:
        case StrEnum():
            return item.value
        case tuple() if not hasattr(item, "to_dict"):
            return [_json(each) for each in item]
        case dict():
            # The caller may change it.
            return cast(JsonValue, copied(item))
        case str() | int() | float():
            return item
        case _:
            return camel_case(item)


def copied(value: Any) -> Any:
    """A deep copy of a JSON value, in half the time of `copy.deepcopy` (measured once)."""
    if isinstance(value, dict):
        return {name: copied(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [copied(item) for item in value]
    return value


@cache
def _json_names(model: Hashable) -> tuple[tuple[str, str], ...]:
    return tuple((field, json_name(field)) for field in inspect.signature(cast(type, model)).parameters)


def json_name(field: str) -> str:
    """The name of a field in JSON: `createdMs` for `created_ms`."""
    first, *rest = field.split("_")
    return first + "".join(word.capitalize() for word in rest)

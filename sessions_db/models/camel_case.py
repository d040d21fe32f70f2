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
    items = ((json_name, getattr(value, field)) for field, json_name in _json_names(cast(Hashable, type(value))))
    return {json_name: _json(item) for json_name, item in items if item is not None}


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
    names = []
    for field in inspect.signature(cast(type, model)).parameters:
        first, *rest = field.split("_")
        names.append((field, first + "".join(word.capitalize() for word in rest)))
    return tuple(names)

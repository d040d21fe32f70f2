"""Values as camelCase JSON."""

from __future__ import annotations

import inspect
from collections.abc import Hashable
from enum import StrEnum
from functools import cache
from typing import cast

from sessions_db.frozen import thawed
from sessions_db.validation import JsonValue


def camel_case(value: object) -> dict[str, JsonValue]:
    """The fields of a dataclass or named tuple, those that are None left out."""
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
            return cast(JsonValue, thawed(item))
        case str() | int() | float():
            return item
        case _:
            return camel_case(item)


@cache
def _json_names(model: Hashable) -> tuple[tuple[str, str], ...]:
    names = []
    for field in inspect.signature(cast(type, model)).parameters:
        first, *rest = field.split("_")
        names.append((field, first + "".join(word.capitalize() for word in rest)))
    return tuple(names)

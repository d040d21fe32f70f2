"""A whole session as a line of JSON, written and read.

The fields are those of `ExportedSession`. Metadata is a JSON string that holds the stored text, so that key order and
numbers come back exactly.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Mapping
from dataclasses import asdict, fields
from functools import cache
from typing import Any, Final, TypeVar, cast

from sessions_db.errors import InvalidInput
from sessions_db.models import ExportedMessage, ExportedSession
from sessions_db.validation import JsonValue

FORMAT: Final = "sessions-db/1"
"""The `format` that each line declares."""

_FAMILY: Final = FORMAT.partition("/")[0] + "/"

_T = TypeVar("_T")

_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode


def to_line(session: ExportedSession) -> bytes:
    """The session as a line of JSON in UTF-8, with its line feed. Fields that are None are left out."""
    line = {"format": FORMAT} | asdict(session, dict_factory=_without_none)
    line["labels"] = [{"label": label, "assigned_ms": at_ms} for label, at_ms in session.labels]
    return f"{_encode(line)}\n".encode()


def is_session_line(line: bytes) -> bool:
    """Whether `to_line` wrote this line of an export, and not one of those that prove something."""
    return line.startswith(f'{{"format": "{FORMAT}"'.encode())


def _without_none(items: list[tuple[str, Any]]) -> dict[str, Any]:
    return {name: value for name, value in items if value is not None}


def is_session(value: Mapping[str, JsonValue]) -> bool:
    """Whether the line's object declares itself a session, in this version of the format or another."""
    name = value.get("format")
    return isinstance(name, str) and name.startswith(_FAMILY)


def from_line(value: Mapping[str, JsonValue]) -> ExportedSession:
    """The session that the line's object holds; its values are not checked.

    Raises:
        InvalidInput: names a field that is missing, unknown or of the wrong shape.
    """
    if value.get("format") != FORMAT:
        raise InvalidInput("format", f"must be {FORMAT!r} for this release", value.get("format"))
    members: dict[str, Any] = {name: member for name, member in value.items() if name != "format"}
    members["labels"] = _each(members, "labels", _label)
    for name in ("messages", "archived_messages"):
        members[name] = _each(members, name, lambda message: _of(ExportedMessage, message))
    return _of(ExportedSession, members)


def _label(members: Mapping[str, Any]) -> tuple[Any, Any]:
    for name in members.keys() - {"label", "assigned_ms"}:
        raise _unknown(name, members[name])
    return members.get("label"), members.get("assigned_ms")


def _each(members: Mapping[str, Any], name: str, make: Callable[[Mapping[str, Any]], _T]) -> tuple[_T, ...]:
    elements = members.get(name)
    if not isinstance(elements, list):
        raise InvalidInput(name, "must be a list", elements)
    made = []
    for position, element in enumerate(elements):
        place = f"{name}[{position}]"
        if not isinstance(element, dict):
            raise InvalidInput(place, "must be an object", element)
        try:
            made.append(make(element))
        except InvalidInput as error:
            raise InvalidInput(f"{place}.{error.argument}", error.reason, error.value) from error
    return tuple(made)


def _of(model: type[_T], members: Mapping[str, Any]) -> _T:
    """The dataclass with these fields; those that are left out are None."""
    known = _names(cast(Hashable, model))
    if not members.keys() <= known.keys():
        name = min(members.keys() - known.keys())
        raise _unknown(name, members[name])
    return model(**{**known, **members})


@cache
def _names(model: Hashable) -> Mapping[str, None]:
    return dict.fromkeys(field.name for field in fields(model))  # type: ignore[arg-type]


def _unknown(name: str, value: object) -> InvalidInput:
    return InvalidInput(name, f"must not be there: {FORMAT} has no such field", value)

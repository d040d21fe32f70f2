"""A framework's own object, kept in a message's metadata beside the columns that people read.

The object comes back as it was, also one that no database takes as it is: with NUL, lone surrogates, infinite numbers
or up to 500 levels of nesting it is stored as ASCII JSON text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, TypeVar

from sessions_db.enums import Role
from sessions_db.errors import InvalidInput, Shown
from sessions_db.limits import MAX_NAME_LENGTH
from sessions_db.models import Message, NewMessage
from sessions_db.validation import JsonValue

_T = TypeVar("_T")

# Deeper than any format has what is looked for, and what an agent stored can't make it costly.
_SEARCHED_DEPTH: Final = 8

# Python's parser stops at its recursion limit, 1,000, which the reader's own calls count against.
_MAX_DEPTH: Final = 500


def with_payload(
    role: Role,
    content: str,
    tool_name: str | None,
    metadata_key: str,
    payload: Mapping[str, Any],
    *,
    idempotency_key: str | None = None,
) -> NewMessage:
    """The message to store. What no column takes of its content and tool name is replaced or cut.

    Raises:
        InvalidInput: the payload is not JSON, or nested too deeply.
    """
    content = _storable(content)
    if tool_name is not None:
        tool_name = _storable(tool_name)[:MAX_NAME_LENGTH]
    try:
        return NewMessage(role, content, tool_name, {metadata_key: payload}, idempotency_key)
    except InvalidInput:
        text = json_text(payload)
        _check_exact(payload)
        return NewMessage(role, content, tool_name, {metadata_key: text}, idempotency_key)


def payload(message: Message, metadata_key: str) -> dict[str, Any] | None:
    """The message's payload; None for a message that was stored otherwise, or redacted.

    Not a copy, which would take a third of the time of reading 50 (measured once).
    """
    stored = (message.metadata or {}).get(metadata_key)
    if isinstance(stored, str):
        try:
            stored = json.loads(stored)
        except (ValueError, RecursionError):
            # Another client's text, which must not make the rest unreadable.
            return None
    return stored if isinstance(stored, dict) else None


def found_in(
    metadata: JsonValue, find: Callable[[Mapping[str, JsonValue]], _T | None], *, depth: int = _SEARCHED_DEPTH
) -> Iterator[_T]:
    """What `find` returns for the objects in a message's metadata, in their order, wherever its client keeps its own.

    What is within an object is looked at if it returns None for it.
    """
    if not depth:
        return
    found, within = None, metadata
    if isinstance(metadata, Mapping):
        found, within = find(metadata), [*metadata.values()]
    if found is not None:
        yield found
    elif isinstance(within, list | tuple):
        for each in within:
            yield from found_in(each, find, depth=depth - 1)


def json_text(value: object, *, ascii_only: bool = True) -> str:
    """The value as JSON.

    Raises:
        InvalidInput: it is not JSON.
    """
    try:
        return json.dumps(value, ensure_ascii=ascii_only)
    except (TypeError, ValueError, RecursionError):
        raise InvalidInput("messages", "must be made of JSON values", value) from None


def _check_exact(payload: Mapping[str, Any]) -> None:
    """Refuse what `json` writes and does not read as it was, wherever it is read."""
    values: list[tuple[object, int]] = [(payload, 1)]
    while values:
        value, depth = values.pop()
        if isinstance(value, dict):
            if not all(isinstance(key, str) for key in value):
                raise InvalidInput("messages", "must have keys that are texts", payload)
            value = [*value.values()]
        if isinstance(value, list | tuple):
            if depth > _MAX_DEPTH:
                raise InvalidInput(
                    "messages", f"must be nested at most {_MAX_DEPTH} levels deep", Shown("a deeper one")
                )
            values += [(item, depth + 1) for item in value]


def _storable(text: str) -> str:
    """The text without what no database takes: lone surrogates and NUL."""
    return text.encode(errors="replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")

"""Messages in the chat-completions format, converted exactly in both directions.

A key that has a column goes there, so that SQL finds it; the rest are kept in the message's metadata under their own
names. A key that is in both, because the column could not hold the original, is rebuilt from the metadata.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

from sessions_db.enums import Role
from sessions_db.errors import InvalidInput
from sessions_db.models import Message, NewMessage
from sessions_db.models.camel_case import copied
from sessions_db.validation import JsonValue

KEY_ORDER = "_key_order"
"""The metadata key that lists a message's keys, if they are not in the usual order or one is missing."""

_ROLES = {role.value: role for role in Role} | {"developer": Role.SYSTEM, "function": Role.TOOL}


def to_new_message(message: Mapping[str, JsonValue]) -> NewMessage:
    """The message to store, from which `to_chat` rebuilds `message` exactly, the order of its keys included.

    `content` that is a list of parts is stored as its text parts, one per line; null or no content as an empty text.

    Raises:
        InvalidInput: it is not a chat-completions message, or it can't be stored.
    """
    if not isinstance(message, Mapping):
        raise InvalidInput("message", "must be an object", message)
    role = _role(message.get("role"))
    text = _text(message.get("content"))
    name = message.get("name")
    tool_name = name if role is Role.TOOL and isinstance(name, str) else None
    columns = _columns(role, text, tool_name)
    metadata = {key: value for key, value in message.items() if key not in columns or columns[key] != value}
    if [*(columns | metadata)] != [*message]:
        metadata.setdefault(KEY_ORDER, [*message])
    new = NewMessage(role, text, tool_name, metadata or None)
    if json.dumps(to_chat(new)) != json.dumps(message, default=dict):
        raise InvalidInput("message", f"must not have a key {KEY_ORDER!r}, which is used to rebuild it", message)
    return new


def to_chat(message: Message | NewMessage) -> dict[str, JsonValue]:
    """The chat-completions message that `to_new_message` was given; a plain one for a message stored otherwise.

    It may be changed: nothing of it is shared with `message`.
    """
    columns = _columns(Role(message.role), message.content, message.tool_name)
    rebuilt: dict[str, JsonValue] = columns | copied(message.metadata or {})
    order = rebuilt.pop(KEY_ORDER, None)
    if not isinstance(order, list):
        return rebuilt
    return {key: rebuilt[key] for key in order if isinstance(key, str) and key in rebuilt}


def _columns(role: Role, text: str, tool_name: str | None) -> dict[str, JsonValue]:
    columns: dict[str, JsonValue] = {"role": role.value, "content": text}
    if tool_name is not None:
        columns["name"] = tool_name
    return columns


def _role(role: JsonValue) -> Role:
    if not isinstance(role, str) or role not in _ROLES:
        raise InvalidInput("role", f"must be one of {', '.join(_ROLES)}", role)
    return _ROLES[role]


def _text(content: JsonValue) -> str:
    match content:
        case str():
            return content
        case None:
            return ""
        case list() | tuple():
            return "\n".join(_texts(content))
        case _:
            raise InvalidInput("content", "must be a text, a list of parts or null", content)


def _texts(parts: Sequence[JsonValue]) -> Iterator[str]:
    for part in parts:
        text = part.get("text") if isinstance(part, Mapping) else None
        if isinstance(text, str):
            yield text

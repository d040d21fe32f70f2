"""The input rules: each function returns the checked value or raises `InvalidInput` naming the argument.

They are the same for both databases: what one of them can't store is refused on the other too.
"""

from __future__ import annotations

import math
import reprlib
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TypeAlias, TypeVar

from sessions_db import clock, limits
from sessions_db.errors import InvalidInput, Shown

JsonValue: TypeAlias = "str | int | float | bool | Mapping[str, JsonValue] | Sequence[JsonValue] | None"
"""What JSON can hold. Numbers are finite."""

SURROGATES = "must not contain lone surrogates"
"""The reason for which text that is not well-formed is refused."""

_MAX_SHOWN_KEY = 30

# An argument, or an item by its holder and its key or index; None: a key of the holder. Only an error puts it in words.
_Place: TypeAlias = "str | tuple[_Place, str | int | None]"

_Choice = TypeVar("_Choice", bound=StrEnum)


def text(argument: _Place, value: object) -> str:
    """A string that both databases can store: well-formed Unicode without NUL."""
    if not isinstance(value, str):
        raise InvalidInput(_named(argument), "must be a str", value)
    if "\x00" in value:
        raise InvalidInput(_named(argument), "must not contain NUL (U+0000)", value)
    if value.isascii():
        size = len(value)
    else:
        try:
            size = len(value.encode())
        except UnicodeEncodeError:
            raise InvalidInput(_named(argument), SURROGATES, value) from None
    if size > limits.MAX_TEXT_BYTES:
        raise InvalidInput(_named(argument), f"must be at most {limits.MAX_TEXT_BYTES} bytes of UTF-8", value)
    # Not every driver accepts a subclass of str, such as an enum member.
    return value if type(value) is str else str.__str__(value)


def optional_text(argument: str, value: object) -> str | None:
    """Like `text`, or None."""
    return None if value is None else text(argument, value)


def texts(argument: str, values: object) -> list[str]:
    """A collection of texts, each once. A single string is refused: its characters are not what was meant."""
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise InvalidInput(argument, "must be a collection", values)
    return [*dict.fromkeys(text(f"{argument}[{position}]", value) for position, value in enumerate(values))]


def optional_texts(argument: str, values: object) -> list[str] | None:
    """Like `texts`, but a single text stands for a collection of it; or None."""
    if values is None:
        return None
    return [text(argument, values)] if isinstance(values, str) else texts(argument, values)


def name(argument: str, value: object) -> str:
    """A string short enough for an index."""
    checked = text(argument, value)
    if len(checked) > limits.MAX_NAME_LENGTH:
        raise InvalidInput(argument, f"must be at most {limits.MAX_NAME_LENGTH} characters", value)
    return checked


def nonempty_name(argument: str, value: object) -> str:
    """A non-empty name.

    An empty idempotency key, label or actor is a bug in the caller: sessions would take the label from each other.
    """
    checked = name(argument, value)
    if not checked:
        raise InvalidInput(argument, "must not be empty", value)
    return checked


def optional_nonempty_name(argument: str, value: object) -> str | None:
    """A non-empty name, or None."""
    return None if value is None else nonempty_name(argument, value)


def agent_id(value: object) -> str:
    """A name that can't forge a session key: not empty, no colon, no control character."""
    checked = nonempty_name("agent_id", value)
    if ":" in checked or _has_control_characters(checked):
        raise InvalidInput("agent_id", "must not contain ':' or control characters", value)
    return checked


def conversation_name(value: object) -> str:
    """What a conversation's key ends with: not empty, no control character, short in bytes."""
    return _short_name("name", value, limits.MAX_CONVERSATION_NAME_BYTES)


def optional_schema_name(value: object) -> str | None:
    """The name of a Postgres schema that is not the server's own; or None."""
    checked = None if value is None else _short_name("schema", value, limits.MAX_SCHEMA_NAME_BYTES)
    # In a search_path "$user" is the schema that has the role's name, however it is quoted.
    if checked is not None and (checked.startswith("pg_") or checked in ("information_schema", "$user")):
        raise InvalidInput("schema", "must not be one of the server's own", value)
    return checked


def _short_name(argument: str, value: object, most_bytes: int) -> str:
    checked = text(argument, value)
    if not checked:
        raise InvalidInput(argument, "must not be empty", value)
    if _has_control_characters(checked):
        raise InvalidInput(argument, "must not contain control characters", value)
    if len(checked.encode()) > most_bytes:
        raise InvalidInput(argument, f"must be at most {most_bytes} bytes of UTF-8", value)
    return checked


def _has_control_characters(checked: str) -> bool:
    # The first look is for speed: no control character is printable.
    return not checked.isprintable() and any(unicodedata.category(character) == "Cc" for character in checked)


def integer(argument: str, value: object, *, minimum: int, maximum: int = limits.MAX_INTEGER) -> int:
    """An int within bounds, and not a bool."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidInput(argument, "must be an int", value)
    if not minimum <= value <= maximum:
        raise InvalidInput(argument, f"must be from {minimum} to {maximum}", value)
    return int(value)


def optional_integer(argument: str, value: object, *, minimum: int) -> int | None:
    """Like `integer`, or None."""
    return None if value is None else integer(argument, value, minimum=minimum)


def message_cap(value: object) -> int:
    """How many messages a session retains."""
    return integer("message_cap", value, minimum=1, maximum=limits.MAX_MESSAGE_CAP)


def pool_size(value: object) -> int:
    """A number of connections."""
    return integer("pool_size", value, minimum=1, maximum=limits.MAX_POOL_SIZE)


def seconds(argument: str, value: object) -> float:
    """A number of seconds that both databases can wait for."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= limits.MAX_SECONDS:
        raise InvalidInput(argument, f"must be a number of seconds from 0 to {limits.MAX_SECONDS}", value)
    return float(value)


def optional_seconds(argument: str, value: object) -> float | None:
    """Like `seconds`, or None."""
    return None if value is None else seconds(argument, value)


def poll_interval(value: object) -> float:
    """A number of seconds between two polls."""
    checked = seconds("poll_interval", value)
    if checked < limits.MIN_POLL_INTERVAL_S:
        raise InvalidInput("poll_interval", f"must be at least {limits.MIN_POLL_INTERVAL_S} seconds", value)
    return checked


def cutoff_ms(older_than: object, before: object) -> int:
    """The time in the past given by either `older_than`, a `timedelta`, or `before`, an aware `datetime`.

    In milliseconds since the epoch, UTC.
    """
    if (older_than is None) == (before is None):
        raise InvalidInput("older_than", "must be given, or before, and not both", older_than)
    now = clock.now_ms()
    if before is None:
        if not isinstance(older_than, timedelta):
            raise InvalidInput("older_than", "must be a datetime.timedelta", older_than)
        if not timedelta(milliseconds=1) <= older_than <= limits.MAX_AGE:
            raise InvalidInput("older_than", f"must be from 1 ms to {limits.MAX_AGE.days} days", older_than)
        # A clock that is set before 1970 could make it earlier than a BIGINT can hold.
        return max(-limits.MAX_INTEGER - 1, now - older_than // timedelta(milliseconds=1))
    before_ms = clock.to_ms(_aware("before", before))
    if before_ms > now:
        raise InvalidInput("before", "must not be in the future", before)
    return before_ms


def optional_moment_ms(argument: str, value: object) -> int | None:
    """The first millisecond, since the epoch, that is not before this aware datetime; or None."""
    if value is None:
        return None
    moment = _aware(argument, value)
    before_ms = clock.to_ms(moment)
    return before_ms + (clock.to_datetime(before_ms) < moment)


def _aware(argument: str, value: object) -> datetime:
    if not isinstance(value, datetime) or value.utcoffset() is None:
        raise InvalidInput(argument, "must be an aware datetime.datetime", value)
    return value


def flag(argument: str, value: object) -> bool:
    """A bool, not something that is merely truthy."""
    if not isinstance(value, bool):
        raise InvalidInput(argument, "must be a bool", value)
    return value


def choice(argument: str, value: object, choices: type[_Choice]) -> _Choice:
    """The member of `choices` that `value` is or names."""
    if type(value) is choices:
        return value
    # Only strings: the enum's own error prints the value, and not every value can be printed.
    if isinstance(value, str):
        # Not `suppress`, which is a context manager in Python: this is on the way of every append.
        try:
            return choices(value)
        except ValueError:
            pass
    raise InvalidInput(argument, f"must be one of {', '.join(choices)}", value)


def choices(argument: str, values: object, allowed: type[_Choice]) -> list[_Choice]:
    """The members that `values` holds. A single string is refused: its characters are not what was meant."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise InvalidInput(argument, "must be a collection", values)
    return [choice(argument, value, allowed) for value in values]


def optional_choices(argument: str, values: object, allowed: type[_Choice]) -> list[_Choice] | None:
    """Like `choices`, or None."""
    return None if values is None else choices(argument, values, allowed)


def optional_one_or_more(argument: str, values: object, allowed: type[_Choice]) -> list[_Choice] | None:
    """Like `choices`, but a single member, or the text of one, stands for a collection of it."""
    if values is None:
        return None
    if isinstance(values, str) or not isinstance(values, Iterable):
        return [choice(argument, values, allowed)]
    return choices(argument, values, allowed)


def metadata(argument: str, value: object) -> dict[str, JsonValue] | None:
    """A deep copy of a JSON object, which the caller's later changes do not affect."""
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise InvalidInput(argument, "must be a mapping", value)
    return _json_object(argument, value, 1)


def _named(place: _Place) -> str:
    if isinstance(place, str):
        return place
    holder, key = place
    # Shortened: otherwise the paths into nested objects would add up to many times the size of the object.
    shown = reprlib.repr(key) if isinstance(key, str) and len(key) > _MAX_SHOWN_KEY else repr(key)
    return f"a key of {_named(holder)}" if key is None else f"{_named(holder)}[{shown}]"


def _json_object(place: _Place, value: Mapping[object, object], depth: int) -> dict[str, JsonValue]:
    return {(name := text((place, None), key)): _json((place, name), item, depth) for key, item in value.items()}


def _json(place: _Place, value: object, depth: int) -> JsonValue:
    if depth > limits.MAX_JSON_DEPTH:
        limit = f"must be nested at most {limits.MAX_JSON_DEPTH} levels deep"
        raise InvalidInput(_named(place).partition("[")[0], limit, value)
    match value:
        case None | bool():
            return value
        case str():
            return text(place, value)
        case int():
            if value.bit_length() > limits.MAX_JSON_INTEGER_BITS:
                limit = f"must have at most {limits.MAX_JSON_INTEGER_BITS} bits"
                raise InvalidInput(_named(place), limit, Shown("a longer int"))
            return int(value)
        case float():
            if not math.isfinite(value):
                raise InvalidInput(_named(place), "must be finite: JSON has no NaN or Infinity", value)
            return float(value)
        case Mapping():
            return _json_object(place, value, depth + 1)
        case list() | tuple():
            return [_json((place, index), item, depth + 1) for index, item in enumerate(value)]
        case _:
            raise InvalidInput(_named(place), "must be made of JSON values", value)

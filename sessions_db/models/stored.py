"""The rules for values that an import stores as they are, without the operations that would have produced them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Hashable, Sequence
from dataclasses import field, fields, replace
from enum import StrEnum
from functools import cache
from operator import attrgetter
from typing import Any, Final, NamedTuple, NoReturn, TypeAlias, TypeVar, cast

from sessions_db import validation
from sessions_db.errors import InvalidInput
from sessions_db.limits import MAX_INTEGER, MAX_JSON_DEPTH

Rule: TypeAlias = Callable[[str, Any], Any]
"""Checks a field's value, given the field's name."""

_Stored = TypeVar("_Stored")


def required(rule: Rule) -> Any:
    """A dataclass field with this rule."""
    return field(metadata={"rule": rule})


def optional(rule: Rule) -> Any:
    """A dataclass field with this rule, or None."""
    return field(default=None, metadata={"rule": rule, "optional": True})


def checked(stored: _Stored) -> _Stored:
    """The same dataclass, with each field checked that has a rule.

    Raises:
        InvalidInput: names the field that can't be stored.
    """
    changed = {}
    ruled = _ruled(cast(Hashable, type(stored)))
    for given, (name, rule, is_optional) in zip(ruled.values(stored), ruled.rules, strict=True):
        if not (given is None and is_optional) and (value := rule(name, given)) is not given:
            changed[name] = value
    return replace(stored, **changed) if changed else stored  # type: ignore[type-var]


class _Ruled(NamedTuple):
    values: Callable[[object], tuple[Any, ...]]
    rules: list[tuple[str, Rule, bool]]


@cache
def _ruled(model: Hashable) -> _Ruled:
    found = [each for each in fields(model) if "rule" in each.metadata]  # type: ignore[arg-type]
    rules = [(each.name, each.metadata["rule"], "optional" in each.metadata) for each in found]
    return _Ruled(attrgetter(*(each.name for each in found)), rules)


def integer(name: str, value: object) -> int:
    """Any `BIGINT`."""
    return validation.integer(name, value, minimum=-MAX_INTEGER - 1)


def count(name: str, value: object) -> int:
    """0 or more."""
    return validation.integer(name, value, minimum=0)


def number(name: str, value: object) -> int:
    """1 or more."""
    return validation.integer(name, value, minimum=1)


def one_of(choices: type[StrEnum]) -> Rule:
    """The value of one of these members."""
    known = {choice.value for choice in choices}

    def check(name: str, value: object) -> object:
        is_known = type(value) is str and value in known
        return value if is_known else validation.choice(name, value, choices).value

    return check


def metadata_text(name: str, value: object) -> str:
    """The text of a JSON object. It is kept as it is, so that key order and numbers come back exactly."""
    text = validation.text(name, value)
    try:
        parsed = _DECODER.decode(text)
    # From the decoder, or from Python, which limits nesting and the digits of integers.
    except (ValueError, RecursionError) as error:
        raise InvalidInput(name, f"must be the text of a JSON object ({error})", value) from error
    # Most texts have nothing in their values that could be refused, and to look at each takes longer than to parse all.
    is_plain = not _MAY_BE_REFUSED.search(text) and text.count("{") + text.count("[") <= MAX_JSON_DEPTH
    if not (is_plain and isinstance(parsed, dict)) and validation.metadata(name, parsed) is None:
        raise InvalidInput(name, "must be the text of a JSON object", value)
    return text


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


# NUL and lone surrogates are escaped: the text itself has none. A number that is too large has an exponent or is long.
_MAY_BE_REFUSED: Final = re.compile(r"\\u|[0-9][eE]|[0-9]{100}")

# `json.loads` makes a decoder for each call, which takes longer than to decode a message's metadata.
_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def refuse_twice(place: str, name: str, values: Sequence[str | None]) -> None:
    """Refuse a value, other than None, that occurs twice."""
    known: set[str] = set()
    for position, value in enumerate(values):
        if value in known:
            raise InvalidInput(f"{place}[{position}].{name}", "must not be there twice", value)
        if value is not None:
            known.add(value)

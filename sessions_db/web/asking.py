"""The parameters of a request, checked. An empty one counts as missing, because forms send all their fields."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import TypeVar

from starlette.requests import Request

from sessions_db import clock, validation
from sessions_db.errors import InvalidInput
from sessions_db.limits import MAX_INTEGER

_Choice = TypeVar("_Choice", bound=StrEnum)


def text(request: Request, name: str) -> str | None:
    """The parameter, or None."""
    return validation.optional_text(name, request.query_params.get(name) or None)


def needed(request: Request, name: str) -> str:
    """The parameter.

    Raises:
        InvalidInput: it is missing.
    """
    found = text(request, name)
    if found is None:
        raise InvalidInput(name, "must be given", None)
    return found


def choice(request: Request, name: str, choices: type[_Choice]) -> _Choice | None:
    """The member that the parameter names, or None."""
    found = text(request, name)
    return None if found is None else validation.choice(name, found, choices)


def integer(request: Request, name: str) -> int | None:
    """The parameter as a number from 0, or None."""
    found = text(request, name)
    return None if found is None else to_integer(name, found)


def to_integer(name: str, given: str, *, minimum: int = 0) -> int:
    """The number that is given.

    Raises:
        InvalidInput: it is none.
    """
    # Of more digits, Python would refuse to make a number.
    digits = given.removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) < len(str(MAX_INTEGER)) + 1):
        raise InvalidInput(name, "must be a whole number", given)
    return validation.integer(name, int(given), minimum=minimum)


def moment_ms(request: Request, name: str) -> int | None:
    """The parameter, a time in UTC such as `2026-01-31T23:59`, in milliseconds since the epoch; or None."""
    found = text(request, name)
    if found is None:
        return None
    try:
        at = datetime.fromisoformat(found)
        return clock.to_ms(at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC))
    except (ValueError, OverflowError):
        raise InvalidInput(name, "must be a time such as 2026-01-31T23:59", found) from None

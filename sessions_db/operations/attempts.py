"""Repeated attempts at an operation of several statements, between which other writers may get in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from sessions_db.errors import WriteUndone

_ATTEMPTS: Final = 20


def attempts(key: str) -> Iterator[None]:
    """An item for each attempt, until so many have failed that it can't be chance.

    Raises:
        WriteUndone: something undoes what is done to the session `key`, such as a trigger.
    """
    yield from [None] * _ATTEMPTS
    raise WriteUndone(key, _ATTEMPTS)

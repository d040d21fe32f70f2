"""Turns for an operation of several statements that others can get between."""

from __future__ import annotations

from collections.abc import Iterator

from sessions_db.errors import SessionsError

_TURNS = 20


def attempts(key: str) -> Iterator[None]:
    """A turn for each `next`, until so many have come to nothing that it can't be chance.

    Raises:
        SessionsError: something undoes what is done to the session `key`, a trigger of somebody's, say.
    """
    yield from [None] * _TURNS
    raise SessionsError(f"What is written to {key} does not stay: tried {_TURNS} times")

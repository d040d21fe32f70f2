"""What a user would pick instead, each used as its documentation has it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from sqlalchemy import URL

from benchmarks.conversations import ChatMessage


class Peer(Protocol):
    """A store of messages, open, with two sessions: one to append to and one that holds all the messages it was given.

    Each method is sync or async, as the peer's own interface is.
    """

    def append(self, number: int) -> object:
        """Store the message of that number in the session to append to."""

    def read(self, number: int) -> object:
        """The newest messages of the other session, at most `READ_LIMIT`, as the peer gives them to its user."""

    def durability(self) -> object:
        """What the peer's own connections have in force, a `Durability`."""

    def close(self) -> object:
        """Close the peer's connections."""


Opener = Callable[[URL, Sequence[ChatMessage]], object]
"""Opens a peer on an empty database and fills its session to read; sync or async."""

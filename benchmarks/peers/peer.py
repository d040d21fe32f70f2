"""What is asked of every store that is compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Final, TypeAlias

from sqlalchemy import URL

from benchmarks.conversations import ChatMessage
from benchmarks.databases import Durability
from benchmarks.rounds import AsyncOperation, Operation

TASKS: Final = 64


@dataclass(frozen=True, slots=True)
class Peer:
    """An open store with two sessions: one to append to, one that holds all the messages it was opened with.

    The operations are sync or async, as the store's own interface is. `tasks` are those of its async interface.
    """

    append: Operation
    """Stores the message of that number."""
    read: Operation
    """The newest `READ_LIMIT` messages of the other session, as the store returns them."""
    durability: Durability
    """The settings in force on the store's own connections."""
    tasks: Sequence[AsyncOperation] = ()
    """As `append`, for `TASKS` tasks of one event loop with a session each."""


Opener: TypeAlias = Callable[[URL, Sequence[ChatMessage]], AbstractAsyncContextManager[Peer]]
"""Opens a store on an empty database and fills its session to read."""

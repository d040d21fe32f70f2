"""What callers wait for: the sessions that are awaited still, and what was read of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from typing import Generic, TypeVar

from sessions_db.enums import SessionStatus
from sessions_db.errors import SessionNotFound
from sessions_db.models import Message, Session
from sessions_db.operations.waiting import news, sessions_among
from sessions_db.store.runner import Runner
from sessions_db.waiting.board import ENDS_ONLY

_T = TypeVar("_T")


class Wait(ABC, Generic[_T]):
    """A wait. `keys` are the sessions that are awaited still, `seen` is the last message's number that was seen."""

    keys: set[str]
    seen: int

    @abstractmethod
    def look(self, runner: Runner, keys: Collection[str]) -> None:
        """Read these sessions. What need not be awaited any longer leaves `keys`.

        Raises:
            SessionsError: the wait is over.
        """

    @abstractmethod
    def answer(self) -> _T:
        """What the caller gets, also at the time-out."""


class NewerMessages(Wait[list[Message]]):
    """Waits for messages of a session after some number, or its end."""

    def __init__(self, key: str, after_seq: int) -> None:
        self.keys = {key}
        self.seen = after_seq
        self._after_seq = after_seq
        self._messages: list[Message] = []

    def look(self, runner: Runner, keys: Collection[str]) -> None:
        """Read the session, and its messages."""
        (key,) = keys
        found = runner._run(news, key, self._after_seq)  # noqa: SLF001  # not for the manager's users
        if found is None:
            raise SessionNotFound(key)
        self._messages = found.messages
        # Messages after `after_seq` may be gone already.
        self.seen = max(self.seen, found.last_seq)
        if found.messages or found.status is not SessionStatus.ACTIVE:
            self.keys.clear()

    def answer(self) -> list[Message]:
        """The messages, oldest first."""
        return self._messages


class Ends(Wait[list[Session]]):
    """Waits until all of some sessions have ended."""

    def __init__(self, keys: Sequence[str]) -> None:
        self.keys = set(keys)
        self.seen = ENDS_ONLY
        self._ended: dict[str, Session | None] = dict.fromkeys(keys)

    def look(self, runner: Runner, keys: Collection[str]) -> None:
        """Read the sessions. Those that are gone are not awaited."""
        active = set()
        for session in runner._run(sessions_among, keys):  # noqa: SLF001
            if session.status is SessionStatus.ACTIVE:
                active.add(session.key)
            else:
                self._ended[session.key] = session
        self.keys.difference_update(key for key in keys if key not in active)

    def answer(self) -> list[Session]:
        """Those that have ended, in the caller's order."""
        return [session for session in self._ended.values() if session is not None]

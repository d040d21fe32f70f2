"""Who waits for which sessions, and who is to be woken."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable
from typing import Final

from sessions_db.database.fork import in_child
from sessions_db.enums import SessionStatus
from sessions_db.errors import ManagerClosed
from sessions_db.limits import MAX_INTEGER
from sessions_db.operations.waiting import Change

ENDS_ONLY: Final = MAX_INTEGER
"""The number of the last message that was seen, for those who wait for the end of a session only."""


class Waiter(ABC):
    """A caller that waits: a thread or a task."""

    @abstractmethod
    def put(self, news: str | Exception, /) -> None:
        """Take the key of a session to look at, or why waiting is over. Any thread may call it."""


class Board:
    """Who waits for which sessions. An entry ends with the news for it: its waiter looks, and enters itself again.

    A waiter enters itself before it looks: what is committed before that is seen, and what is committed later finds the
    entry. So nothing is missed in between.
    """

    def __init__(self) -> None:
        self._begin()
        # Those who wait stay in the parent process.
        in_child(self._begin)

    def _begin(self) -> None:
        # Reentrant: the garbage collector may end a forsaken wait while its thread holds the lock.
        self._lock = threading.RLock()
        self._closed = False
        # For each session its waiters, with the number of the last message that each has seen.
        self.entries: dict[str, dict[Waiter, int]] = {}
        self._seen: dict[str, int] = {}
        self.version = 0

    def enter(self, waiter: Waiter, keys: Collection[str], seen: int) -> None:
        """Have the waiter woken by messages after this number, and by the end, of any of these sessions.

        Raises:
            ManagerClosed: nobody would ever wake it.
        """
        with self._lock:
            if self._closed:
                raise ManagerClosed
            for key in keys:
                self._seen[key] = min(seen, self._seen.get(key, seen))
                self.entries.setdefault(key, {})[waiter] = seen
            self.version += 1

    def leave(self, waiter: Waiter, keys: Iterable[str]) -> None:
        """Take the waiter's entries for these sessions away, where there are any."""
        with self._lock:
            for key in keys:
                waiters = self.entries.get(key, {})
                # An interrupted call may have left one of the two without the other, or nobody who waits.
                if waiters.pop(waiter, None) is not None or (not waiters and key in self._seen):
                    self._settle(key, waiters)

    def appended(self, key: str) -> None:
        """Wake those who wait for messages of the session."""
        # Without the lock: whoever enters a moment later looks at what was committed by then.
        if key in self.entries:
            self._wake(key, ENDS_ONLY)

    def ended(self, key: str) -> None:
        """Wake all that wait for the session: it has ended, or is gone."""
        if key in self.entries:
            self._wake(key, MAX_INTEGER + 1)

    def learn(self, appended: Iterable[str], ended: Iterable[str]) -> None:
        """Wake those whom a transaction concerns that appended to, and ended, these sessions."""
        for key in appended:
            self.appended(key)
        for key in ended:
            self.ended(key)

    def asked(self) -> tuple[int, dict[str, int]]:
        """For each session the number of the last message that all its waiters have seen; and a version of this."""
        with self._lock:
            return self.version, self._seen.copy()

    def found(self, changes: Iterable[Change]) -> None:
        """Wake those whom the changes concern."""
        for key, last_seq, status in changes:
            over = last_seq is None or status != SessionStatus.ACTIVE.value
            self._wake(key, MAX_INTEGER + 1 if over or last_seq is None else last_seq)

    def fail(self, error: Exception) -> None:
        """End all waits with this error."""
        with self._lock:
            for waiter in {waiter for waiters in self.entries.values() for waiter in waiters}:
                waiter.put(error)
            self.entries.clear()
            self._seen.clear()
            self.version += 1

    def close(self) -> None:
        """End all waits, and let nobody begin to wait."""
        with self._lock:
            self._closed = True
        self.fail(ManagerClosed())

    def _wake(self, key: str, news: int) -> None:
        """Wake those of the session's waiters who have seen only what came before this number."""
        with self._lock:
            waiters = self.entries.get(key, {})
            woken = [waiter for waiter, seen in waiters.items() if seen < news]
            # Whoever was not told when an exception interrupts this is still entered, and told by the next poll.
            for waiter in woken:
                waiter.put(key)
                del waiters[waiter]
            if woken:
                self._settle(key, waiters)

    def _settle(self, key: str, waiters: dict[Waiter, int]) -> None:
        if waiters:
            self._seen[key] = min(waiters.values())
        else:
            self.entries.pop(key, None)
            self._seen.pop(key, None)
        self.version += 1

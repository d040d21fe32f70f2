"""Semaphores that lose nothing when an exception interrupts a thread at any point.

A signal handler may raise between any two instructions, also between taking something and remembering that it was
taken. So what is taken is an object, a `Token`, which returns by itself once nothing refers to it. The steps in
between are single calls into C (`deque`, `SimpleQueue`), which no handler interrupts halfway.
"""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Final, Protocol, TypeVar

_T = TypeVar("_T")

# How long a thread that gave up waits for a token that is being handed to it at that moment.
_HANDOVER_S: Final = 0.1


class Token:
    """The right to go on, until it is released or dropped."""

    __slots__ = ("_semaphore", "_spare")

    def __init__(self, semaphore: Callable[[], Semaphore | None], *, with_spare: bool = True) -> None:
        self._semaphore: Callable[[], Semaphore | None] | None = semaphore
        # Python drops what a signal handler raises in a finalizer, and does not run that finalizer again. The spare's
        # own finalizer runs after it.
        self._spare = Token(semaphore, with_spare=False) if with_spare else None

    def void(self) -> None:
        """Make it worth nothing."""
        self._semaphore = None
        if self._spare is not None:
            self._spare.void()

    def __del__(self) -> None:
        if self._semaphore is not None and (semaphore := self._semaphore()) is not None:
            semaphore.release(self)


class Semaphore(ABC):
    """A number of tokens that threads take and release."""

    def __init__(self, size: int) -> None:
        self.size = size
        # Kept here: the garbage collector clears a weak reference that only its garbage holds.
        self._reference = weakref.ref(self)
        for _ in range(size):
            self._put(Token(self._reference))

    @property
    @abstractmethod
    def taken(self) -> int:
        """How many tokens are taken."""

    @property
    @abstractmethod
    def waiting(self) -> int:
        """How many threads wait for a token."""

    @abstractmethod
    def try_acquire(self) -> Token | None:
        """A token, or None if none is free."""

    @abstractmethod
    def acquire(self, *, timeout: float) -> Token | None:
        """A token, or None if none was free within that many seconds."""

    def release(self, token: Token) -> None:
        """Return the token. If the semaphore is fair, the longest-waiting thread gets it."""
        # A new one: Python runs the finalizer of an object once only, and it may have run for this one.
        self._put(Token(self._reference))
        token.void()

    @abstractmethod
    def _put(self, token: Token) -> None: ...


class Waiter(Protocol):
    """Whoever waits for a token."""

    def put(self, token: Token, /) -> None:
        """Take the token that is granted."""


class FairSemaphore(Semaphore):
    """First come, first served.

    Python's own locks, and SQLAlchemy's pool, give what is released to the next thread that asks, which under load is
    the one that has just released it. With 64 threads on 10 connections to Postgres, the 99th percentile of an append
    was nine times as long (measured once with `benchmarks`, section
    concurrency).
    """

    def __init__(self, size: int) -> None:
        self._free: deque[Token] = deque()
        self._waiters: deque[Waiter] = deque()
        super().__init__(size)

    @property
    def taken(self) -> int:
        """How many tokens are taken."""
        return self.size - len(self._free)

    @property
    def waiting(self) -> int:
        """How many threads wait for a token."""
        return len(self._waiters)

    def try_acquire(self) -> Token | None:
        """A token, or None if none is free or others wait for one."""
        return None if self._waiters else _first(self._free)

    def enter(self, waiter: Waiter) -> None:
        """Have the waiter wait for its turn."""
        self._waiters.append(waiter)
        if self._free:
            self._match()

    def acquire(self, *, timeout: float) -> Token | None:
        """A token, or None if none was free within that many seconds."""
        if (token := self.try_acquire()) is not None:
            return token
        granted: SimpleQueue[Token] = SimpleQueue()
        try:
            self.enter(granted)
            with suppress(Empty):
                return granted.get(timeout=timeout)
            return self._withdraw(granted)
        except BaseException:
            if (token := self._withdraw(granted)) is not None:
                self.release(token)
            raise

    def _withdraw(self, granted: SimpleQueue[Token]) -> Token | None:
        """Stop waiting; the token that was granted in the meantime, if any."""
        try:
            self._waiters.remove(granted)
        except ValueError:
            with suppress(Empty):
                return granted.get(timeout=_HANDOVER_S)
        return None

    def _put(self, token: Token) -> None:
        if self._waiters and (granted := _first(self._waiters)) is not None:
            granted.put(token)
            return
        if len(self._free) >= self.size:
            # The garbage collector dropped the token and closed the generator that held it: it was returned twice.
            token.void()
            return
        self._free.append(token)
        # A thread may have begun to wait between the two.
        if self._waiters:
            self._match()

    def _match(self) -> None:
        while self._waiters and (token := _first(self._free)) is not None:
            self._put(token)


class UnfairSemaphore(Semaphore):
    """Whoever asks first after a release gets the token, which spares the switch to another thread."""

    def __init__(self, size: int) -> None:
        self._free: SimpleQueue[Token] = SimpleQueue()
        self._waiters: deque[None] = deque()
        super().__init__(size)

    @property
    def taken(self) -> int:
        """How many tokens are taken."""
        return self.size - self._free.qsize()

    @property
    def waiting(self) -> int:
        """How many threads wait for a token."""
        return len(self._waiters)

    def try_acquire(self) -> Token | None:
        """A token, or None if none is free."""
        # Not `suppress`, which is a context manager in Python: this is on the way of every append to SQLite.
        try:
            return self._free.get_nowait()
        except Empty:
            return None

    def acquire(self, *, timeout: float) -> Token | None:
        """A token, or None if none was free within that many seconds."""
        if (token := self.try_acquire()) is not None:
            return token
        try:
            self._waiters.append(None)
            with suppress(Empty):
                return self._free.get(timeout=timeout)
        finally:
            # Not `_first`: a signal handler may raise at the call of a function.
            if self._waiters:
                self._waiters.popleft()
        return None

    def _put(self, token: Token) -> None:
        if self._free.qsize() >= self.size:
            token.void()  # see FairSemaphore
            return
        self._free.put(token)


def _first(items: deque[_T]) -> _T | None:
    # Asked first, because an exception takes longer: this is on the way of every append. Another thread may have taken
    # the last one since.
    try:
        return items.popleft() if items else None
    except IndexError:
        return None

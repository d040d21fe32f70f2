"""Waiting as methods with checked arguments."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import suppress
from copy import copy
from queue import Empty, SimpleQueue
from typing import TypeVar

from sessions_db import validation
from sessions_db.models import Message, Session
from sessions_db.store.runner import Runner
from sessions_db.waiting.board import Waiter
from sessions_db.waiting.polling import Polling
from sessions_db.waiting.waits import Ends, NewerMessages, Wait

_T = TypeVar("_T")


class Waiting(Runner):
    """Operations that wait for what others do. A manager has them, a transaction has not: it would wait in vain for
    what comes after its snapshot, and keep others waiting for its locks.
    """

    def wait_for_messages(self, key: str, after_seq: int, *, timeout: float | None) -> list[Message]:
        """The messages after this number, oldest first, as soon as the session has any.

        Empty at the time-out, or if the session has ended without further messages. Messages of every role are
        returned. What callers of this manager append is returned at once, what others append within `poll_interval`.

        Args:
            key: the session's key.
            after_seq: the number of the last message that the caller knows, 0 for none.
            timeout: how many seconds to wait; None for as long as it takes.

        Raises:
            SessionNotFound: there is no such session, or it was deleted meanwhile.
            ManagerClosed: the manager was closed meanwhile.
            DatabaseUnavailable: the database could not be reached for longer than a call waits.
        """
        return self._wait(
            NewerMessages(validation.text("key", key), validation.integer("after_seq", after_seq, minimum=0)),
            validation.optional_seconds("timeout", timeout),
        )

    def wait_for_end(self, keys: Iterable[str], *, timeout: float | None) -> list[Session]:
        """The sessions, without their messages and in the order of `keys`, as soon as all of them have ended.

        At the time-out, those that have ended by then. Sessions that do not exist, or are deleted meanwhile, are left
        out. What callers of this manager end is noticed at once, what others end within `poll_interval`.

        Args:
            keys: the sessions' keys.
            timeout: how many seconds to wait; None for as long as it takes.

        Raises:
            ManagerClosed: the manager was closed meanwhile.
            DatabaseUnavailable: the database could not be reached for longer than a call waits.
        """
        return self._wait(Ends(validation.texts("keys", keys)), validation.optional_seconds("timeout", timeout))

    def follow(self, key: str, after_seq: int) -> Iterator[Message]:
        """Iterate over the messages after this number, as they are appended, until the session ends.

        Otherwise like `wait_for_messages`, without a time-out. Messages that are no longer retained when their turn
        comes are left out: their numbers are missing.

        Args:
            key: the session's key.
            after_seq: the number of the last message that the caller knows, 0 for none.

        Raises:
            SessionNotFound: there is no such session, or it was deleted meanwhile.
            ManagerClosed: the manager was closed meanwhile.
            DatabaseUnavailable: the database could not be reached for longer than a call waits.
        """
        validation.text("key", key)
        validation.integer("after_seq", after_seq, minimum=0)
        return self._followed(key, after_seq)

    def _followed(self, key: str, after_seq: int) -> Iterator[Message]:
        while found := self.wait_for_messages(key, after_seq, timeout=None):
            yield from found
            after_seq = found[-1].seq

    @abstractmethod
    def _wait(self, wait: Wait[_T], timeout: float | None) -> _T: ...


class _WaitingThread(Waiter):
    def __init__(self) -> None:
        self._inbox: SimpleQueue[str | Exception] = SimpleQueue()

    def put(self, news: str | Exception, /) -> None:
        self._inbox.put(news)

    def take(self, until: float | None) -> list[str]:
        """The keys of the sessions to look at; none at that time of `time.monotonic()`."""
        taken: list[str | Exception] = []
        with suppress(Empty):
            taken.append(self._inbox.get(timeout=None if until is None else max(0.0, until - time.monotonic())))
            while True:
                taken.append(self._inbox.get_nowait())
        return keys_of(taken)


def keys_of(taken: Iterable[str | Exception]) -> list[str]:
    """The keys that a waiter was told, each once. Raises what it was told."""
    keys: dict[str, None] = {}
    for news in taken:
        if isinstance(news, Exception):
            # Others raise it too.
            raise copy(news)
        keys[news] = None
    return [*keys]


def wait_in_thread(wait: Wait[_T], timeout: float | None, runner: Runner, polling: Polling) -> _T:
    """What is waited for, in a thread."""
    until = None if timeout is None else time.monotonic() + timeout
    waiter, board = _WaitingThread(), polling.board
    entered = keys = [*wait.keys]
    try:
        while keys:
            board.enter(waiter, keys, wait.seen)
            wait.look(runner, keys)
            board.leave(waiter, [key for key in keys if key not in wait.keys])
            if not wait.keys:
                break
            polling.start()
            keys = waiter.take(until)
    finally:
        try:
            board.leave(waiter, entered)
        except BaseException:
            # A signal handler has interrupted it.
            board.leave(waiter, entered)
            raise
    return wait.answer()

"""Calls on other threads, awaited, and tasks that other threads wake."""

from __future__ import annotations

import asyncio
import threading
from asyncio import AbstractEventLoop
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Protocol, TypeVar

_T = TypeVar("_T")


class Threads:
    """At most so many threads, or two, that run calls.

    One of them takes each call that finds it free: to go on with the next call, a thread need not be woken if it has
    not yet gone to sleep. A pool that hands its calls round takes half as long again (measured once).
    """

    def __init__(self, at_most: int, name: str) -> None:
        self._first = ThreadPoolExecutor(1, name)
        self._others = ThreadPoolExecutor(max(1, at_most - 1), name)
        self._taken = threading.Lock()

    def submit(self, call: Callable[[], _T]) -> Future[_T]:
        """Have a thread run the call, after those that came before if all are taken.

        Raises:
            RuntimeError: they were shut down.
        """
        if not self._taken.acquire(blocking=False):
            return self._others.submit(call)
        future = self._first.submit(call)
        # Before those who wait for the future hear of it, and also if it is cancelled.
        future.add_done_callback(self._release)
        return future

    def _release(self, _: object) -> None:
        self._taken.release()

    def shutdown(self, *, wait: bool = True) -> None:
        """Take no further calls, and wait for those that were taken."""
        self._first.shutdown(wait)
        self._others.shutdown(wait)


async def outcome(call: Future[_T], *, skippable: bool = True) -> _T:
    """What the call returns or raises.

    Cancelling drops a call that has not begun, if it is skippable, and waits for any other.
    """
    loop, ended = asyncio.get_running_loop(), asyncio.Event()

    def end(_: object) -> None:
        # The loop may be closed, and then nobody waits.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(ended.set)

    call.add_done_callback(end)
    try:
        await ended.wait()
    except asyncio.CancelledError:
        if not (skippable and call.cancel()):
            while not call.done():
                with suppress(asyncio.CancelledError):
                    await ended.wait()
        raise
    return call.result()


class Sleeper(Protocol):
    """A task that waits."""

    def resume(self) -> None:
        """End its wait, if it waits. Only on its event loop."""


class Wakeups:
    """Wakes tasks of one event loop, all that are due at a time by one call."""

    def __init__(self) -> None:
        self._due: deque[Sleeper] = deque()
        self._wakes = False

    def put(self, sleeper: Sleeper) -> None:
        """Add a task to be woken. Any thread may call it."""
        self._due.append(sleeper)

    def send(self, loop: AbstractEventLoop) -> None:
        """Wake all that were added. Any thread may call it."""
        if self._due and not self._wakes:
            self._wakes = True
            # The loop may be closed, and then nobody waits.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self._wakes = False
        while self._due:
            self._due.popleft().resume()

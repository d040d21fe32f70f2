"""Calls on other threads, awaited, and tasks that other threads wake."""

from __future__ import annotations

import asyncio
from asyncio import AbstractEventLoop
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Protocol, TypeVar

_T = TypeVar("_T")


def called(call: Callable[[], _T]) -> _T:
    """What the call returns.

    An asyncio future can't hold a StopIteration, which the caller's callback or mapping may raise: the call would never
    return. It becomes a RuntimeError, as in any coroutine (PEP 479).
    """
    try:
        return call()
    except StopIteration as error:
        raise RuntimeError("the call raised StopIteration") from error


async def outcome(call: Future[_T], *, skippable: bool = True) -> _T:
    """What the call returns or raises.

    Cancelling drops a call that has not begun, if it is skippable, and waits for any other.
    """
    done = asyncio.wrap_future(call)
    try:
        return await asyncio.shield(done)
    except asyncio.CancelledError:
        if not (skippable and call.cancel()):
            while not done.done():
                with suppress(asyncio.CancelledError):
                    await asyncio.wait([done])
        raise


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

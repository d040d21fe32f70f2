"""Waiting as coroutine functions: a task that waits occupies no thread."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from asyncio import AbstractEventLoop, Future
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import suppress
from functools import partial, wraps
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar, cast
from weakref import WeakKeyDictionary

from sessions_db.aio.appends import Checking
from sessions_db.aio.threads import Wakeups
from sessions_db.manager import SessionManager
from sessions_db.models import Message
from sessions_db.waiting.board import Waiter
from sessions_db.waiting.methods import Waiting, keys_of
from sessions_db.waiting.waits import Wait

_P = ParamSpec("_P")
_T = TypeVar("_T")


class CheckedWait(NamedTuple):
    """A wait whose arguments are checked, and its time-out in seconds."""

    wait: Wait[Any]
    timeout: float | None


class _CheckingWaits(Checking, Waiting):
    def _wait(self, wait: Wait[_T], timeout: float | None) -> _T:
        return cast(_T, CheckedWait(wait, timeout))


_checking = _CheckingWaits()


def _awaitable(
    method: Callable[Concatenate[Waiting, _P], _T],
) -> Callable[Concatenate[AsyncWaiting, _P], Coroutine[Any, Any, _T]]:
    """The method as a coroutine function, with its parameters, types and docstring."""

    @wraps(method)
    async def call(self: AsyncWaiting, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        return cast(_T, await self._waited(cast(CheckedWait, method(_checking, *args, **kwargs))))

    return call


class AsyncWaiting(ABC):
    """The operations that wait for what others do."""

    @abstractmethod
    async def _waited(self, checked: CheckedWait) -> object: ...

    wait_for_messages = _awaitable(Waiting.wait_for_messages)
    wait_for_end = _awaitable(Waiting.wait_for_end)

    def follow(self, key: str, after_seq: int) -> AsyncIterator[Message]:  # noqa: D102  # it has that of the other
        _checking.follow(key, after_seq)
        return self._followed(key, after_seq)

    follow.__doc__ = Waiting.follow.__doc__

    async def _followed(self, key: str, after_seq: int) -> AsyncIterator[Message]:
        while found := await self.wait_for_messages(key, after_seq, timeout=None):
            for message in found:
                yield message
            after_seq = found[-1].seq


class Waits:
    """The tasks that wait, of an `AsyncSessionManager`.

    Args:
        manager: has the board that they are entered on.
    """

    def __init__(self, manager: SessionManager) -> None:
        self._manager = manager
        self._of_loops: WeakKeyDictionary[AbstractEventLoop, Wakeups] = WeakKeyDictionary()

    async def wait(self, checked: CheckedWait, on_thread: Callable[[Callable[[], None]], Awaitable[None]]) -> object:
        """What is waited for. `on_thread` runs what reads the sessions."""
        wait, timeout = checked
        loop = asyncio.get_running_loop()
        if (wakeups := self._of_loops.get(loop)) is None:
            wakeups = self._of_loops[loop] = Wakeups()
        until = None if timeout is None else loop.time() + timeout
        waiter = _WaitingTask(wakeups, loop)
        board, polling = self._manager._board, self._manager._polling  # noqa: SLF001  # not for the manager's users
        entered = keys = [*wait.keys]
        try:
            while keys:
                board.enter(waiter, keys, wait.seen)
                await on_thread(partial(wait.look, self._manager, keys))
                board.leave(waiter, [key for key in keys if key not in wait.keys])
                if not wait.keys:
                    break
                polling.start()
                keys = await waiter.take(until)
        finally:
            board.leave(waiter, entered)
        return wait.answer()


class _WaitingTask(Waiter):
    __slots__ = ("_taken", "_wakeups", "_woken", "loop")

    def __init__(self, wakeups: Wakeups, loop: AbstractEventLoop) -> None:
        self.loop = loop
        self._wakeups = wakeups
        self._taken: deque[str | Exception] = deque()
        self._woken: Future[None] | None = None

    def put(self, news: str | Exception, /) -> None:
        self._taken.append(news)
        self._wakeups.put(self)
        self._wakeups.send(self.loop)

    def resume(self) -> None:
        """End its wait, if it waits. Only on its event loop."""
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)

    async def take(self, until: float | None) -> list[str]:
        """The keys of the sessions to look at; none at that time of its event loop."""
        with suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                # It may be woken late, for what was taken before.
                while not self._taken:
                    self._woken = self.loop.create_future()
                    await self._woken
        taken = [*self._taken]
        self._taken.clear()
        return keys_of(taken)

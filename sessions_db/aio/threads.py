"""Calls on other threads, awaited, and tasks that other threads wake."""

from __future__ import annotations

import asyncio
import atexit
import threading
from asyncio import AbstractEventLoop, Future
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread
from typing import Generic, Protocol, Self, TypeAlias, TypeVar
from weakref import WeakSet

from sessions_db.database.fork import in_child

_T = TypeVar("_T")

_Call: TypeAlias = Callable[[], Callable[[], None] | None]
_Inbox: TypeAlias = SimpleQueue[_Call | None]


class ThreadsShut(Exception):
    """Threads that were shut down take no further calls."""


class Threads:
    """At most so many threads that run calls. They end when they are shut down or forgotten, or the process ends.

    The one that became free last takes the next call: to go on with it, a thread need not be woken if it has not yet
    gone to sleep. A pool that hands its calls round takes half as long again, and the futures and locks of a
    `ThreadPoolExecutor` made a read of one message take a third longer (measured once).
    """

    def __init__(self, at_most: int, name: str) -> None:
        self._at_most = at_most
        self._name = name
        self._lock = threading.Lock()
        self._is_shut = False
        self._all: dict[Thread, _Inbox] = {}
        self._free: list[_Inbox] = []
        self._waiting: deque[_Call] = deque()
        _open.add(self)

    def submit(self, call: _Call) -> None:
        """Have a thread run the call, after those that came before if all are taken.

        What the call returns is called once the thread is free again, so that who hears of its end finds it free.

        Raises:
            ThreadsShut: they were shut down.
        """
        with self._lock:
            if self._is_shut:
                raise ThreadsShut
            if self._free:
                # In this order, so that no thread is lost if a signal handler raises in between.
                self._free[-1].put(call)
                self._free.pop()
            elif len(self._all) < self._at_most:
                self._start(call)
            else:
                self._waiting.append(call)

    def _start(self, call: _Call) -> None:
        inbox: _Inbox = SimpleQueue()
        inbox.put(call)
        arguments = (inbox, self._lock, self._free, self._waiting)
        # A daemon: at its end the interpreter waits for others before it calls `_finish`.
        thread = Thread(target=_work, args=arguments, name=f"{self._name}_{len(self._all)}", daemon=True)
        # Before it starts: a signal handler may raise while `start` waits for it.
        self._all[thread] = inbox
        try:
            thread.start()
        except RuntimeError:  # the process may have no more threads
            del self._all[thread]
            if not self._all:
                raise
            self._waiting.append(call)

    def shutdown(self, *, wait: bool = True) -> None:
        """Take no further calls, and wait for those that were taken."""
        self._is_shut = True
        if not wait:
            # Without the lock: the garbage collector may call this on a thread that has it.
            self._dismiss()
            return
        with self._lock:
            self._dismiss()
        for thread in self._all:
            # Raised where a signal handler has interrupted its start.
            with suppress(RuntimeError):
                thread.join()

    def _dismiss(self) -> None:
        for inbox in self._all.values():
            inbox.put(None)

    __del__ = _dismiss

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()

    async def run(self, function: Callable[[], _T], *, skippable: bool = True) -> _T:
        """What the function, called on a thread, returns or raises.

        Cancelling drops a call that has not begun, if it is skippable, and waits for any other.

        Raises:
            ThreadsShut: the threads were shut down.
        """
        call = _Awaited(function)
        self.submit(call.run)
        return await call.outcome(skippable=skippable)


def _work(inbox: _Inbox, lock: threading.Lock, free: list[_Inbox], waiting: deque[_Call]) -> None:
    # Not a method, which would keep its object from being collected.
    while (call := inbox.get()) is not None:
        while call is not None:
            tell = call()
            with lock:
                call = waiting.popleft() if waiting else None
                # It is still there if a signal handler raised in `submit`.
                if call is None and inbox not in free:
                    free.append(inbox)
            if tell is not None:
                tell()
            # Of what it holds, a thread that waits for its next call must keep nothing alive.
            del tell


_open: WeakSet[Threads] = WeakSet()


def _forget() -> None:
    # In a child process they do not run, and one of them may have held a lock.
    _open.clear()


in_child(_forget)


@atexit.register
def _finish() -> None:
    while True:
        try:
            found = [*_open]
            break
        except RuntimeError:  # a thread that still runs has added some
            continue
    for threads in found:
        threads.shutdown()


class _Awaited(Generic[_T]):
    """A call for which a task waits."""

    __slots__ = ("_ended", "_error", "_is_over", "_loop", "_todo", "_value")

    def __init__(self, function: Callable[[], _T]) -> None:
        self._todo = [function]
        self._loop = asyncio.get_running_loop()
        self._ended: Future[None] = self._loop.create_future()
        self._is_over = False
        self._error: BaseException | None = None

    def run(self) -> Callable[[], None]:
        """Call the function, unless it was dropped; what tells its task. On any thread."""
        try:
            # Either this gets it or `_drop`, and neither needs a lock.
            function = self._todo.pop()
        except IndexError:
            return self._tell
        try:
            self._value = function()
        except BaseException as error:  # noqa: BLE001  # raised where the outcome is awaited
            self._error = error
        return self._tell

    def _drop(self) -> bool:
        try:
            self._todo.pop()
        except IndexError:
            return False
        return True

    def _tell(self) -> None:
        # The loop may be closed, and then nobody waits.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._end)

    def _end(self) -> None:
        self._is_over = True
        if not self._ended.done():
            self._ended.set_result(None)

    async def outcome(self, *, skippable: bool) -> _T:
        """What the function returns or raises."""
        try:
            await self._ended
        except asyncio.CancelledError:
            if not (skippable and self._drop()):
                while not self._is_over:
                    self._ended = self._loop.create_future()
                    with suppress(asyncio.CancelledError):
                        await self._ended
            # Its traceback leads to this object, a cycle.
            self._error = None
            raise
        if self._error is not None:
            try:
                raise self._error
            finally:
                self._error = None
        return self._value


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

"""`AsyncSessionManager`: opens a manager, and runs its operations on threads."""

from __future__ import annotations

import inspect
import threading
import time
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, ExitStack, asynccontextmanager
from functools import partial, wraps
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar, cast

from sessions_db import validation
from sessions_db.aio.appends import Appends, Checked, Checking
from sessions_db.aio.store import APPENDING, READING, AsyncSessionStore, AsyncTransaction
from sessions_db.aio.threads import Threads, ThreadsShut
from sessions_db.aio.waiting import AsyncWaiting, CheckedWait, Waits
from sessions_db.database.connections import PoolStatus
from sessions_db.database.fork import in_child
from sessions_db.database.retry import run_since
from sessions_db.errors import InvalidInput, ManagerClosed
from sessions_db.manager import SessionManager
from sessions_db.operations.appending_together import Append
from sessions_db.store import SessionStore
from sessions_db.transaction import Transaction

_P = ParamSpec("_P")
_T = TypeVar("_T")


def _parameters_of(
    constructor: Callable[Concatenate[Any, _P], None],
) -> Callable[[Callable[..., None]], Callable[Concatenate[Any, _P], None]]:
    """A decorator that gives a constructor the signature of another one, to which it forwards its arguments."""

    def decorate(function: Callable[..., None]) -> Callable[Concatenate[Any, _P], None]:
        return wraps(constructor)(function)

    return decorate


class AsyncSessionManager(AsyncSessionStore, AsyncWaiting):
    """`SessionManager` for asyncio. Tasks, threads and event loops may share it.

    Takes the same arguments. `async with`, or the first call without it, opens the database and raises what
    `SessionManager` raises on opening.
    """

    @_parameters_of(SessionManager.__init__)
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._open = partial(SessionManager, *args, **kwargs)
        bound = inspect.signature(SessionManager).bind(*args, **kwargs)
        bound.apply_defaults()
        self._pool_size = validation.pool_size(bound.arguments["pool_size"])
        self._manager: SessionManager | None = None
        self._closed = False
        self._checking = Checking()
        self._start()
        in_child(self._begin_in_child)

    def _start(self) -> None:
        self._opening = threading.Lock()
        # Writers have threads of their own: while they wait for each other, readers need not.
        self._readers = Threads(self._pool_size, "sessions-db-reader")
        self._writers = Threads(self._pool_size, "sessions-db-writer")
        self._appends = None if self._manager is None else Appends(self._manager, self._writers)
        self._waits = None if self._manager is None else Waits(self._manager)

    async def __aenter__(self) -> Self:
        try:
            await self._run(self._readers, self._opened)
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<AsyncSessionManager{', closed' if self._closed else ''} of {self._manager!r}>"

    def __del__(self, _warn: Any = warnings.warn) -> None:
        # The constructor may have raised. A manager that was never opened has nothing to close.
        manager = self.__dict__.get("_manager")
        if manager is not None and not self._closed:
            _warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
            self._closed = True
            self._readers.shutdown(wait=False)
            self._writers.shutdown(wait=False)
            manager.close()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    async def close(self) -> None:
        """Close the manager's connections; further calls, and those that wait, raise `ManagerClosed`.

        Closing again does nothing. Other calls that have begun finish first. An open transaction may run to its end.
        """
        if self._closed:
            return
        self._closed = True
        with Threads(1, "sessions-db-close") as thread:
            await thread.run(self._close, skippable=False)

    def _close(self) -> None:
        if self._manager is not None:
            self._manager._board.close()  # noqa: SLF001  # not for the manager's users
        self._readers.shutdown()
        if self._appends is not None:
            self._appends.close()
        self._writers.shutdown()
        if self._manager is not None:
            self._manager.close()

    def transaction(self) -> AbstractAsyncContextManager[AsyncTransaction]:
        """Group operations: the block's writes are committed together at its end, or rolled back if it raises.

        Like `SessionManager.transaction`, with `async with`. A cancelled block stores nothing, unless it was being
        committed.

            async with manager.transaction() as tx:
                key = await tx.spawn_subagent("main", "Summarise the report", parent_key=parent)
                await tx.send_message(key, "Start with chapter 2")
        """
        return self._block(self._writers, SessionManager.transaction)

    def snapshot(self) -> AbstractAsyncContextManager[AsyncTransaction]:
        """Group reads: all of them see the database as of the first one.

        Like `SessionManager.snapshot`, with `async with`.
        """
        return self._block(self._readers, SessionManager.snapshot)

    @asynccontextmanager
    async def _block(
        self, threads: Threads, begin: Callable[[SessionManager], AbstractContextManager[Transaction]]
    ) -> AsyncIterator[AsyncTransaction]:
        manager = await self._run(self._readers, self._opened)
        # A thread of its own: the block's operations run in order, and don't queue behind calls that need a connection.
        with Threads(1, "sessions-db-transaction") as thread:
            stack = ExitStack()
            try:
                yield AsyncTransaction(await self._run(threads, partial(stack.enter_context, begin(manager))), thread)
            except BaseException as error:
                # If cancelled while beginning, the transaction may be open anyway. If not, the stack is empty.
                await _leave(stack, thread, error)
                raise
            await _leave(stack, thread, None)

    def pool_status(self) -> PoolStatus:
        """How the connections are being used right now."""
        if self._manager is None:
            return PoolStatus(size=None, in_use=0, idle=0, waiting=0)
        return self._manager.pool_status()

    def _call(
        self, method: Callable[Concatenate[SessionStore, _P], _T], *args: _P.args, **kwargs: _P.kwargs
    ) -> Awaitable[_T]:
        if method in APPENDING:
            checked = method(self._checking, *args, **kwargs)
            if not isinstance(checked, Checked):
                return cast(Awaitable[_T], self._appended(checked))
            return self._run(self._writers, lambda: cast(_T, checked.run(self._opened())))
        threads = self._readers if method in READING else self._writers
        return self._run(threads, lambda: method(self._opened(), *args, **kwargs))

    async def _appended(self, checked: object) -> object:
        if self._appends is None:
            await self._run(self._readers, self._opened)
        if self._closed or self._appends is None:
            raise ManagerClosed
        if isinstance(checked, Append):
            (message,) = await self._appends.append(checked)
            return message
        (new,) = cast(list[Append], checked)
        return await self._appends.append(new)

    async def _waited(self, checked: CheckedWait) -> object:
        if self._waits is None:
            await self._run(self._readers, self._opened)
        if self._closed or self._waits is None:
            raise ManagerClosed
        return await self._waits.wait(checked, self._look)

    async def _look(self, look: Callable[[], None]) -> None:
        try:
            # Its retry budget does not count from here: thousands may be woken at once, and take turns.
            await self._readers.run(look)
        except ThreadsShut:
            raise ManagerClosed from None

    async def _run(self, threads: Threads, call: Callable[[], _T]) -> _T:
        try:
            return await threads.run(partial(run_since, time.monotonic(), call))
        except ThreadsShut:
            raise ManagerClosed from None

    def _opened(self) -> SessionManager:
        if self._manager is not None:
            return self._manager
        with self._opening:
            if self._manager is None:
                manager = self._open()
                self._appends = Appends(manager, self._writers)
                self._waits = Waits(manager)
                # Last: who finds it takes no lock, and needs the others.
                self._manager = manager
            return self._manager

    def _begin_in_child(self) -> None:
        # Threads do not survive a fork, and a thread of the parent process may have held the lock.
        if not self._closed:
            self._start()


async def _leave(stack: ExitStack, thread: Threads, error: BaseException | None) -> None:
    # A contextmanager uses the traceback that the error itself carries.
    kind = None if error is None else type(error)
    await thread.run(partial(stack.__exit__, kind, error, None), skippable=False)


def async_manager(given: object) -> AsyncSessionManager:
    """The manager that an adapter is given.

    Raises:
        InvalidInput: it is none, or one for synchronous calls.
    """
    if not isinstance(given, AsyncSessionManager):
        raise InvalidInput("manager", "must be an AsyncSessionManager", given)
    return given

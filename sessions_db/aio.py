"""`AsyncSessionManager`: the same operations, awaitable, run on the manager's own threads.

There is only one implementation, the synchronous one. The connection pool bounds concurrency either way, so a thread
for each connection costs nothing, and it works on any event loop.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, AbstractContextManager, ExitStack, asynccontextmanager, suppress
from functools import partial, wraps
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from sessions_db import validation
from sessions_db.database.connections import PoolStatus
from sessions_db.database.fork import in_child
from sessions_db.database.retry import begun_at
from sessions_db.errors import ManagerClosed, TransactionOver
from sessions_db.manager import SessionManager
from sessions_db.store import SessionStore
from sessions_db.transaction import Transaction

_P = ParamSpec("_P")
_T = TypeVar("_T")


def _awaitable(
    method: Callable[Concatenate[SessionStore, _P], _T],
) -> Callable[Concatenate[AsyncSessionStore, _P], Coroutine[Any, Any, _T]]:
    """The method as a coroutine function, with its parameters, types and docstring."""

    @wraps(method)
    async def call(self: AsyncSessionStore, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        return await self._call(method, *args, **kwargs)

    return call


class AsyncSessionStore(ABC):
    """The operations that `AsyncSessionManager` and `AsyncTransaction` share.

    A call that is cancelled before it has begun does nothing. One that has begun finishes before `CancelledError` is
    raised: nothing keeps running in the background.
    """

    @abstractmethod
    async def _call(
        self, method: Callable[Concatenate[SessionStore, _P], _T], *args: _P.args, **kwargs: _P.kwargs
    ) -> _T: ...

    get_or_create_main = _awaitable(SessionStore.get_or_create_main)
    spawn_subagent = _awaitable(SessionStore.spawn_subagent)
    spawn_cron = _awaitable(SessionStore.spawn_cron)
    get = _awaitable(SessionStore.get)
    get_by_label = _awaitable(SessionStore.get_by_label)
    list = _awaitable(SessionStore.list)
    children = _awaitable(SessionStore.children)
    count_sessions = _awaitable(SessionStore.count_sessions)
    descendants = _awaitable(SessionStore.descendants)
    history = _awaitable(SessionStore.history)
    send_message = _awaitable(SessionStore.send_message)
    add_message = _awaitable(SessionStore.add_message)
    add_messages = _awaitable(SessionStore.add_messages)
    archived = _awaitable(SessionStore.archived)
    archives = _awaitable(SessionStore.archives)
    complete_session = _awaitable(SessionStore.complete_session)
    error_session = _awaitable(SessionStore.error_session)
    timeout_session = _awaitable(SessionStore.timeout_session)
    stop_session = _awaitable(SessionStore.stop_session)
    reopen_session = _awaitable(SessionStore.reopen_session)
    timeout_idle = _awaitable(SessionStore.timeout_idle)
    delete_session = _awaitable(SessionStore.delete_session)
    prune = _awaitable(SessionStore.prune)
    events = _awaitable(SessionStore.events)
    seal_log = _awaitable(SessionStore.seal_log)
    verify_log = _awaitable(SessionStore.verify_log)
    statistics = _awaitable(SessionStore.statistics)
    export_sessions = _awaitable(SessionStore.export_sessions)
    import_session = _awaitable(SessionStore.import_session)
    import_sessions = _awaitable(SessionStore.import_sessions)


# The methods that wait for no writer. A test compares them with those of a read-only manager.
_READING = frozenset(
    getattr(SessionStore, name)
    for name in (
        *("get", "get_by_label", "list", "children", "count_sessions", "descendants", "history", "archived"),
        *("archives", "events", "verify_log", "statistics", "export_sessions"),
    )
)


class AsyncTransaction(AsyncSessionStore):
    """The operations within one transaction; `AsyncSessionManager.transaction` and `snapshot` begin and end it."""

    def __init__(self, transaction: Transaction, thread: ThreadPoolExecutor) -> None:
        self._transaction = transaction
        self._thread = thread

    async def _call(
        self, method: Callable[Concatenate[SessionStore, _P], _T], *args: _P.args, **kwargs: _P.kwargs
    ) -> _T:
        try:
            future = self._thread.submit(_called, partial(method, self._transaction, *args, **kwargs))
        except RuntimeError:  # the thread was shut down
            raise TransactionOver from None
        return await _outcome(future)


def _parameters_of(
    constructor: Callable[Concatenate[Any, _P], None],
) -> Callable[[Callable[..., None]], Callable[Concatenate[Any, _P], None]]:
    """A decorator that gives a constructor the signature of another one, to which it forwards its arguments."""

    def decorate(function: Callable[..., None]) -> Callable[Concatenate[Any, _P], None]:
        return wraps(constructor)(function)

    return decorate


class AsyncSessionManager(AsyncSessionStore):
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
        self._start()
        in_child(self._begin_in_child)

    def _start(self) -> None:
        self._opening = threading.Lock()
        # Writers have threads of their own: while they wait for each other, readers need not.
        self._readers = ThreadPoolExecutor(self._pool_size, "sessions-db-reader")
        self._writers = ThreadPoolExecutor(self._pool_size, "sessions-db-writer")

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
        """Close the manager's connections; further calls raise `ManagerClosed`. Closing again does nothing.

        Calls that have begun finish first. An open transaction may run to its end.
        """
        if self._closed:
            return
        self._closed = True
        with ThreadPoolExecutor(1) as thread:
            await _outcome(thread.submit(self._close), skippable=False)

    def _close(self) -> None:
        self._readers.shutdown()
        self._writers.shutdown()
        if self._manager is not None:
            self._manager.close()

    def transaction(self) -> AbstractAsyncContextManager[AsyncTransaction]:
        """Group operations: the block's writes are committed together at its end, or rolled back if it raises.

        Like `SessionManager.transaction`, with `async with`. A cancelled block stores nothing.

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
        self, threads: ThreadPoolExecutor, begin: Callable[[SessionManager], AbstractContextManager[Transaction]]
    ) -> AsyncIterator[AsyncTransaction]:
        manager = await self._run(self._readers, self._opened)
        # A thread of its own: the block's operations run in order, and don't queue behind calls that need a connection.
        with ThreadPoolExecutor(1, "sessions-db-transaction") as thread:
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

    async def _call(
        self, method: Callable[Concatenate[SessionStore, _P], _T], *args: _P.args, **kwargs: _P.kwargs
    ) -> _T:
        threads = self._readers if method in _READING else self._writers
        return await self._run(threads, lambda: method(self._opened(), *args, **kwargs))

    async def _run(self, threads: ThreadPoolExecutor, call: Callable[[], _T]) -> _T:
        try:
            future = threads.submit(_called, begun_at(time.monotonic())(call))
        except RuntimeError:  # the threads were shut down
            raise ManagerClosed from None
        return await _outcome(future)

    def _opened(self) -> SessionManager:
        with self._opening:
            if self._manager is None:
                self._manager = self._open()
            return self._manager

    def _begin_in_child(self) -> None:
        # Threads do not survive a fork, and a thread of the parent process may have held the lock.
        if not self._closed:
            self._start()


async def _leave(stack: ExitStack, thread: ThreadPoolExecutor, error: BaseException | None) -> None:
    # A contextmanager uses the traceback that the error itself carries.
    kind = None if error is None else type(error)
    await _outcome(thread.submit(stack.__exit__, kind, error, None), skippable=False)


def _called(call: Callable[[], _T]) -> _T:
    """What the call returns.

    An asyncio future can't hold a StopIteration, which the caller's callback or mapping may raise: the call would never
    return. It becomes a RuntimeError, as in any coroutine (PEP 479).
    """
    try:
        return call()
    except StopIteration as error:
        raise RuntimeError("the call raised StopIteration") from error


async def _outcome(call: Future[_T], *, skippable: bool = True) -> _T:
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

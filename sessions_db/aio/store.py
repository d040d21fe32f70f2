"""The operations as coroutine functions, and those of a transaction."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from functools import partial, wraps
from itertools import islice
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from sessions_db.aio.threads import Threads, ThreadsShut
from sessions_db.errors import TransactionOver
from sessions_db.limits import PAGE
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


def _iterable(
    method: Callable[Concatenate[SessionStore, _P], Iterator[_T]],
) -> Callable[Concatenate[AsyncSessionStore, _P], AsyncIterator[_T]]:
    """The method as a function that returns an asynchronous iterator. Each page is a call of its own."""

    @wraps(method)
    async def call(self: AsyncSessionStore, /, *args: _P.args, **kwargs: _P.kwargs) -> AsyncIterator[_T]:
        items = await self._call(method, *args, **kwargs)
        while page := await self._call(_next_page, cast(Iterator[Any], items)):
            for item in page:
                yield item

    return call


def _next_page(_store: SessionStore, items: Iterator[_T]) -> list[_T]:
    return [*islice(items, PAGE)]


class AsyncSessionStore(ABC):
    """The operations that `AsyncSessionManager` and `AsyncTransaction` share.

    A call that is cancelled before it has begun does nothing. One that has begun finishes before `CancelledError` is
    raised: nothing keeps running in the background.
    """

    @abstractmethod
    def _call(
        self, method: Callable[Concatenate[SessionStore, _P], _T], *args: _P.args, **kwargs: _P.kwargs
    ) -> Awaitable[_T]: ...

    get_or_create = _awaitable(SessionStore.get_or_create)
    get_or_create_main = _awaitable(SessionStore.get_or_create_main)
    spawn_subagent = _awaitable(SessionStore.spawn_subagent)
    spawn_cron = _awaitable(SessionStore.spawn_cron)
    get = _awaitable(SessionStore.get)
    get_by_label = _awaitable(SessionStore.get_by_label)
    fork_session = _awaitable(SessionStore.fork_session)
    update_session = _awaitable(SessionStore.update_session)
    list = _awaitable(SessionStore.list)
    iterate = _iterable(SessionStore.iterate)
    count = _awaitable(SessionStore.count)
    children = _awaitable(SessionStore.children)
    descendants = _awaitable(SessionStore.descendants)
    find_keys = _awaitable(SessionStore.find_keys)
    search = _awaitable(SessionStore.search)
    history = _awaitable(SessionStore.history)
    _metadata = _awaitable(SessionStore._metadata)  # noqa: SLF001  # for adapters
    send_message = _awaitable(SessionStore.send_message)
    add_message = _awaitable(SessionStore.add_message)
    add_messages = _awaitable(SessionStore.add_messages)
    archives = _awaitable(SessionStore.archives)
    redact_message = _awaitable(SessionStore.redact_message)
    pop_messages = _awaitable(SessionStore.pop_messages)
    complete_session = _awaitable(SessionStore.complete_session)
    error_session = _awaitable(SessionStore.error_session)
    timeout_session = _awaitable(SessionStore.timeout_session)
    stop_session = _awaitable(SessionStore.stop_session)
    reopen_session = _awaitable(SessionStore.reopen_session)
    touch = _awaitable(SessionStore.touch)
    timeout_idle = _awaitable(SessionStore.timeout_idle)
    delete_session = _awaitable(SessionStore.delete_session)
    prune = _awaitable(SessionStore.prune)
    events = _awaitable(SessionStore.events)
    seal_log = _awaitable(SessionStore.seal_log)
    verify_log = _awaitable(SessionStore.verify_log)
    log_retention = _awaitable(SessionStore.log_retention)
    set_log_retention = _awaitable(SessionStore.set_log_retention)
    statistics = _awaitable(SessionStore.statistics)
    export_sessions = _awaitable(SessionStore.export_sessions)
    proofs = _awaitable(SessionStore.proofs)
    seals = _awaitable(SessionStore.seals)
    import_session = _awaitable(SessionStore.import_session)
    import_sessions = _awaitable(SessionStore.import_sessions)


READING = frozenset((_next_page,)) | frozenset(
    getattr(SessionStore, name)
    for name in (
        *(
            "get",
            "get_by_label",
            "list",
            "iterate",
            "children",
            "count",
            "descendants",
            "find_keys",
            "search",
            "history",
            "_metadata",
            "archives",
        ),
        *("events", "verify_log", "log_retention", "statistics", "export_sessions", "proofs", "seals"),
    )
)
"""The methods that wait for no writer."""

APPENDING = frozenset((SessionStore.send_message, SessionStore.add_message, SessionStore.add_messages))
"""The methods that append messages, and nothing else."""


class AsyncTransaction(AsyncSessionStore):
    """The operations within one transaction; `AsyncSessionManager.transaction` and `snapshot` begin and end it."""

    def __init__(self, transaction: Transaction, thread: Threads) -> None:
        self._transaction = transaction
        self._thread = thread

    def _call(
        self, method: Callable[Concatenate[SessionStore, _P], _T], *args: _P.args, **kwargs: _P.kwargs
    ) -> Awaitable[_T]:
        return self._run(partial(method, self._transaction, *args, **kwargs))

    async def _run(self, call: Callable[[], _T]) -> _T:
        try:
            return await self._thread.run(call)
        except ThreadsShut:
            raise TransactionOver from None

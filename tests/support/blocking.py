"""The async manager behind the sync interface."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Self

from sessions_db import AsyncSessionManager, Message


class Blocking:
    """An `AsyncSessionManager` that is used like a `SessionManager`, so that one suite tests both.

    Its calls come from any thread and run as tasks on one event loop.
    """

    def __init__(self, url: str, **options: Any) -> None:
        self._manager = AsyncSessionManager(url, **options)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        try:
            self._wait(self._manager.__aenter__())
        except BaseException:
            self._stop()
            raise

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._manager, name)
        if name == "iterate":
            return lambda *args, **kwargs: self._iterate(method(*args, **kwargs))
        return lambda *args, **kwargs: self._wait(method(*args, **kwargs))

    def _iterate(self, items: AsyncIterator[Any]) -> Iterator[Any]:
        while (item := self._wait(anext(items, None))) is not None:
            yield item

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        entered = self._manager.transaction()
        transaction = self._wait(entered.__aenter__())
        block = Blocking.__new__(Blocking)
        block._manager, block._loop = transaction, self._loop
        try:
            yield block
        except BaseException as error:
            if not self._wait(entered.__aexit__(type(error), error, error.__traceback__)):
                raise
        else:
            self._wait(entered.__aexit__(None, None, None))

    def follow(self, key: str, after_seq: int) -> Iterator[Message]:
        messages = self._manager.follow(key, after_seq)
        return iter(lambda: self._wait(_next(messages)), None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._wait(self._manager.close())
        self._stop()

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _wait(self, call: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(call, self._loop).result()


async def _next(messages: AsyncIterator[Message]) -> Message | None:
    return await anext(messages, None)

"""Calls on other threads, awaited."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import TypeVar

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

"""The library itself, sync and async, and the plain driver with its statements, measured as its peers are."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing

from sqlalchemy import URL

from benchmarks import driver as plain
from benchmarks.conversations import ChatMessage
from benchmarks.databases import driver_durability
from benchmarks.managers import append, async_append, durability_of, full_session, read
from benchmarks.peers.peer import TASKS, Peer
from benchmarks.sections import READ_LIMIT
from sessions_db import AsyncSessionManager, SessionManager


@asynccontextmanager
async def sync(url: URL, messages: Sequence[ChatMessage]) -> AsyncIterator[Peer]:
    """Two sessions of a `SessionManager`."""
    with SessionManager(url) as manager:
        keys = [full_session(manager, messages) for _ in range(2)]
        yield Peer(append(manager, keys[0], messages), read(manager, keys[1]), durability_of(manager))


@asynccontextmanager
async def asynchronous(url: URL, messages: Sequence[ChatMessage]) -> AsyncIterator[Peer]:
    """Sessions of an `AsyncSessionManager`."""
    with SessionManager(url) as sync_manager:
        keys = [full_session(sync_manager, messages) for _ in range(2 + TASKS)]
        # Both managers open their connections in the same way.
        durability = durability_of(sync_manager)

    async def newest(_number: int) -> object:
        return await manager.history(keys[1], READ_LIMIT, include_tools=True)

    async with AsyncSessionManager(url) as manager:
        appends = [async_append(manager, key, messages) for key in keys]
        yield Peer(appends[0], newest, durability, appends[2:])


@asynccontextmanager
async def driver(url: URL, messages: Sequence[ChatMessage]) -> AsyncIterator[Peer]:
    """Two sessions on one connection: no store that counts and trims as the library does can be faster."""
    with SessionManager(url) as manager:
        keys = [full_session(manager, messages) for _ in range(2)]
    statements = plain.Statements(url)
    with closing(plain.connect(url)) as connection:
        yield Peer(
            plain.append(connection, statements, keys[0], messages),
            plain.read(connection, statements, keys[1]),
            driver_durability(connection),
        )

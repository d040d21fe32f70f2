"""OpenAI Agents SDK: `SQLAlchemySession` and `SQLiteSession`.

Both keep every message. See https://openai.github.io/openai-agents-python/sessions/.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from agents import SQLiteSession
from agents.extensions.memory import SQLAlchemySession
from sqlalchemy import URL
from sqlalchemy.ext.asyncio import create_async_engine

from benchmarks.conversations import ChatMessage
from benchmarks.databases import Durability, driver_durability, sqlalchemy_durability
from benchmarks.peers.peer import Peer
from benchmarks.sections import READ_LIMIT

_DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg"}


@asynccontextmanager
async def sqlalchemy_sessions(url: URL, messages: Sequence[ChatMessage]) -> AsyncIterator[Peer]:
    """Two sessions on one engine, as an application has them."""
    engine = create_async_engine(url.set(drivername=_DRIVERS[url.get_backend_name()]))
    async with engine.connect() as connection:
        durability = await connection.run_sync(sqlalchemy_durability)
    appended, read = (SQLAlchemySession(name, engine=engine, create_tables=True) for name in ("appended", "read"))
    yield await _peer(appended, read, messages, durability)
    await engine.dispose()


@asynccontextmanager
async def sqlite_sessions(url: URL, messages: Sequence[ChatMessage]) -> AsyncIterator[Peer]:
    """Two sessions of a file, which run in threads with a connection each."""
    appended, read = (SQLiteSession(name, str(url.database)) for name in ("appended", "read"))

    def durability() -> Durability:
        with appended._locked_connection() as connection:  # noqa: SLF001  # no public method tells
            return driver_durability(connection)

    yield await _peer(appended, read, messages, await asyncio.to_thread(durability))
    appended.close()
    read.close()


async def _peer(appended: Any, read: Any, messages: Sequence[ChatMessage], durability: Durability) -> Peer:
    items = [message.to_dict() for message in messages]
    await read.add_items(items)

    async def append(number: int) -> None:
        await appended.add_items([items[number]])

    async def newest(_number: int) -> object:
        return await read.get_items(limit=READ_LIMIT)

    return Peer(append, newest, durability)

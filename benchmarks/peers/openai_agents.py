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
from benchmarks.peers.peer import TASKS, Peer
from benchmarks.rounds import AsyncOperation
from benchmarks.sections import READ_LIMIT

_DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg"}


@asynccontextmanager
async def sqlalchemy_sessions(url: URL, messages: Sequence[ChatMessage]) -> AsyncIterator[Peer]:
    """Sessions on one engine, as an application has them."""
    engine = create_async_engine(url.set(drivername=_DRIVERS[url.get_backend_name()]))
    async with engine.connect() as connection:
        durability = await connection.run_sync(sqlalchemy_durability)
    sessions = [SQLAlchemySession(str(number), engine=engine, create_tables=True) for number in range(2 + TASKS)]
    yield await _peer(sessions, messages, durability)
    await engine.dispose()


@asynccontextmanager
async def sqlite_sessions(url: URL, messages: Sequence[ChatMessage]) -> AsyncIterator[Peer]:
    """Sessions of a file, which run in threads with a connection each."""
    sessions = [SQLiteSession(str(number), str(url.database)) for number in range(2 + TASKS)]

    def durability() -> Durability:
        with sessions[0]._locked_connection() as connection:  # noqa: SLF001  # no public method tells
            return driver_durability(connection)

    yield await _peer(sessions, messages, await asyncio.to_thread(durability))
    for session in sessions:
        session.close()


async def _peer(sessions: Sequence[Any], messages: Sequence[ChatMessage], durability: Durability) -> Peer:
    appended, read, *others = sessions
    items = [message.to_dict() for message in messages]
    await read.add_items(items)

    def append(session: Any) -> AsyncOperation:
        async def operation(number: int) -> None:
            await session.add_items([items[number]])

        return operation

    async def newest(_number: int) -> object:
        return await read.get_items(limit=READ_LIMIT)

    return Peer(append(appended), newest, durability, [append(session) for session in others])

"""OpenAI Agents SDK: `SQLAlchemySession` and `SQLiteSession`.

Both keep every message. See https://openai.github.io/openai-agents-python/sessions/.
"""

# ruff: noqa: D102  # the methods are those of `Peer`

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Self

from agents import SQLiteSession
from agents.extensions.memory import SQLAlchemySession
from sqlalchemy import URL
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from benchmarks.conversations import ChatMessage
from benchmarks.databases import Durability, durability, text
from benchmarks.sections import READ_LIMIT

_DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg"}


class SQLAlchemySessions:
    """Two sessions on one engine, as an application has them."""

    def __init__(self, engine: AsyncEngine, items: list[Any]) -> None:
        self._engine = engine
        self._items = items
        self._appended = SQLAlchemySession("appended", engine=engine, create_tables=True)
        self._read = SQLAlchemySession("read", engine=engine, create_tables=True)

    @classmethod
    async def open(cls, url: URL, messages: Sequence[ChatMessage]) -> Self:
        """Make the tables and fill the session to read."""
        engine = create_async_engine(text(url.set(drivername=_DRIVERS[url.get_backend_name()])))
        peer = cls(engine, [message.to_dict() for message in messages])
        await peer._read.add_items(peer._items)
        return peer

    async def append(self, number: int) -> None:
        await self._appended.add_items([self._items[number]])

    async def read(self, _number: int) -> list[Any]:
        return await self._read.get_items(limit=READ_LIMIT)

    async def durability(self) -> Durability:
        async with self._engine.connect() as connection:
            return await connection.run_sync(
                lambda sync: durability(sync.dialect.name, lambda query: sync.exec_driver_sql(query).scalar())
            )

    async def close(self) -> None:
        await self._engine.dispose()


class SQLiteSessions:
    """Two sessions of a file, which run in the event loop's threads with a connection for each."""

    def __init__(self, path: str, items: list[Any]) -> None:
        self._items = items
        self._appended = SQLiteSession("appended", path)
        self._read = SQLiteSession("read", path)

    @classmethod
    async def open(cls, url: URL, messages: Sequence[ChatMessage]) -> Self:
        """Make the tables and fill the session to read."""
        peer = cls(str(url.database), [message.to_dict() for message in messages])
        await peer._read.add_items(peer._items)
        return peer

    async def append(self, number: int) -> None:
        await self._appended.add_items([self._items[number]])

    async def read(self, _number: int) -> list[Any]:
        return await self._read.get_items(limit=READ_LIMIT)

    async def durability(self) -> Durability:
        def look() -> Durability:
            with self._appended._locked_connection() as connection:  # noqa: SLF001  # nobody else is shown it
                return durability("sqlite", lambda query: connection.execute(query).fetchone()[0])

        return await asyncio.to_thread(look)

    async def close(self) -> None:
        self._appended.close()
        self._read.close()

"""LangChain: `SQLChatMessageHistory` of langchain-community, `PostgresChatMessageHistory` of langchain-postgres.

Both keep every message and can only return all of them. See
https://docs.langchain.com/oss/python/integrations/chat_message_histories.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from typing import Any

import psycopg
from langchain_community.chat_message_histories import SQLChatMessageHistory
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_postgres import PostgresChatMessageHistory
from sqlalchemy import URL, create_engine
from sqlalchemy.ext.asyncio import create_async_engine

from benchmarks.conversations import ChatMessage
from benchmarks.databases import Durability, conninfo, driver_durability, sqlalchemy_durability
from benchmarks.peers.peer import TASKS, Peer
from benchmarks.rounds import AsyncOperation
from benchmarks.sections import READ_LIMIT

_DRIVERS = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg"}
_ASYNC_DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+psycopg"}
_TABLE = "chat_history"


@asynccontextmanager
async def sql_histories(url: URL, messages: Sequence[ChatMessage]) -> AsyncIterator[Peer]:
    """Histories on one engine; those of tasks on an async one."""
    engine = create_engine(url.set(drivername=_DRIVERS[url.get_backend_name()]))
    with engine.connect() as connection:
        durability = sqlalchemy_durability(connection)
    appended, read = (SQLChatMessageHistory(name, connection=engine) for name in ("appended", "read"))
    async_engine = create_async_engine(url.set(drivername=_ASYNC_DRIVERS[url.get_backend_name()]))
    others = [SQLChatMessageHistory(str(number), connection=async_engine) for number in range(TASKS)]
    yield _peer(appended, read, others, messages, durability)
    await async_engine.dispose()
    engine.dispose()


@asynccontextmanager
async def postgres_histories(url: URL, messages: Sequence[ChatMessage]) -> AsyncIterator[Peer]:
    """Histories on one connection; those of tasks on an async one."""
    async_connection = await psycopg.AsyncConnection.connect(conninfo(url))
    with closing(psycopg.connect(conninfo(url))) as connection:
        PostgresChatMessageHistory.create_tables(connection, _TABLE)
        appended, read = (
            PostgresChatMessageHistory(_TABLE, str(uuid.uuid4()), sync_connection=connection) for _ in range(2)
        )
        others = [
            PostgresChatMessageHistory(_TABLE, str(uuid.uuid4()), async_connection=async_connection)
            for _ in range(TASKS)
        ]
        yield _peer(appended, read, others, messages, driver_durability(connection))
    await async_connection.close()


def _peer(
    appended: Any, read: Any, others: Sequence[Any], messages: Sequence[ChatMessage], durability: Durability
) -> Peer:
    stored = [_message(message) for message in messages]
    read.add_messages(stored)

    def append(history: Any) -> AsyncOperation:
        async def operation(number: int) -> None:
            await history.aadd_messages([stored[number]])

        return operation

    return Peer(
        append=lambda number: appended.add_message(stored[number]),
        read=lambda _number: read.messages[-READ_LIMIT:],
        durability=durability,
        tasks=[append(history) for history in others],
    )


def _message(message: ChatMessage) -> BaseMessage:
    match message.role:
        case "user":
            return HumanMessage(message.content)
        case "assistant":
            calls = [
                {"type": "tool_call", "id": call_id, "name": name, "args": arguments}
                for call_id, name, arguments in message.calls()
            ]
            return AIMessage(message.content, tool_calls=calls)
        case "tool":
            return ToolMessage(message.content, name=message.tool_name, tool_call_id=message.tool_call_id)
        case _:
            return SystemMessage(message.content)

"""LangChain: `SQLChatMessageHistory` of langchain-community, `PostgresChatMessageHistory` of langchain-postgres.

Both keep every message and can only be asked for all of them. See
https://docs.langchain.com/oss/python/integrations/chat_message_histories.
"""

# ruff: noqa: D102  # the methods are those of `Peer`

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from typing import Any, Self

import psycopg
from langchain_community.chat_message_histories import SQLChatMessageHistory
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_postgres import PostgresChatMessageHistory
from sqlalchemy import URL, Engine, create_engine

from benchmarks.conversations import ChatMessage
from benchmarks.databases import Durability, conninfo, durability, text
from benchmarks.sections import READ_LIMIT

_DRIVERS = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg"}
_TABLE = "chat_history"


class SQLHistories:
    """Two histories on one engine."""

    def __init__(self, engine: Engine, messages: list[BaseMessage]) -> None:
        self._engine = engine
        self._messages = messages
        self._appended = SQLChatMessageHistory("appended", connection=engine)
        self._read = SQLChatMessageHistory("read", connection=engine)

    @classmethod
    def open(cls, url: URL, messages: Sequence[ChatMessage]) -> Self:
        """Make the table and fill the history to read."""
        engine = create_engine(text(url.set(drivername=_DRIVERS[url.get_backend_name()])))
        peer = cls(engine, [_message(message) for message in messages])
        peer._read.add_messages(peer._messages)
        return peer

    def append(self, number: int) -> None:
        self._appended.add_message(self._messages[number])

    def read(self, _number: int) -> list[BaseMessage]:
        return self._read.messages[-READ_LIMIT:]

    def durability(self) -> Durability:
        with self._engine.connect() as connection:
            return durability(self._engine.dialect.name, lambda query: connection.exec_driver_sql(query).scalar())

    def close(self) -> None:
        self._engine.dispose()


class PostgresHistories:
    """Two histories on one connection."""

    def __init__(self, connection: psycopg.Connection[Any], messages: list[BaseMessage]) -> None:
        self._connection = connection
        self._messages = messages
        self._appended = self._history()
        self._read = self._history()

    @classmethod
    def open(cls, url: URL, messages: Sequence[ChatMessage]) -> Self:
        """Make the table and fill the history to read."""
        connection = psycopg.connect(conninfo(url))
        PostgresChatMessageHistory.create_tables(connection, _TABLE)
        peer = cls(connection, [_message(message) for message in messages])
        peer._read.add_messages(peer._messages)
        return peer

    def append(self, number: int) -> None:
        self._appended.add_messages([self._messages[number]])

    def read(self, _number: int) -> list[BaseMessage]:
        return self._read.messages[-READ_LIMIT:]

    def durability(self) -> Durability:
        return durability("postgresql", lambda query: (self._connection.execute(query).fetchone() or [None])[0])

    def close(self) -> None:
        self._connection.close()

    def _history(self) -> PostgresChatMessageHistory:
        return PostgresChatMessageHistory(_TABLE, str(uuid.uuid4()), sync_connection=self._connection)


def _message(message: ChatMessage) -> BaseMessage:
    match message.role:
        case "user":
            return HumanMessage(message.content)
        case "assistant":
            calls = [
                {
                    "id": call["id"],
                    "name": call["function"]["name"],
                    "args": json.loads(call["function"]["arguments"]),
                    "type": "tool_call",
                }
                for call in message.tool_calls
            ]
            return AIMessage(message.content, tool_calls=calls)
        case "tool":
            return ToolMessage(message.content, name=message.tool_name, tool_call_id=message.tool_call_id)
        case _:
            return SystemMessage(message.content)

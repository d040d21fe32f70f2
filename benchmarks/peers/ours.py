"""The library itself, sync and async, through the same door as its peers."""

# ruff: noqa: D102  # the methods are those of `Peer`

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from sqlalchemy import URL

from benchmarks.conversations import ChatMessage
from benchmarks.databases import Durability, text
from benchmarks.managers import async_manager, durability_of, full_session, opened
from benchmarks.sections import READ_LIMIT
from sessions_db import Message, SessionManager


class Sync:
    """Two sessions of a `SessionManager`."""

    def __init__(self, manager: SessionManager, messages: Sequence[ChatMessage]) -> None:
        self._manager = manager
        self._messages = [(message.role, message.content, message.tool_name, message.metadata) for message in messages]
        self._appended = full_session(manager, messages)
        self._read = full_session(manager, messages)

    @classmethod
    def open(cls, url: URL, messages: Sequence[ChatMessage]) -> Self:
        """Make the schema and fill the sessions."""
        return cls(SessionManager(text(url)), messages)

    def append(self, number: int) -> Message:
        role, content, tool_name, metadata = self._messages[number]
        return self._manager.add_message(self._appended, role, content, tool_name=tool_name, metadata=metadata)

    def read(self, _number: int) -> list[Message] | None:
        return self._manager.history(self._read, READ_LIMIT, include_tools=True)

    def durability(self) -> Durability:
        return durability_of(self._manager)

    def close(self) -> None:
        self._manager.close()


class Async:
    """Two sessions of an `AsyncSessionManager`."""

    def __init__(self, url: URL, messages: Sequence[ChatMessage]) -> None:
        self._url = url
        self._manager = async_manager(url)
        self._messages = [(message.role, message.content, message.tool_name, message.metadata) for message in messages]
        with opened(url) as sync:
            self._appended = full_session(sync, messages)
            self._read = full_session(sync, messages)

    @classmethod
    def open(cls, url: URL, messages: Sequence[ChatMessage]) -> Self:
        """Make the schema and fill the sessions."""
        return cls(url, messages)

    async def append(self, number: int) -> Message:
        role, content, tool_name, metadata = self._messages[number]
        return await self._manager.add_message(self._appended, role, content, tool_name=tool_name, metadata=metadata)

    async def read(self, _number: int) -> list[Message] | None:
        return await self._manager.history(self._read, READ_LIMIT, include_tools=True)

    def durability(self) -> Durability:
        # Both faces open their connections in one way.
        with opened(self._url) as manager:
            return durability_of(manager)

    async def close(self) -> None:
        await self._manager.close()

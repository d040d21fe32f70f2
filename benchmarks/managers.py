"""The library, opened for measuring."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from sqlalchemy import URL

from benchmarks.conversations import ChatMessage
from benchmarks.databases import Durability, sqlalchemy_durability
from benchmarks.filling import fill
from benchmarks.rounds import AsyncOperation, Operation
from benchmarks.sections import READ_LIMIT, RETAINED, Bench
from sessions_db import AsyncSessionManager, NewMessage, SessionManager


def inhabited(bench: Bench, backend: str) -> URL:
    """A new database with a thousand sessions.

    In an empty one Postgres makes plans for tables of one page, and keeps them while the tables grow.
    """
    url = bench.databases.create(backend)
    inhabit(url)
    return url


def inhabit(url: URL) -> None:
    """Give the empty database the schema and a thousand sessions."""
    SessionManager(url).close()
    fill(url, 0, 1_000)


@contextmanager
def opened(url: URL, runner: asyncio.Runner) -> Iterator[tuple[SessionManager, AsyncSessionManager]]:
    """Both managers of the database."""
    with SessionManager(url) as manager:
        async_manager = AsyncSessionManager(url)
        try:
            yield manager, async_manager
        finally:
            runner.run(async_manager.close())


def full_session(manager: SessionManager, messages: Sequence[ChatMessage]) -> str:
    """The key of a new session that already holds as many messages as it retains: the next append trims."""
    key = manager.spawn_subagent("bench", "Be measured", message_cap=RETAINED)
    manager.add_messages(key, map(new_message, messages))
    return key


def new_message(message: ChatMessage) -> NewMessage:
    """The message as this library takes it."""
    return NewMessage(message.role, message.content, message.tool_name, message.metadata)


def append(manager: SessionManager, key: str, messages: Sequence[ChatMessage]) -> Operation:
    """Appends one of the messages to the session."""
    ready = [new_message(message) for message in messages]

    def operation(number: int) -> object:
        new = ready[number]
        return manager.add_message(key, new.role, new.content, tool_name=new.tool_name, metadata=new.metadata)

    return operation


def async_append(manager: AsyncSessionManager, key: str, messages: Sequence[ChatMessage]) -> AsyncOperation:
    """Appends one of the messages to the session."""
    ready = [new_message(message) for message in messages]

    async def operation(number: int) -> object:
        new = ready[number]
        return await manager.add_message(key, new.role, new.content, tool_name=new.tool_name, metadata=new.metadata)

    return operation


def read(manager: SessionManager, key: str) -> Operation:
    """Reads the session's newest messages."""
    return lambda _number: manager.history(key, READ_LIMIT, include_tools=True)


def durability_of(manager: SessionManager) -> Durability:
    """The settings in force on the manager's own connections."""
    with manager._engine.connect() as connection:  # noqa: SLF001  # no public method tells
        return sqlalchemy_durability(connection)

"""The library, opened for measuring."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import URL

from benchmarks.conversations import ChatMessage
from benchmarks.databases import Durability, durability, text
from benchmarks.filling import fill
from benchmarks.sections import RETAINED, Bench
from sessions_db import AsyncSessionManager, NewMessage, SessionManager


@contextmanager
def opened(url: URL, **options: Any) -> Iterator[SessionManager]:
    """A manager of the database."""
    with SessionManager(text(url), **options) as manager:
        yield manager


def inhabited(bench: Bench, backend: str) -> URL:
    """A new database with a thousand sessions in it.

    In an empty one Postgres plans for tables of a page and keeps those plans while they grow.
    """
    url = bench.databases.create(backend)
    SessionManager(text(url)).close()
    fill(url, 0, 1_000)
    return url


def async_manager(url: URL) -> AsyncSessionManager:
    """An async manager of the database, to be closed by its `close`. Its first call opens it."""
    return AsyncSessionManager(text(url))


def durability_of(manager: SessionManager) -> Durability:
    """What the manager's own connections have in force."""
    engine = manager._engine  # noqa: SLF001  # its connections show their settings to nobody else
    with engine.connect() as connection:
        return durability(engine.dialect.name, lambda query: connection.exec_driver_sql(query).scalar())


def new_message(message: ChatMessage) -> NewMessage:
    """The message as this library takes it."""
    return NewMessage(message.role, message.content, message.tool_name, message.metadata)


def full_session(manager: SessionManager, messages: Sequence[ChatMessage]) -> str:
    """The key of a session with these messages, all that it retains: the next append trims."""
    key = manager.spawn_subagent("bench", "Be measured", message_cap=RETAINED)
    manager.add_messages(key, map(new_message, messages))
    return key

"""This library, opened for measuring."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import URL

import sessions_db
from benchmarks.conversations import ChatMessage
from benchmarks.databases import Durability, durability, text
from benchmarks.sections import RETAINED
from sessions_db import NewMessage, SessionManager

HAS_ASYNC = hasattr(sessions_db, "AsyncSessionManager")


@contextmanager
def opened(url: URL, **options: Any) -> Iterator[SessionManager]:
    """A manager of the database."""
    with SessionManager(text(url), **options) as manager:
        yield manager


async def open_async(url: URL, **options: Any) -> Any:
    """An async manager of the database, to be closed by its `close`."""
    return await sessions_db.AsyncSessionManager.open(text(url), **options)  # type: ignore[attr-defined]


def durability_of(manager: SessionManager) -> Durability:
    """What the manager's own connections have in force."""
    engine = manager._engine  # noqa: SLF001  # its connections show their settings to nobody else
    with engine.connect() as connection:
        return durability(engine.dialect.name, lambda query: connection.exec_driver_sql(query).scalar())


def new_message(message: ChatMessage) -> NewMessage:
    """The message as this library takes it."""
    return NewMessage(message.role, message.content, message.tool_name, message.metadata)


def full_session(manager: SessionManager, messages: Sequence[ChatMessage]) -> str:
    """The key of a session that retains as many messages as it may, so that the next append trims."""
    key = manager.spawn_subagent("bench", "Be measured", message_cap=RETAINED)
    repeated = [*messages] * (RETAINED // len(messages) + 1)
    manager.add_messages(key, map(new_message, repeated[:RETAINED]))
    return key

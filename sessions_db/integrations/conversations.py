"""Conversations that adapters append to."""

from __future__ import annotations

from collections.abc import Sequence

from sessions_db import keys
from sessions_db.aio import AsyncSessionManager
from sessions_db.errors import SessionNotFound
from sessions_db.models import NewMessage


async def append(manager: AsyncSessionManager, agent_id: str, name: str, messages: Sequence[NewMessage]) -> None:
    """Append the messages, all or none, to the conversation of this name; it is created if there is none.

    Raises:
        InvalidInput: an argument can't be stored.
    """
    key = keys.conversation_key(agent_id, name)
    try:
        # It nearly always exists, and then this is one statement.
        await manager.add_messages(key, messages)
    except SessionNotFound:
        await manager.get_or_create(agent_id, name)
        await manager.add_messages(key, messages)

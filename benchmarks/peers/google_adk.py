"""Google ADK: `DatabaseSessionService`. It keeps every event.

See https://adk.dev/sessions/session/.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from google.adk.events import Event
from google.adk.sessions import DatabaseSessionService, Session
from google.adk.sessions.base_session_service import GetSessionConfig
from google.genai import types
from sqlalchemy import URL

from benchmarks.conversations import ChatMessage
from benchmarks.databases import sqlalchemy_durability, text
from benchmarks.peers.peer import TASKS, Peer
from benchmarks.rounds import AsyncOperation
from benchmarks.sections import READ_LIMIT

_DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg"}
_OWNER: dict[str, Any] = {"app_name": "bench", "user_id": "user"}


@asynccontextmanager
async def sessions(url: URL, messages: Sequence[ChatMessage]) -> AsyncIterator[Peer]:
    """Sessions of one service. As a runner does, a session to append to is kept between events."""
    service = DatabaseSessionService(text(url.set(drivername=_DRIVERS[url.get_backend_name()])))
    events = [_event(message) for message in messages]
    names = ("appended", "read", *map(str, range(TASKS)))
    appended, filled, *others = [await service.create_session(**_OWNER, session_id=name) for name in names]
    for event in events:
        await service.append_event(filled, _fresh(event))
    config = GetSessionConfig(num_recent_events=READ_LIMIT)

    def append(session: Session) -> AsyncOperation:
        async def operation(number: int) -> None:
            await service.append_event(session, _fresh(events[number]))

        return operation

    async def read(_number: int) -> object:
        session = await service.get_session(**_OWNER, session_id="read", config=config)
        assert session is not None
        return session.events

    async with service.db_engine.connect() as connection:
        durability = await connection.run_sync(sqlalchemy_durability)
    yield Peer(append(appended), read, durability, [append(session) for session in others])
    await service.close()


def _event(message: ChatMessage) -> Event:
    parts = [
        types.Part(function_call=types.FunctionCall(id=call_id, name=name, args=arguments))
        for call_id, name, arguments in message.calls()
    ]
    if message.role == "tool":
        response = types.FunctionResponse(
            id=message.tool_call_id, name=message.tool_name, response={"result": message.content}
        )
        parts.append(types.Part(function_response=response))
    elif message.content or not parts:
        parts.append(types.Part(text=message.content))
    is_user = message.role in ("user", "tool")
    content = types.Content(role="user" if is_user else "model", parts=parts)
    return Event(author="user" if message.role == "user" else "agent", invocation_id="invocation", content=content)


def _fresh(event: Event) -> Event:
    """A copy with a new id, as an id can be stored once, and the current time, as a session's events are in order."""
    return event.model_copy(update={"id": Event.new_id(), "timestamp": time.time()})

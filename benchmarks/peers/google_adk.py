"""Google ADK: `DatabaseSessionService`. It keeps every event.

See https://adk.dev/sessions/session/.
"""

# ruff: noqa: D102  # the methods are those of `Peer`

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any, Self

from google.adk.events import Event
from google.adk.sessions import DatabaseSessionService, Session
from google.adk.sessions.base_session_service import GetSessionConfig
from google.genai import types
from sqlalchemy import URL

from benchmarks.conversations import ChatMessage
from benchmarks.databases import Durability, durability, text
from benchmarks.sections import READ_LIMIT

_DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg"}
_WHOSE: dict[str, Any] = {"app_name": "bench", "user_id": "user"}


class DatabaseSessions:
    """Two sessions of one service, which an agent's runner keeps at hand between events."""

    def __init__(self, service: DatabaseSessionService, events: list[Event], appended: Session) -> None:
        self._service = service
        self._events = events
        self._appended = appended
        self._config = GetSessionConfig(num_recent_events=READ_LIMIT)

    @classmethod
    async def open(cls, url: URL, messages: Sequence[ChatMessage]) -> Self:
        """Make the tables and fill the session to read."""
        service = DatabaseSessionService(text(url.set(drivername=_DRIVERS[url.get_backend_name()])))
        events = [_event(message) for message in messages]
        appended = await service.create_session(**_WHOSE, session_id="appended")
        read = await service.create_session(**_WHOSE, session_id="read")
        for event in events:
            await service.append_event(read, _fresh(event))
        return cls(service, events, appended)

    async def append(self, number: int) -> None:
        await self._service.append_event(self._appended, _fresh(self._events[number]))

    async def read(self, _number: int) -> list[Event]:
        session = await self._service.get_session(**_WHOSE, session_id="read", config=self._config)
        assert session is not None
        return session.events

    async def durability(self) -> Durability:
        async with self._service.db_engine.connect() as connection:
            return await connection.run_sync(
                lambda sync: durability(sync.dialect.name, lambda query: sync.exec_driver_sql(query).scalar())
            )

    async def close(self) -> None:
        await self._service.close()


def _event(message: ChatMessage) -> Event:
    parts: list[types.Part] = []
    for call in message.tool_calls:
        function = call["function"]
        arguments: dict[str, Any] = json.loads(function["arguments"])
        parts.append(types.Part(function_call=types.FunctionCall(id=call["id"], name=function["name"], args=arguments)))
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
    """The event as a new one: an id can be stored once, and a session's events go on in time."""
    return event.model_copy(update={"id": Event.new_id(), "timestamp": time.time()})

"""Agno: `SqliteDb` and `PostgresDb`. It keeps every run.

Agno stores runs, with the messages of a turn, and not single messages. Here a run holds one message and is stored by
the one statement that Agno sends for a run. Its agents also update the session's row, which is left out. See
https://docs.agno.com/database/overview.
"""

from __future__ import annotations

import itertools
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from agno.db.base import SessionType
from agno.db.postgres import PostgresDb
from agno.db.sqlite import SqliteDb
from agno.models.message import Message
from agno.run.agent import RunOutput
from agno.run.base import RunStatus
from agno.session import AgentSession
from sqlalchemy import URL

from benchmarks.conversations import ChatMessage
from benchmarks.databases import sqlalchemy_durability, text
from benchmarks.peers.peer import Peer
from benchmarks.sections import READ_LIMIT


@asynccontextmanager
async def sqlite_runs(url: URL, messages: Sequence[ChatMessage]) -> AsyncIterator[Peer]:
    """Two sessions of one `SqliteDb`."""
    db = SqliteDb(db_file=str(url.database))
    yield _peer(db, messages)
    db.close()


@asynccontextmanager
async def postgres_runs(url: URL, messages: Sequence[ChatMessage]) -> AsyncIterator[Peer]:
    """Two sessions of one `PostgresDb`."""
    db = PostgresDb(db_url=text(url.set(drivername="postgresql+psycopg")))
    yield _peer(db, messages)
    db.close()


def _peer(db: SqliteDb | PostgresDb, messages: Sequence[ChatMessage]) -> Peer:
    stored = [_message(message) for message in messages]
    numbers = itertools.count()

    def store(session_id: str, number: int, index: int) -> None:
        run = RunOutput(
            run_id=str(uuid.uuid4()),
            agent_id="bench",
            session_id=session_id,
            messages=[stored[number]],
            status=RunStatus.completed,
        )
        db.upsert_run(run, session_id, run_index=index)

    def read(_number: int) -> object:
        session = db.get_session("read", SessionType.AGENT)
        assert isinstance(session, AgentSession)
        return session.get_messages(limit=READ_LIMIT)

    for session_id in ("appended", "read"):
        db.upsert_session(AgentSession(session_id, agent_id="bench", session_data={}, created_at=int(time.time())))
    for number in range(len(stored)):
        store("read", number, number)
    with db.db_engine.connect() as connection:
        durability = sqlalchemy_durability(connection)
    return Peer(lambda number: store("appended", number, next(numbers)), read, durability)


def _message(message: ChatMessage) -> Message:
    return Message(
        role=message.role,
        content=message.content,
        tool_name=message.tool_name,
        tool_calls=[dict(call) for call in message.tool_calls] or None,
        tool_call_id=message.tool_call_id,
    )

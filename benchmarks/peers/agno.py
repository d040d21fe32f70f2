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
from agno.db.postgres import AsyncPostgresDb, PostgresDb
from agno.db.sqlite import AsyncSqliteDb, SqliteDb
from agno.models.message import Message
from agno.run.agent import RunOutput
from agno.run.base import RunStatus
from agno.session import AgentSession
from sqlalchemy import URL

from benchmarks.conversations import ChatMessage
from benchmarks.databases import sqlalchemy_durability, text
from benchmarks.peers.peer import TASKS, Peer
from benchmarks.rounds import AsyncOperation
from benchmarks.sections import READ_LIMIT


@asynccontextmanager
async def sqlite_runs(url: URL, messages: Sequence[ChatMessage]) -> AsyncIterator[Peer]:
    """Sessions of one `SqliteDb`; those of tasks of an `AsyncSqliteDb`."""
    db, async_db = SqliteDb(db_file=str(url.database)), AsyncSqliteDb(db_file=str(url.database))
    yield _peer(db, async_db, messages)
    await async_db.close()
    db.close()


@asynccontextmanager
async def postgres_runs(url: URL, messages: Sequence[ChatMessage]) -> AsyncIterator[Peer]:
    """Sessions of one `PostgresDb`; those of tasks of an `AsyncPostgresDb`."""
    db = PostgresDb(db_url=text(url.set(drivername="postgresql+psycopg")))
    async_db = AsyncPostgresDb(db_url=text(url.set(drivername="postgresql+psycopg_async")))
    yield _peer(db, async_db, messages)
    await async_db.close()
    db.close()


def _peer(
    db: SqliteDb | PostgresDb, async_db: AsyncSqliteDb | AsyncPostgresDb, messages: Sequence[ChatMessage]
) -> Peer:
    stored = [_message(message) for message in messages]
    numbers = itertools.count()
    others = [str(number) for number in range(TASKS)]

    def run(session_id: str, number: int) -> RunOutput:
        return RunOutput(
            run_id=str(uuid.uuid4()),
            agent_id="bench",
            session_id=session_id,
            messages=[stored[number]],
            status=RunStatus.completed,
        )

    def store(session_id: str, number: int, index: int) -> None:
        db.upsert_run(run(session_id, number), session_id, run_index=index)

    def append(session_id: str) -> AsyncOperation:
        own_numbers = itertools.count()

        async def operation(number: int) -> None:
            await async_db.upsert_run(run(session_id, number), session_id, run_index=next(own_numbers))

        return operation

    def read(_number: int) -> object:
        session = db.get_session("read", SessionType.AGENT)
        assert isinstance(session, AgentSession)
        return session.get_messages(limit=READ_LIMIT)

    for session_id in ("appended", "read", *others):
        db.upsert_session(AgentSession(session_id, agent_id="bench", session_data={}, created_at=int(time.time())))
    for number in range(len(stored)):
        store("read", number, number)
    with db.db_engine.connect() as connection:
        durability = sqlalchemy_durability(connection)
    return Peer(
        append=lambda number: store("appended", number, next(numbers)),
        read=read,
        durability=durability,
        tasks=[append(session_id) for session_id in others],
    )


def _message(message: ChatMessage) -> Message:
    return Message(
        role=message.role,
        content=message.content,
        tool_name=message.tool_name,
        tool_calls=[dict(call) for call in message.tool_calls] or None,
        tool_call_id=message.tool_call_id,
    )

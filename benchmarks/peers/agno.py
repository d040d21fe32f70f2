"""Agno: `SqliteDb` and `PostgresDb`. It keeps every run.

See https://docs.agno.com/database/overview. What Agno stores is a run, with the messages of a turn. One message is
stored as a run that has only that one, by the one statement that Agno sends for a run; its agents update the session's
row as well, which is left out here.
"""

# ruff: noqa: D102  # the methods are those of `Peer`

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Self

from agno.db.base import SessionType
from agno.db.postgres import PostgresDb
from agno.db.sqlite import SqliteDb
from agno.models.message import Message
from agno.run.agent import RunOutput
from agno.run.base import RunStatus
from agno.session import AgentSession
from sqlalchemy import URL

from benchmarks.conversations import ChatMessage
from benchmarks.databases import Durability, durability, text
from benchmarks.sections import READ_LIMIT


class Runs:
    """Two sessions of one database object."""

    def __init__(self, db: SqliteDb | PostgresDb, messages: list[Message]) -> None:
        self._db = db
        self._messages = messages
        self._appended = 0

    @classmethod
    def open(cls, url: URL, messages: Sequence[ChatMessage]) -> Self:
        """Make the tables and fill the session to read."""
        if url.get_backend_name() == "sqlite":
            db: SqliteDb | PostgresDb = SqliteDb(db_file=str(url.database))
        else:
            db = PostgresDb(db_url=text(url.set(drivername="postgresql+psycopg")))
        peer = cls(db, [_message(message) for message in messages])
        for session_id in ("appended", "read"):
            db.upsert_session(AgentSession(session_id, agent_id="bench", session_data={}, created_at=int(time.time())))
        for index in range(len(messages)):
            peer._store("read", index, index)
        return peer

    def append(self, number: int) -> None:
        self._store("appended", number, self._appended)
        self._appended += 1

    def read(self, _number: int) -> list[Message]:
        session = self._db.get_session("read", SessionType.AGENT)
        assert isinstance(session, AgentSession)
        return session.get_messages(limit=READ_LIMIT)

    def durability(self) -> Durability:
        engine = self._db.db_engine
        with engine.connect() as connection:
            return durability(engine.dialect.name, lambda query: connection.exec_driver_sql(query).scalar())

    def close(self) -> None:
        self._db.close()

    def _store(self, session_id: str, number: int, index: int) -> None:
        run = RunOutput(
            run_id=str(uuid.uuid4()),
            agent_id="bench",
            session_id=session_id,
            messages=[self._messages[number]],
            status=RunStatus.completed,
        )
        self._db.upsert_run(run, session_id, run_index=index)


def _message(message: ChatMessage) -> Message:
    return Message(
        role=message.role,
        content=message.content,
        tool_name=message.tool_name,
        tool_calls=[dict(call) for call in message.tool_calls] or None,
        tool_call_id=message.tool_call_id,
    )

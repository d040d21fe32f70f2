"""The plain driver: sqlite3 or psycopg, sending the statements that the library sends.

They are recorded on their way to the driver, so the benchmarks repeat none of the library's SQL.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import psycopg
from sqlalchemy import URL, Engine, create_engine

from benchmarks.conversations import ChatMessage
from benchmarks.databases import conninfo
from benchmarks.rounds import Operation
from benchmarks.sections import READ_LIMIT
from sessions_db import SessionManager

# Distinct values, by which the recorded parameters are recognised.
_AGENT_ID, _ROLE, _CONTENT, _TOOL_NAME, _METADATA = "recorder", "system", "the content", "the tool", {"the": "metadata"}


@dataclass(frozen=True, slots=True)
class Recorded:
    """A statement as it was sent."""

    sql: str
    parameters: Any

    def with_values(self, values: Mapping[str, Any]) -> Any:
        """The parameters, each one that is a key of `values` replaced."""
        is_named = isinstance(self.parameters, Mapping)
        recorded = self.parameters.values() if is_named else self.parameters
        assert values.keys() <= {*recorded}, "the library sends its values in another form"
        replaced = [values.get(value, value) for value in recorded]
        return dict(zip(self.parameters, replaced, strict=True)) if is_named else replaced


class Statements:
    """The library's statements for an append and for a read of the newest messages."""

    def __init__(self, url: URL) -> None:
        with recording(url) as (engine, recorded), SessionManager(engine) as manager:
            self._key = manager.get_or_create_main(_AGENT_ID).key
            recorded.clear()
            manager.add_message(self._key, _ROLE, _CONTENT, tool_name=_TOOL_NAME, metadata=_METADATA)
            (self._append,) = [statement for statement in recorded if "messages" in statement.sql]
            recorded.clear()
            manager.history(self._key, READ_LIMIT, include_tools=True)
            (self._read,) = [statement for statement in recorded if "messages" in statement.sql]
            manager.delete_session(self._key)
        self.append_sql, self.read_sql = self._append.sql, self._read.sql

    def append_parameters(self, key: str, message: ChatMessage) -> Any:
        """What an append is sent with. Its time is that of the recording."""
        return self._append.with_values(
            {
                self._key: key,
                _ROLE: message.role,
                _CONTENT: message.content,
                _TOOL_NAME: message.tool_name,
                json.dumps(_METADATA): message.metadata_json,
            }
        )

    def read_parameters(self, key: str) -> Any:
        """What a read is sent with."""
        return self._read.with_values({self._key: key})


def connect(url: URL, synchronous: str = "FULL") -> Any:
    """A connection in autocommit mode with the library's settings; with NORMAL, a commit doesn't wait for the disk."""
    if url.get_backend_name() == "sqlite":
        sqlite = sqlite3.connect(str(url.database), isolation_level=None)
        sqlite.execute("PRAGMA foreign_keys = ON")
        sqlite.execute("PRAGMA journal_mode = WAL")
        sqlite.execute(f"PRAGMA synchronous = {synchronous}")
        return sqlite
    # Prepare a statement when it is first executed, not the sixth time.
    postgres = psycopg.connect(conninfo(url), autocommit=True, prepare_threshold=0)
    if synchronous == "NORMAL":
        postgres.execute("SET synchronous_commit = off")
    return postgres


def append(connection: Any, statements: Statements, key: str, messages: Sequence[ChatMessage]) -> Operation:
    """Appends one of the messages to the session."""
    sql = statements.append_sql
    ready = [statements.append_parameters(key, message) for message in messages]
    return lambda number: connection.execute(sql, ready[number]).fetchall()


def read(connection: Any, statements: Statements, key: str) -> Operation:
    """Reads the session's newest messages, as tuples."""
    sql, parameters = statements.read_sql, statements.read_parameters(key)
    return lambda _number: connection.execute(sql, parameters).fetchall()


@contextmanager
def recording(url: URL) -> Iterator[tuple[Engine, list[Recorded]]]:
    """An engine for a manager, and what it has sent so far."""
    recorded: list[Recorded] = []
    is_sqlite = url.get_backend_name() == "sqlite"
    drivername = "sqlite" if is_sqlite else "postgresql+psycopg"
    engine = create_engine(url.set(drivername=drivername), connect_args=_recording(recorded, is_sqlite=is_sqlite))
    try:
        yield engine, recorded
    finally:
        engine.dispose()


def _recording(recorded: list[Recorded], *, is_sqlite: bool) -> dict[str, Any]:
    """Arguments that make the driver's cursors record what they execute."""

    class SQLiteCursor(sqlite3.Cursor):
        def execute(self, query: str, parameters: Any = ()) -> Self:
            recorded.append(Recorded(query, parameters))
            return super().execute(query, parameters)

    class SQLiteConnection(sqlite3.Connection):
        def cursor(self, factory: Any = SQLiteCursor) -> Any:
            return super().cursor(factory)

    class PostgresCursor(psycopg.Cursor[Any]):
        def execute(self, query: Any, params: Any = None, **options: Any) -> Any:
            recorded.append(Recorded(query, params))
            return super().execute(query, params, **options)

    return {"factory": SQLiteConnection} if is_sqlite else {"cursor_factory": PostgresCursor}

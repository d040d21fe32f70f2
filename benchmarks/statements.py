"""The statements that the library sends for an append and a read, as they reach the driver."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeAlias

import psycopg
from sqlalchemy import URL, create_engine

from benchmarks.conversations import ChatMessage
from benchmarks.sections import READ_LIMIT
from sessions_db import SessionManager

Parameters: TypeAlias = Sequence[Any] | Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement's text and the parameters that came with it."""

    sql: str
    parameters: Any

    def with_values(self, values: Mapping[Any, Any]) -> Parameters:
        """The parameters, those that are a key of `values` replaced."""
        if isinstance(self.parameters, Mapping):
            return {name: _replaced(value, values) for name, value in self.parameters.items()}
        return tuple(_replaced(value, values) for value in self.parameters)


# What is recorded is found again by these values.
_ROLE, _CONTENT, _TOOL_NAME, _METADATA = "system", "the content", "the tool", {"the": "metadata"}
_METADATA_JSON = json.dumps(_METADATA)
_KEY, _AT_MS = "the key", "the time"


class Statements:
    """An append and a read of the newest messages, to be sent by hand."""

    def __init__(self, url: URL) -> None:
        recorded: list[Statement] = []
        if url.get_backend_name() == "postgresql":
            url = url.set(drivername="postgresql+psycopg")
        engine = create_engine(url, connect_args=_recording(url, recorded))
        with SessionManager(engine) as manager:
            key = manager.spawn_subagent("recorder", "Have statements recorded")
            recorded.clear()
            stored = manager.add_message(key, _ROLE, _CONTENT, tool_name=_TOOL_NAME, metadata=_METADATA)
            (append,) = [statement for statement in recorded if "messages" in statement.sql]
            recorded.clear()
            manager.history(key, READ_LIMIT, include_tools=True)
            (read,) = [statement for statement in recorded if "messages" in statement.sql]
            manager.delete_session(key)
        engine.dispose()
        names = {key: _KEY, stored.timestamp_ms: _AT_MS}
        self._append = Statement(append.sql, append.with_values(names))
        self._read = Statement(read.sql, read.with_values(names))

    @property
    def append_sql(self) -> str:
        """The text of an append."""
        return self._append.sql

    @property
    def read_sql(self) -> str:
        """The text of a read."""
        return self._read.sql

    def append_parameters(self, key: str, message: ChatMessage, at_ms: int) -> Parameters:
        """What an append is sent with."""
        return self._append.with_values(
            {
                _KEY: key,
                _AT_MS: at_ms,
                _ROLE: message.role,
                _CONTENT: message.content,
                _TOOL_NAME: message.tool_name,
                _METADATA_JSON: message.metadata_json,
            }
        )

    def read_parameters(self, key: str) -> Parameters:
        """What a read is sent with."""
        return self._read.with_values({_KEY: key})


def _replaced(value: object, values: Mapping[Any, Any]) -> object:
    return values.get(value, value) if isinstance(value, str | int) else value


def _recording(url: URL, recorded: list[Statement]) -> dict[str, Any]:
    """The arguments that make the driver's own cursors remember what they execute."""

    class SQLiteCursor(sqlite3.Cursor):
        def execute(self, query: str, parameters: Any = ()) -> Self:
            recorded.append(Statement(query, parameters))
            return super().execute(query, parameters)

    class SQLiteConnection(sqlite3.Connection):
        def cursor(self, factory: Any = SQLiteCursor) -> Any:
            return super().cursor(factory)

    class PostgresCursor(psycopg.Cursor[Any]):
        def execute(self, query: Any, params: Any = None, **options: Any) -> Any:
            recorded.append(Statement(query, params))
            return super().execute(query, params, **options)

    if url.get_backend_name() == "sqlite":
        return {"factory": SQLiteConnection}
    return {"cursor_factory": PostgresCursor}

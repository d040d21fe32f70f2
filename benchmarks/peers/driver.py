"""The plain driver with the library's own statements: what nobody who keeps the same promises can be faster than."""

# ruff: noqa: D102  # the methods are those of `Peer`

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from sqlalchemy import URL

from benchmarks import floor
from benchmarks.conversations import ChatMessage
from benchmarks.databases import Durability
from benchmarks.managers import full_session, opened
from benchmarks.statements import Statements


class Driver:
    """Two sessions of a database that the library has made, on one connection."""

    def __init__(self, url: URL, keys: Sequence[str], messages: Sequence[ChatMessage]) -> None:
        self._backend = url.get_backend_name()
        is_sqlite = self._backend == "sqlite"
        self._connection: Any = floor.sqlite_connection(url, "FULL") if is_sqlite else floor.postgresql_connection(url)
        statements = Statements(url)
        self.append = floor.raw_append(self._connection, statements, keys[0], messages)
        self.read = floor.raw_read(self._connection, statements, keys[1])

    @classmethod
    def open(cls, url: URL, messages: Sequence[ChatMessage]) -> Self:
        """Make the schema and fill the sessions."""
        with opened(url) as manager:
            keys = [full_session(manager, messages) for _ in range(2)]
        return cls(url, keys, messages)

    def durability(self) -> Durability:
        return floor.driver_durability(self._connection, self._backend)

    def close(self) -> None:
        self._connection.close()

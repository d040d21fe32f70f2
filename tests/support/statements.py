"""The statements of a connection, seen at the driver.

A listener on the engine would see them too, but would change the path of the library's hot statements: they go through
SQLAlchemy then, instead of straight to the driver's cursor.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from sessions_db import SessionManager


def driver_connection(manager: SessionManager) -> Any:
    """The driver's connection that the manager's next call uses, while no other thread uses the manager."""
    with manager.transaction() as tx:
        return tx.connection.connection.driver_connection


@contextmanager
def traced(connection: Any, trace: Callable[[str, Any], object]) -> Iterator[None]:
    """Pass each statement of the connection and its parameters to `trace` before it runs.

    SQLite's statements come with the parameters written into them, and None for the parameters.
    """
    if isinstance(connection, sqlite3.Connection):
        connection.set_trace_callback(lambda statement: trace(statement, None))
        yield
        connection.set_trace_callback(None)
        return

    class Traced(psycopg.Cursor[Any]):
        def execute(self, query: Any, params: Any = None, **options: Any) -> Traced:
            trace(query, params)
            return super().execute(query, params, **options)

    usual = connection.cursor_factory
    connection.cursor_factory = Traced
    yield
    connection.cursor_factory = usual

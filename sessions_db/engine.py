"""Connections: all that differs between the databases when connecting, and how a transaction begins.

Connections are in autocommit mode, so that an operation of one statement is one round trip; a transaction is begun
in so many words.
"""

from __future__ import annotations

import math
import os
import sqlite3
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import URL, Connection, Engine, Pool, QueuePool, create_engine, event, exc, make_url

from sessions_db.errors import DatabaseUnavailable, InvalidInput

_DRIVERS = {"sqlite": "pysqlite", "postgresql": "psycopg"}

# RETURNING came with SQLite 3.35, STRICT tables with 3.37.
_OLDEST_SQLITE = (3, 37, 0)


def open_engine(url: str | URL, *, synchronous: str, retry_budget_s: float, pool_size: int) -> Engine:
    """An engine of this library's own for `url`. Nothing is connected yet.

    Raises:
        InvalidInput: the URL can't be read, or names another database or driver.
    """
    parsed = _parse(url)
    if parsed.get_backend_name() == "sqlite":
        engine = _sqlite_engine(parsed, synchronous, retry_budget_s, pool_size)
    else:
        engine = _postgresql_engine(parsed, retry_budget_s, pool_size)
    _engines.add(engine)
    return engine


def adopt(engine: Engine) -> Engine:
    """The caller's engine, its pool and settings as they are, with connections in autocommit mode.

    Raises:
        InvalidInput: it is not an engine for a database and driver that this library knows.
    """
    if not isinstance(engine, Engine):
        raise InvalidInput.of("database", "must be a URL or a sqlalchemy.Engine", engine)
    if _DRIVERS.get(engine.dialect.name) != engine.dialect.driver:
        raise InvalidInput.of("database", _SUPPORTED, engine.url)
    _engines.add(engine)
    return engine.execution_options(isolation_level="AUTOCOMMIT")


@contextmanager
def transaction(conn: Connection) -> Iterator[Connection]:
    """Commit what the block does, or none of it."""
    with conn.begin():
        if conn.dialect.name != "sqlite":
            conn.exec_driver_sql("BEGIN")
        elif not _is_begun(conn):
            # The write lock is taken at once: a transaction that read first could not get it later (SQLITE_BUSY,
            # which no waiting mends) if another had written in between.
            conn.exec_driver_sql("BEGIN IMMEDIATE")
        yield conn


def _is_begun(conn: Connection) -> bool:
    """Whether a listener of the caller's own engine has begun a transaction, as SQLAlchemy's SQLite recipe does."""
    driver = conn.connection.driver_connection
    return isinstance(driver, sqlite3.Connection) and driver.in_transaction


_SUPPORTED = f"must be a SQLite or Postgres URL ({', '.join(f'{name}+{driver}' for name, driver in _DRIVERS.items())})"


def _parse(url: str | URL) -> URL:
    try:
        parsed = make_url(url)
    except exc.ArgumentError:
        # The text may hold a password.
        raise InvalidInput("database", "must be a database URL", "a text that can't be read as one") from None
    if parsed.drivername in ("postgres", "postgresql"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername == "sqlite":
        parsed = parsed.set(drivername="sqlite+pysqlite")
    backend, _, driver = parsed.drivername.partition("+")
    if _DRIVERS.get(backend) != driver:
        raise InvalidInput.of("database", _SUPPORTED, parsed.render_as_string())
    return parsed


def _is_in_memory(url: URL) -> bool:
    return url.get_backend_name() == "sqlite" and (
        url.database in (None, "", ":memory:") or url.query.get("mode") == "memory"
    )


def _sqlite_engine(url: URL, synchronous: str, retry_budget_s: float, pool_size: int) -> Engine:
    if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
        needed = ".".join(map(str, _OLDEST_SQLITE))
        raise DatabaseUnavailable(f"SQLite {sqlite3.sqlite_version} is older than {needed}", 0.0)
    in_memory = _is_in_memory(url)
    engine = create_engine(
        url,
        isolation_level="AUTOCOMMIT",
        hide_parameters=True,
        poolclass=QueuePool,
        # A database in memory belongs to its connection: there is one, and threads take turns.
        pool_size=1 if in_memory else pool_size,
        max_overflow=0,
        pool_timeout=retry_budget_s,
        connect_args={"check_same_thread": False, "timeout": retry_budget_s},
    )

    @event.listens_for(engine, "connect")
    def configure(connection: sqlite3.Connection, _record: object) -> None:
        connection.execute("PRAGMA foreign_keys = ON")
        if not in_memory:
            connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {synchronous}")

    return engine


def _postgresql_engine(url: URL, retry_budget_s: float, pool_size: int) -> Engine:
    connect_args: dict[str, Any] = {}
    if "connect_timeout" not in url.query:
        connect_args["connect_timeout"] = max(1, math.ceil(retry_budget_s))
    try:
        engine = create_engine(
            url,
            isolation_level="AUTOCOMMIT",
            hide_parameters=True,
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=retry_budget_s,
            connect_args=connect_args,
        )
    except ModuleNotFoundError as error:
        raise InvalidInput(
            "database", "needs psycopg: pip install 'sessions-db[postgres]'", url.render_as_string()
        ) from error

    @event.listens_for(engine, "connect")
    def notice_pooler(connection: Any, _record: object) -> None:
        # PgBouncer in transaction mode sends consecutive statements to different server processes, where a statement
        # that was prepared does not exist. It also tells its clients a process id of its own making.
        if connection.execute("SELECT pg_backend_pid()").fetchone() != (connection.info.backend_pid,):
            connection.prepare_threshold = None

    return engine


# The engines to look after in a forked child.
_engines: weakref.WeakSet[Engine] = weakref.WeakSet()

# Pools that a forked child inherited. They are kept and never used: closing a SQLite connection in the child
# would touch the parent's files, and both ends of a Postgres connection are the parent's.
_inherited: list[Pool] = []


def _after_fork_in_child() -> None:
    for engine in _engines:
        # A database in memory was copied whole and stays as it is.
        if not _is_in_memory(engine.url):
            _inherited.append(engine.pool)
            engine.dispose(close=False)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)

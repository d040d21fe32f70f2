"""Connections: all that differs between the databases when connecting, and how a transaction begins.

Connections are in autocommit mode, so that an operation of one statement is one round trip; a transaction is begun
in so many words.
"""

from __future__ import annotations

import math
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import URL, Connection, Dialect, Engine, Pool, QueuePool, create_engine, event, exc, make_url

from sessions_db.errors import DatabaseUnavailable, InvalidInput, SessionsError
from sessions_db.retry import RetryBudget

_DRIVERS = {"sqlite": "pysqlite", "postgresql": "psycopg"}

# RETURNING came with SQLite 3.35, STRICT tables with 3.37.
_OLDEST_SQLITE = (3, 37, 0)


def open_engine(url: str | URL, *, synchronous: str, retry_budget_s: float, pool_size: int) -> Engine:
    """An engine of this library's own for `url`. Nothing is connected yet.

    Raises:
        InvalidInput: the URL can't be read, or names another database or driver.
    """
    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite":
        engine = _sqlite_engine(parsed, synchronous, retry_budget_s, pool_size)
    else:
        engine = _postgresql_engine(parsed, retry_budget_s, pool_size)
    _look_after(engine)
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
    adopted = engine.execution_options(isolation_level="AUTOCOMMIT")
    _look_after(adopted)
    return adopted


@contextmanager
def transaction(conn: Connection) -> Iterator[Connection]:
    """Commit what the block does, or none of it.

    Raises:
        SessionsError: a statement failed in the block, which went on all the same; nothing of it is stored.
    """
    with conn.begin():
        if conn.dialect.name != "sqlite":
            conn.exec_driver_sql("BEGIN")
        elif not _is_begun(conn):
            # The write lock is taken at once: a transaction that read first could not get it later (SQLITE_BUSY,
            # which no waiting mends) if another had written in between.
            conn.exec_driver_sql("BEGIN IMMEDIATE")
        yield conn
        if conn.dialect.name != "sqlite" and _is_aborted(conn):
            # Postgres answers COMMIT with ROLLBACK then, which no driver takes for an error.
            raise SessionsError("The transaction was rolled back, because a statement in it had failed")


def _is_aborted(conn: Connection) -> bool:
    """Whether a statement of the Postgres transaction failed."""
    driver: Any = conn.connection.driver_connection
    return bool(driver.info.transaction_status.name == "INERROR")


def _is_begun(conn: Connection) -> bool:
    """Whether a listener of the caller's own engine has begun a transaction, as SQLAlchemy's SQLite recipe does."""
    driver = conn.connection.driver_connection
    return isinstance(driver, sqlite3.Connection) and driver.in_transaction


@contextmanager
def write_turn(engine: Engine, budget: RetryBudget) -> Iterator[None]:
    """Let the threads that write to a SQLite file come one after the other; on Postgres, do nothing.

    SQLite has one writer at a time, and one that must wait sleeps and tries again. With 64 threads, taking turns brings
    the 99th percentile of an append from 520 to 94 ms.

    Raises:
        DatabaseUnavailable: the turn did not come within the budget.
    """
    turns = _turns.get(engine)
    if turns is None:
        yield
        return
    if not turns.acquire(timeout=max(0.0, budget.left_s)):
        raise DatabaseUnavailable("database is locked by another transaction of this process", budget.spent_s)
    try:
        yield
    finally:
        # The one that was acquired: after a fork the child has another.
        turns.release()


_SUPPORTED = f"must be a SQLite or Postgres URL ({', '.join(f'{name}+{driver}' for name, driver in _DRIVERS.items())})"


def parse_url(url: str | URL) -> URL:
    """The URL with the driver that this library uses.

    Raises:
        InvalidInput: it can't be read, or names another database or driver.
    """
    try:
        parsed = make_url(url)
    except (exc.ArgumentError, ValueError):
        # The text may hold a password.
        raise InvalidInput(
            "database", "must be a database URL such as sqlite:///sessions.db", "a text that can't be read as one"
        ) from None
    if parsed.drivername in ("postgres", "postgresql"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername == "sqlite":
        parsed = parsed.set(drivername="sqlite+pysqlite")
    backend, _, driver = parsed.drivername.partition("+")
    if _DRIVERS.get(backend) != driver:
        raise InvalidInput.of("database", _SUPPORTED, _shown(parsed))
    return parsed


def _shown(url: URL) -> str:
    """The URL without what may be secret: passwords stand in queries too."""
    return url.set(query={}).render_as_string()


def _is_in_memory(url: URL) -> bool:
    return url.get_backend_name() == "sqlite" and (
        url.database in (None, "", ":memory:", "file:", "file::memory:") or url.query.get("mode") == "memory"
    )


def _sqlite_engine(url: URL, synchronous: str, retry_budget_s: float, pool_size: int) -> Engine:
    if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
        needed = ".".join(map(str, _OLDEST_SQLITE))
        raise DatabaseUnavailable(f"SQLite {sqlite3.sqlite_version} is older than {needed}", 0.0)
    in_memory = _is_in_memory(url)
    engine = _create(
        url,
        poolclass=QueuePool,
        # A database in memory belongs to its connection: there is one, and threads take turns.
        pool_size=1 if in_memory else pool_size,
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
    engine = _create(url, pool_size=pool_size, pool_timeout=retry_budget_s, connect_args=connect_args)

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _record: object) -> None:
        query = "SELECT pg_backend_pid(), current_setting('lock_timeout')"
        pid, lock_timeout = connection.execute(query).fetchone()
        if pid != connection.info.backend_pid:
            # PgBouncer in transaction mode sends consecutive statements to different server processes, where a
            # statement that was prepared does not exist, and a setting would stay for other clients. It tells its
            # clients a process id of its own making.
            connection.prepare_threshold = None
        elif lock_timeout == "0":
            connection.execute(f"SET lock_timeout = {max(1, math.ceil(retry_budget_s * 1000))}")

    return engine


def _create(url: URL, **options: Any) -> Engine:
    try:
        return create_engine(url, isolation_level="AUTOCOMMIT", hide_parameters=True, max_overflow=0, **options)
    except ModuleNotFoundError as error:
        raise InvalidInput("database", "needs psycopg: pip install 'sessions-db[postgres]'", _shown(url)) from error
    except (exc.ArgumentError, TypeError, ValueError):
        raise InvalidInput("database", "must be a URL that the driver takes", _shown(url)) from None


# The engines to look after when the process forks.
_engines: weakref.WeakSet[Engine] = weakref.WeakSet()

# For each engine on a SQLite file, what its writers take turns by.
_turns: weakref.WeakKeyDictionary[Engine, threading.Lock] = weakref.WeakKeyDictionary()

# Pools that a forked child inherited from its parent. They are kept and never used: both ends of a Postgres
# connection are the parent's.
_inherited: list[Pool] = []

# Held by whoever connects to a SQLite file, and while the process forks.
_connecting = threading.Lock()

# The SQLite files to which this process inherited an open connection from its parent.
_busy: set[str] = set()

# For how long a fork waits for calls of other threads on SQLite.
_FORK_WAIT_S = 1.0


def _look_after(engine: Engine) -> None:
    _engines.add(engine)
    if _is_sqlite_file(engine):
        _turns[engine] = threading.Lock()
        event.listen(engine, "do_connect", _connect_in_turn)


def _is_sqlite_file(engine: Engine) -> bool:
    return engine.dialect.name == "sqlite" and not _is_in_memory(engine.url)


def _connect_in_turn(dialect: Dialect, _record: object, cargs: Any, cparams: Any) -> Any:
    with _connecting:
        if cargs[0] in _busy:
            raise SessionsError(f"This process was forked while {cargs[0]} was in use, so it can't use it safely")
        return dialect.connect(*cargs, **cparams)


def _before_fork() -> None:
    # SQLite keeps its locks in tables of the process. A child that inherits an open connection believes that it holds
    # the parent's locks and takes none of its own: what it commits can be lost. So none may be open.
    _connecting.acquire()
    for engine in filter(_is_sqlite_file, _engines):
        pool = engine.pool
        engine.dispose(close=False)
        if isinstance(pool, QueuePool):
            until = time.monotonic() + _FORK_WAIT_S
            while pool.checkedout() and time.monotonic() < until:
                time.sleep(0.001)
            if pool.checkedout():
                _busy.add(engine.dialect.create_connect_args(engine.url)[0][0])
        pool.dispose()


def _after_fork_in_parent() -> None:
    _busy.clear()
    _connecting.release()


def _after_fork_in_child() -> None:
    _connecting.release()
    for engine in list(_turns):
        _turns[engine] = threading.Lock()
    for engine in _engines:
        if engine.dialect.name == "postgresql":
            _inherited.append(engine.pool)
            engine.dispose(close=False)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)

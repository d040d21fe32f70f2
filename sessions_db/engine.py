"""Connections: all that differs between the databases when connecting, and how a transaction begins.

Connections are in autocommit mode, so that an operation of one statement is one round trip; a transaction is begun
in so many words.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, ExceptionContext, QueuePool, create_engine, event, exc, make_url

from sessions_db.connections import is_in_memory, look_after
from sessions_db.errors import DatabaseUnavailable, InvalidInput, SessionsError, is_read_only
from sessions_db.operations.rendered import SENT_DIRECTLY

_DRIVERS = {"sqlite": "pysqlite", "postgresql": "psycopg"}

# After a while SQLite looks for the lock only every 100 ms, and among writers that never pause it rarely finds it free:
# one of eight processes has waited for 8 s. So SQLite waits only so long, and `RetryBudget` the rest, in short naps.
_BUSY_TIMEOUT_S = 0.03
LONGEST_NAP_S = 0.02

# RETURNING came with SQLite 3.35, STRICT tables with 3.37.
_OLDEST_SQLITE = (3, 37, 0)

OLDEST_POSTGRESQL = 14
"""The oldest major version that the library works with."""


def open_engine(
    url: str | URL, *, synchronous: str, retry_budget_s: float, pool_size: int, read_only: bool = False
) -> Engine:
    """An engine of this library's own for `url`. Nothing is connected yet.

    Raises:
        InvalidInput: the URL can't be read, or names another database or driver.
    """
    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite":
        engine = _sqlite_engine(parsed, synchronous, retry_budget_s, pool_size, read_only=read_only)
    else:
        engine = _postgresql_engine(parsed, retry_budget_s, pool_size, read_only=read_only)
    look_after(engine)
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
    look_after(adopted)
    return adopted


@contextmanager
def transaction(conn: Connection, *, read_only: bool = False) -> Iterator[Connection]:
    """Commit what the block does, or none of it. If it only reads, all of its statements see one moment.

    Raises:
        SessionsError: a statement failed in the block, which went on all the same; nothing of it is stored.
    """
    root = conn.begin()
    try:
        if conn.dialect.name != "sqlite":
            conn.exec_driver_sql("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY" if read_only else "BEGIN")
        elif not _is_begun(conn):
            # The write lock is taken at once: a transaction that read first could not get it later (SQLITE_BUSY,
            # which no waiting mends) if another had written in between.
            conn.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")
        yield conn
        if is_aborted(conn):
            raise SessionsError(ROLLED_BACK)  # noqa: TRY301  # what the block did is rolled back below
        root.commit()
    except BaseException:
        _roll_back(conn)
        raise
    finally:
        root.close()


ROLLED_BACK = "The transaction was rolled back, because a statement in it had failed"


def is_aborted(conn: Connection) -> bool:
    """Whether a failed statement has undone the transaction on `conn`, or made it one that can't be committed."""
    if conn.invalidated:
        return True
    driver: Any = conn.connection.driver_connection
    if conn.dialect.name == "sqlite":
        # SQLite rolls back by itself when the disk is full or fails, and is in autocommit mode then.
        return not driver.in_transaction
    # Postgres answers COMMIT with ROLLBACK where a statement failed, which no driver takes for an error.
    return bool(driver.info.transaction_status.name == "INERROR")


def _roll_back(conn: Connection) -> None:
    # By the driver: SQLAlchemy holds that in autocommit mode there is nothing to roll back.
    if not conn.invalidated:
        try:
            conn.connection.rollback()
        except conn.dialect.loaded_dbapi.Error:
            # The connection broke. It must not go back to the pool with a transaction that may be open.
            conn.invalidate()


def _is_begun(conn: Connection) -> bool:
    """Whether a listener of the caller's own engine has begun a transaction, as SQLAlchemy's SQLite recipe does."""
    driver = conn.connection.driver_connection
    return isinstance(driver, sqlite3.Connection) and driver.in_transaction


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


def _sqlite_engine(url: URL, synchronous: str, retry_budget_s: float, pool_size: int, *, read_only: bool) -> Engine:
    if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
        needed = ".".join(map(str, _OLDEST_SQLITE))
        raise DatabaseUnavailable(f"SQLite {sqlite3.sqlite_version} is older than {needed}", 0.0)
    in_memory = is_in_memory(url)
    if read_only and in_memory:
        raise InvalidInput.of("read_only", "must be False for a database in memory, which begins empty", read_only)
    engine = _create(
        _without_writing(url) if read_only else url,
        poolclass=QueuePool,
        # A database in memory belongs to its connection: there is one, and threads take turns.
        pool_size=1 if in_memory else pool_size,
        pool_timeout=retry_budget_s,
        connect_args={
            "check_same_thread": False,
            # Who only reads waits for no writer, just for another process to recover the log after a crash.
            "timeout": retry_budget_s if read_only else min(retry_budget_s, _BUSY_TIMEOUT_S),
        },
    )

    @event.listens_for(engine, "connect")
    def configure(connection: sqlite3.Connection, _record: object) -> None:
        connection.execute("PRAGMA foreign_keys = ON")
        if not (in_memory or read_only):
            connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {synchronous}")

    return engine


def _without_writing(url: URL) -> URL:
    """The same file, which SQLite then neither creates nor changes (https://sqlite.org/uri.html)."""
    database = str(url.database)
    if not database.startswith("file:"):
        database = f"file:{quote(database)}"
    return url.set(database=database).update_query_dict({"mode": "ro", "uri": "true"})


# When a connection over TCP is given up because nothing at its other end answers any more; otherwise a call hangs for
# some 15 minutes, and one that waits for its answer for two hours. What was sent is to be acknowledged in time; while
# nothing is under way, the system asks (https://www.postgresql.org/docs/current/libpq-connect.html).
_GIVEN_UP = {"tcp_user_timeout": 10_000, "keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3}


def _postgresql_engine(url: URL, retry_budget_s: float, pool_size: int, *, read_only: bool) -> Engine:
    patience = {"connect_timeout": max(1, math.ceil(retry_budget_s)), **_GIVEN_UP}
    connect_args = {name: value for name, value in patience.items() if name not in url.query}
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
            return
        if lock_timeout == "0":
            connection.execute(f"SET lock_timeout = {max(1, math.ceil(retry_budget_s * 1000))}")
        if read_only:
            connection.execute("SET default_transaction_read_only = on")

    @event.listens_for(engine, "handle_error")
    def leave_a_standby(context: ExceptionContext) -> None:
        # The primary stepped down while its connections stayed. The pool's are all to be replaced: a URL with
        # several hosts and target_session_attrs, or a name that leads elsewhere by now, finds the new one.
        if is_read_only(context.original_exception):
            context.is_disconnect = True

    return engine


def _create(url: URL, **options: Any) -> Engine:
    try:
        return create_engine(
            url,
            isolation_level="AUTOCOMMIT",
            execution_options={SENT_DIRECTLY: True},
            # psycopg takes as long for a rollback of nothing as the pool takes for the rest of its work. A transaction
            # that was begun is rolled back by `transaction`, or its connection is dropped.
            skip_autocommit_rollback=True,
            pool_reset_on_return=None,
            hide_parameters=True,
            max_overflow=0,
            **options,
        )
    except ModuleNotFoundError as error:
        raise InvalidInput("database", "needs psycopg: pip install 'sessions-db[postgres]'", _shown(url)) from error
    except (exc.ArgumentError, TypeError, ValueError):
        raise InvalidInput("database", "must be a URL that the driver takes", _shown(url)) from None

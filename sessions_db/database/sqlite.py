"""SQLite: how to connect, lock, retry and locate."""

from __future__ import annotations

import sqlite3
import time
import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final

from sqlalchemy import URL, Connection, Engine, QueuePool, StaticPool, event, exc, text

from sessions_db.database.backend import DROPPED, NOT_OURS, NUMBER_TAKEN, Backend, EngineOptions
from sessions_db.database.connecting import FilePool
from sessions_db.database.paths import explain, path_of, with_resolved_path, without_creating
from sessions_db.database.sqlite_checks import CHECKS
from sessions_db.database.sqlite_identity import hold_to_file, is_same_file, require_same_file
from sessions_db.database.statement import Statement
from sessions_db.errors import DatabaseUnavailable, InvalidInput

# SQLite soon polls for the lock only every 100 ms, and rarely finds it free among writers that never pause: one of
# eight processes waited for 8 s (measured once). So SQLite waits only this long, and the retry budget covers the rest.
_BUSY_TIMEOUT_S: Final = 0.03

# Somebody else's database, and an empty file, keep their journal mode unless a schema is created in them.
_IS_OURS: Final = "SELECT 1 FROM sqlite_master WHERE name = 'sessions_db_version'"

_BEGIN = Statement(lambda _: text("BEGIN"))
_DATA_VERSION = Statement(lambda _: text("PRAGMA data_version"))
_BEGIN_IMMEDIATE = Statement(lambda _: text("BEGIN IMMEDIATE"))

# RETURNING came with SQLite 3.35, STRICT tables with 3.37.
_OLDEST: Final = (3, 37, 0)

# How many instructions SQLite runs between two looks at the clock: about a tenth of a millisecond.
_INSTRUCTIONS: Final = 10_000


class SQLite(Backend):
    """SQLite, through Python's own `sqlite3`."""

    name = "sqlite"
    driver = "pysqlite"
    is_on_a_server = False
    longest_wait_s = 0.02
    groups_at_once = 1
    database_bytes = text("SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()")
    transaction_settings = ("isolation_level",)
    checks = CHECKS

    def engine_arguments(self, url: URL, options: EngineOptions) -> tuple[URL, dict[str, Any]]:
        """The URL and the arguments for `sqlalchemy.create_engine`."""
        if sqlite3.sqlite_version_info < _OLDEST:
            needed = ".".join(map(str, _OLDEST))
            raise DatabaseUnavailable(f"SQLite {sqlite3.sqlite_version} is older than {needed}", 0.0)
        in_memory = self.is_in_memory(url)
        if not in_memory:
            url = with_resolved_path(url)
        if options.read_only or not options.create:
            if in_memory:
                argument, needed = ("read_only", "False") if options.read_only else ("create", "True")
                raise InvalidInput(
                    argument, f"must be {needed} for a database in memory, which begins empty", options.read_only
                )
            url = without_creating(url, read_only=options.read_only)
        return url, {
            "poolclass": QueuePool if in_memory else FilePool,
            # A database in memory belongs to its connection, so there is only one connection, and threads wait for it.
            "pool_size": 1 if in_memory else options.pool_size,
            "connect_args": {
                "check_same_thread": False,
                # A reader never waits for a writer, only for a process that is recovering the file after a crash.
                "timeout": options.retry_budget_s
                if options.read_only
                else min(options.retry_budget_s, _BUSY_TIMEOUT_S),
            },
        }

    def configure(self, engine: Engine, options: EngineOptions) -> None:
        """Set the pragmas of each new connection."""
        in_wal_mode = not (options.read_only or self.is_in_memory(engine.url))
        if (file := self.file(engine)) is not None:
            hold_to_file(engine, file)

        @event.listens_for(engine, "connect")
        def set_pragmas(connection: sqlite3.Connection, _record: object) -> None:
            try:
                connection.execute("PRAGMA foreign_keys = ON")
                if in_wal_mode and (options.create or connection.execute(_IS_OURS).fetchone()):
                    connection.execute("PRAGMA journal_mode = WAL")
                connection.execute(f"PRAGMA synchronous = {options.synchronous}")
                # Its copies of pages, to undo a statement, took more writes than an import itself (counted once).
                connection.execute("PRAGMA temp_store = MEMORY")
            except sqlite3.DatabaseError as error:
                explain(error, self.file(engine), read_only=options.read_only)
                raise

    def unfit(self, conn: Connection, *, read_only: bool) -> str | None:
        """What the engine must be: one for the database in its URL, whose transactions are begun by SQL."""
        driver: Any = conn.connection.driver_connection
        # Python 3.12 has this attribute. With True its `rollback` and `commit` do nothing, with False it begins
        # transactions that others do not end.
        legacy = getattr(sqlite3, "LEGACY_TRANSACTION_CONTROL", None)
        if getattr(driver, "autocommit", legacy) != legacy:
            return "must have connections whose `autocommit` is sqlite3.LEGACY_TRANSACTION_CONTROL, the default"
        found = conn.exec_driver_sql("PRAGMA database_list").all()[0][2]
        if (path_of(found) if found else None) != self.file(conn.engine):
            # A `creator` opens another, or the path is relative and the working directory has changed.
            return f"must have a URL with the path of what its connections open, {found or 'a database in memory'}"
        url = conn.engine.url
        if not found and not isinstance(conn.engine.pool, StaticPool) and url.query.get("cache") != "shared":
            return "must have poolclass=StaticPool, or each thread would have a database in memory of its own"
        return None

    def is_in_memory(self, url: URL) -> bool:
        """Whether the database disappears when its only connection closes."""
        no_file = url.database in (None, "", ":memory:", "file:", "file::memory:")
        return no_file or url.query.get("mode") == "memory"

    def file(self, engine: Engine) -> str | None:
        """The path of the database's file, as it was when this was first asked."""
        if self.is_in_memory(engine.url):
            return None
        # An engine of the caller's has a relative path in its URL, and the working directory may change.
        if (path := _paths.get(engine)) is None:
            path = _paths[engine] = path_of(engine.dialect.create_connect_args(engine.url)[0][0])
        return path

    def describe(self, conn: Connection) -> str:
        """The version of SQLite."""
        return f"SQLite {sqlite3.sqlite_version}"

    def settings_cure(self, conn: Connection) -> str | None:
        """What to do about triggers that are off; Python can tell since 3.12."""
        driver: Any = conn.connection.driver_connection
        trigger = getattr(sqlite3, "SQLITE_DBCONFIG_ENABLE_TRIGGER", None)
        return None if trigger is None or driver.getconfig(trigger) else "triggers are off: set ENABLE_TRIGGER"

    def data_version(self, conn: Connection) -> int | None:
        """SQLite's own number, which costs less than a query (https://sqlite.org/pragma.html#pragma_data_version)."""
        require_same_file(conn)
        return int(_DATA_VERSION.rows(conn, {})[0][0])

    def begin(self, conn: Connection, *, read_only: bool) -> None:
        """Begin a transaction, unless the caller's own engine has done so, as in SQLAlchemy's SQLite recipe."""
        # The write lock is taken at once: a transaction that first reads could not get it later if another one had
        # written in between (SQLITE_BUSY, which waiting does not resolve).
        if not _is_in_transaction(conn):
            (_BEGIN if read_only else _BEGIN_IMMEDIATE).rows(conn, {})

    def reading_only(self, conn: Connection) -> AbstractContextManager[None]:
        """Refuse statements that write: SQLite has no read-only transactions."""
        return _with_pragmas(conn, query_only="ON")

    @contextmanager
    def time_limit(self, conn: Connection, seconds: float) -> Iterator[None]:
        """End statements within the block once so many seconds have passed since it began."""
        driver: Any = conn.connection.driver_connection
        deadline = time.monotonic() + seconds
        driver.set_progress_handler(lambda: time.monotonic() > deadline, _INSTRUCTIONS)
        try:
            yield
        finally:
            if not conn.invalidated:
                driver.set_progress_handler(None, 0)

    def replacing_tables(self, conn: Connection) -> AbstractContextManager[None]:
        """Let Alembic's batch mode copy a table, drop the original and rename the copy.

        With foreign keys on, the DROP would also delete the rows that refer to the table: for `sessions`, messages and
        labels. Without `legacy_alter_table`, the RENAME would fail, because views and other tables' triggers refer to a
        table that does not exist at that moment. See https://sqlite.org/lang_altertable.html#otheralter
        What sorts a whole table for an index may need more than the memory.
        """
        return _with_pragmas(conn, foreign_keys="OFF", legacy_alter_table="ON", temp_store="DEFAULT")

    def is_usable(self, conn: Connection) -> bool:
        """Whether its file was neither removed nor replaced."""
        return is_same_file(conn)

    def is_aborted(self, conn: Connection) -> bool:
        """Whether SQLite has rolled back on its own, as it does when the disk is full or fails."""
        return not _is_in_transaction(conn)

    def is_idle(self, conn: Connection) -> bool:
        """Whether the connection is in no transaction: a statement is never left halfway."""
        return not _is_in_transaction(conn)

    def lock_migrations(self, conn: Connection) -> None:
        """Do nothing: BEGIN IMMEDIATE already holds the one write lock."""

    def lock_table(self, conn: Connection, table: str, mode: str) -> None:
        """Do nothing: BEGIN IMMEDIATE already holds the one write lock."""

    def is_rolled_back(self, error: exc.DBAPIError) -> bool:
        """Whether SQLite could not get a lock."""
        # The low byte is the primary result code: BUSY_SNAPSHOT, BUSY_RECOVERY and the like count as BUSY.
        code = getattr(error.orig, "sqlite_errorcode", None)
        return code is not None and code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)

    def is_out_of_time(self, error: exc.DBAPIError) -> bool:
        """Whether a time limit ended the statement."""
        return getattr(error.orig, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT

    def is_forbidden(self, error: exc.DBAPIError) -> bool:
        """Never: SQLite has no users."""
        return False

    def is_transient_refusal(self, error: exc.DBAPIError) -> bool:
        """Whether SQLite could not get a lock while connecting."""
        return self.is_rolled_back(error)

    def schema_cure(self, error: exc.DBAPIError) -> str | None:
        """What to do, judged by the text: SQLite has only a generic error code for this."""
        message = str(error.orig)
        if isinstance(error.orig, sqlite3.IntegrityError) and "messages.session_key, messages.seq" in message:
            return NUMBER_TAKEN
        if not isinstance(error.orig, sqlite3.OperationalError):
            return None
        if message.startswith(("no such table", "no such column")) or " has no column " in message:
            return DROPPED
        return NOT_OURS if message.endswith("already exists") else None


_paths: weakref.WeakKeyDictionary[Engine, str] = weakref.WeakKeyDictionary()


@contextmanager
def _with_pragmas(conn: Connection, **settings: str) -> Iterator[None]:
    # Through the driver: a statement through SQLAlchemy would begin its transaction.
    driver: Any = conn.connection.driver_connection
    before = {name: driver.execute(f"PRAGMA {name}").fetchone()[0] for name in settings}
    try:
        for name, value in settings.items():
            driver.execute(f"PRAGMA {name} = {value}")
        yield
    finally:
        if not conn.invalidated:
            for name, value in before.items():
                driver.execute(f"PRAGMA {name} = {value}")


def _is_in_transaction(conn: Connection) -> bool:
    driver: Any = conn.connection.driver_connection
    return bool(driver.in_transaction)

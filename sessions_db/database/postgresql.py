"""Postgres: how to connect, lock, retry and locate."""

from __future__ import annotations

import logging
import math
import re
import select
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from sqlalchemy import URL, Connection, Engine, ExceptionContext, event, exc, text

from sessions_db.database import pgbouncer
from sessions_db.database.backend import DROPPED, NOT_OURS, NUMBER_TAKEN, SCHEMA, Backend, EngineOptions, value
from sessions_db.database.postgresql_checks import CHECKS
from sessions_db.database.postgresql_pinning import pin, pin_again
from sessions_db.errors import InvalidInput, SchemaMismatch

_log = logging.getLogger("sessions_db")

# Any constant will do, as long as nothing else in the database takes the same advisory lock.
_ADVISORY_LOCK: Final = 0x5E5510_0DB

# When to give up on a TCP connection whose peer no longer answers. Without these, Linux lets a call hang for some 15
# minutes, or two hours if it only waits for an answer. The first limits how long sent data may stay unacknowledged; the
# others probe an idle connection (https://www.postgresql.org/docs/current/libpq-connect.html).
_DEAD_PEER: Final = {
    "tcp_user_timeout": 10_000,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
}

# What a connection's `info` says of it.
_WAITS_BRIEFLY: Final = "sessions_db_waits_briefly"

# The schema in which search_path finds the tables, or else the one in which they would be created.
_FOUND_IN: Final = """\
coalesce(
  (SELECT relnamespace::regnamespace::text FROM pg_class WHERE oid = to_regclass('sessions_db_version')),
  quote_ident(current_schema())
)"""

# Of a new connection.
_STATE: Final = f"""\
SELECT pg_backend_pid(), current_setting('lock_timeout'), current_setting('citus.version', true), {_FOUND_IN},
  quote_ident(%s), current_setting('search_path')"""

# Error codes (PostgreSQL manual, appendix A). This one means that the server is a standby, at least for now.
_READ_ONLY_TRANSACTION: Final = "25006"
_QUERY_CANCELED: Final = "57014"
_INSUFFICIENT_PRIVILEGE: Final = "42501"
_LOCK_NOT_AVAILABLE: Final = "55P03"

# After serialization_failure, deadlock_detected and lock_not_available the server has rolled the statement back. The
# two time-outs end a connection in which no statement is running.
_ROLLED_BACK: Final = frozenset({"40001", "40P01", _LOCK_NOT_AVAILABLE, "57P05", "25P03", _READ_ONLY_TRANSACTION})
# Citus reports these on a connection that goes on: its own one to another node failed, perhaps after a commit there.
_CONNECTION_FAILURES: Final = frozenset({"08006", "57P01", "57P02"})
_INTERNAL_ERROR: Final = "XX000"
_UNDEFINED: Final = frozenset({"42P01", "42703"})  # table, column
_DUPLICATE: Final = frozenset({"42P07", "42710", "42723"})  # table, object, function

# What a server says while starting, stopping or full, as opposed to a wrong password or database name, where waiting
# does not help. For a failed connection libpq gives no error code, only a text.
_TRANSIENT_REFUSALS: Final = (
    "starting up",
    "shutting down",
    "recovery mode",
    "not yet accepting connections",
    "too many clients",
    "too many connections",
    "remaining connection slots",
    *pgbouncer.REFUSALS,
)


class PostgreSQL(Backend):
    """Postgres, through psycopg 3."""

    name = "postgresql"
    driver = "psycopg"
    is_on_a_server = True
    longest_wait_s = 1.0
    groups_at_once = 2
    database_bytes = text("SELECT pg_database_size(current_database())")
    transaction_settings = ("autocommit", "isolation_level")
    checks = CHECKS

    def engine_arguments(self, url: URL, options: EngineOptions) -> tuple[URL, dict[str, Any]]:
        """The URL and the arguments for `sqlalchemy.create_engine`. Settings in the URL take precedence."""
        if options.schema is not None and "search_path" in str(url.query.get("options", "")):
            raise InvalidInput("schema", "must be None where the URL's options set a search_path", options.schema)
        timeouts = {"connect_timeout": max(1, math.ceil(options.retry_budget_s)), **_DEAD_PEER}
        return url, {
            "pool_size": options.pool_size,
            "connect_args": {name: value for name, value in timeouts.items() if name not in url.query},
        }

    def configure(self, engine: Engine, options: EngineOptions) -> None:
        """Set up each new connection, and replace all of them when the server has become a standby."""
        first: str | None = None

        @event.listens_for(engine, "connect")
        def set_up(connection: Any, record: Any) -> None:
            nonlocal first
            pid, lock_timeout, citus, found, named, path = connection.execute(_STATE, [options.schema]).fetchone()
            pooled = pgbouncer.is_pooled(connection, pid)
            if pooled:
                pgbouncer.require_schema(connection, named, found, path)
            elif named is not None:
                pin(connection, record, named)
                found = named
            # Citus does not send the setting on to the node that waits.
            record.info[_WAITS_BRIEFLY] = citus is None
            first = first or found
            if found != first:
                # Since the first connection, the search_path of the role was changed, or a schema was created for it.
                connection.close()
                cure = f"search_path leads to the schema {found} now, and led to {first} before: set it to one of them"
                raise SchemaMismatch(None, None, cure)
            if pooled:
                # Consecutive statements may go to different server processes: a prepared statement would not exist
                # there, and a setting would leak to other clients.
                connection.prepare_threshold = None
                _log.info("PgBouncer noticed: connections prepare no statements and set no lock_timeout")
                return
            for setting in _settings(options, lock_timeout, citus):
                connection.execute(f"SET {setting}")

        event.listen(engine, "checkin", pin_again)

        @event.listens_for(engine, "handle_error")
        def leave_a_standby(context: ExceptionContext) -> None:
            # The primary stepped down while its connections stayed open. All in the pool must be replaced: a URL with
            # several hosts and target_session_attrs, or a DNS name that was moved, leads to the new primary.
            if _state(context.original_exception) == _READ_ONLY_TRANSACTION and not options.read_only:
                _log.warning("The server takes no writes, it may be a standby now: its connections are replaced")
                context.is_disconnect = True

    def unfit(self, conn: Connection, *, read_only: bool) -> str | None:
        """What the engine must be: not one that would write though meant for reading, nor one that PgBouncer breaks."""
        driver: Any = conn.connection.driver_connection
        if driver.read_only and not read_only:
            # psycopg heeds the attribute only in transactions that it begins itself.
            return "must not be read-only, unless read_only=True"
        return pgbouncer.unfit(driver, value(conn, "SELECT pg_backend_pid()"), value(conn, "SHOW search_path"))

    def is_in_memory(self, url: URL) -> bool:
        """Never."""
        return False

    def file(self, engine: Engine) -> str | None:
        """None: the server holds the locks."""
        return None

    def describe(self, conn: Connection) -> str:
        """The version of the server."""
        return f"PostgreSQL {value(conn, 'SHOW server_version')}"

    def create_schema(self, conn: Connection) -> None:
        """Create it where search_path, which begins with it, leads to none."""
        name = conn.get_execution_options().get(SCHEMA)
        if name is not None and value(conn, "SELECT current_schema()") is None:
            if value(conn, "SELECT current_setting('citus.version', true)") is not None:
                conn.exec_driver_sql("SET LOCAL citus.enable_schema_based_sharding = on")
            conn.exec_driver_sql(
                f"CREATE SCHEMA IF NOT EXISTS {conn.dialect.identifier_preparer.quote_identifier(name)}"
            )

    def settings_cure(self, conn: Connection) -> str | None:
        """What to do about a search_path that finds one schema and writes to another, or triggers that are off."""
        query = f"SELECT {_FOUND_IN}, quote_ident(current_schema()), current_setting('session_replication_role')"
        found, first, role = conn.exec_driver_sql(query).one()
        if found != first:
            # What a migration creates would be in the first schema, and so would tables that somebody creates later.
            return (
                f"the tables are in the schema {found}, but search_path begins with {first}: set it to {found} alone, "
                f"or to {first} alone and create the tables there"
            )
        return "session_replication_role is replica, so no trigger fires: reset it" if role == "replica" else None

    def begin(self, conn: Connection, *, read_only: bool) -> None:
        """Begin a transaction."""
        conn.exec_driver_sql("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY" if read_only else "BEGIN")

    @contextmanager
    def time_limit(self, conn: Connection, seconds: float) -> Iterator[None]:
        """End each statement of the transaction, from now on, that takes longer than this."""
        conn.exec_driver_sql(f"SET LOCAL statement_timeout = {max(1, math.ceil(seconds * 1000))}")
        yield

    def is_aborted(self, conn: Connection) -> bool:
        """Whether a statement failed."""
        # Postgres then answers COMMIT with ROLLBACK, which no driver treats as an error.
        return _transaction_status(conn) == "INERROR"

    def is_idle(self, conn: Connection) -> bool:
        """Whether the connection is in no transaction, and no answer to a statement is outstanding."""
        return _transaction_status(conn) == "IDLE"

    def waits_briefly(self, conn: Connection) -> bool:
        """Whether it was found so when the connection was set up, as one of the library's own engine."""
        return bool(conn.info.get(_WAITS_BRIEFLY))

    def is_usable(self, conn: Connection) -> bool:
        """Whether the server has said nothing since the last statement: what it says is that it ends the connection.

        Looking costs a hundredth of a read. Without it, the first write after a restart of the server would meet the
        end of the connection, and nobody could say whether it was committed.
        """
        driver: Any = conn.connection.driver_connection
        return not select.select([driver.fileno()], [], [], 0)[0]

    def lock_migrations(self, conn: Connection) -> None:
        """Take an advisory lock. From then on, a table in use is waited for only so long that services can bear it."""
        conn.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_ADVISORY_LOCK})")
        # It is unset behind PgBouncer and on engines of callers.
        unset = "current_setting('lock_timeout') = '0'"
        conn.exec_driver_sql(f"SELECT set_config('lock_timeout', '10s', true) WHERE {unset}")

    def lock_table(self, conn: Connection, table: str, mode: str) -> None:
        """Lock the table."""
        conn.exec_driver_sql(f"LOCK TABLE {table} IN {mode} MODE")

    def lock_name(self, conn: Connection, name: str) -> None:
        """Take an advisory lock, which is of the schema: one for the whole database would be held for its tenants."""
        lock = "SELECT pg_advisory_xact_lock(hashtextextended(concat(current_schema(), '.', %s::text), %s::bigint))"
        conn.exec_driver_sql(lock, (name, _ADVISORY_LOCK))

    def is_rolled_back(self, error: exc.DBAPIError) -> bool:
        """Whether the error's code says so, or that the server never got it."""
        return _state(error.orig) in _ROLLED_BACK or pgbouncer.is_unsent(error.orig)

    def is_out_of_time(self, error: exc.DBAPIError) -> bool:
        """Whether the error's code says so."""
        return _state(error.orig) == _QUERY_CANCELED

    def is_forbidden(self, error: exc.DBAPIError) -> bool:
        """Whether the error's code says so."""
        return _state(error.orig) == _INSUFFICIENT_PRIVILEGE

    def is_lock_timeout(self, error: exc.DBAPIError) -> bool:
        """Whether the error's code says so."""
        return _state(error.orig) == _LOCK_NOT_AVAILABLE

    def is_lost(self, error: exc.DBAPIError) -> bool:
        """Whether the connection broke, or one that Citus has to another node."""
        return (
            error.connection_invalidated
            or _state(error.orig) in _CONNECTION_FAILURES
            or _is_of_another_node(error.orig)
        )

    def is_transient_refusal(self, error: exc.DBAPIError) -> bool:
        """Whether the server is starting, stopping, full or out of reach."""
        if not isinstance(error, exc.OperationalError):  # a URL that psycopg can't read
            return False
        message = str(error.orig)
        return "FATAL" not in message or any(refusal in message for refusal in _TRANSIENT_REFUSALS)

    def schema_cure(self, error: exc.DBAPIError) -> str | None:
        """What to do, judged by the error's code."""
        state = _state(error.orig)
        if state in _UNDEFINED:
            return DROPPED
        if state in _DUPLICATE:
            return NOT_OURS
        taken = isinstance(error, exc.IntegrityError) and re.search("pk_messages", str(error.orig))
        return NUMBER_TAKEN if taken else None


def _settings(options: EngineOptions, lock_timeout: str, citus: str | None) -> Iterator[str]:
    """What is set on a new connection."""
    if lock_timeout == "0":
        yield f"lock_timeout = {max(1, math.ceil(options.retry_budget_s * 1000))}"
    if citus is not None:
        # The actor is a setting, and the triggers that log it run on other nodes.
        yield "citus.propagate_set_commands = 'local'"
    if options.read_only:
        yield "default_transaction_read_only = on"


def _transaction_status(conn: Connection) -> str:
    driver: Any = conn.connection.driver_connection
    return str(driver.info.transaction_status.name)


def _is_of_another_node(error: Any) -> bool:
    """Whether Citus says, without a code of its own, that a statement or a commit failed on another node."""
    return _state(error) == _INTERNAL_ERROR and (
        "while executing command on" in (error.diag.context or "")
        or "could not commit transaction" in (error.diag.message_primary or "")
    )


def _state(error: BaseException | None) -> str | None:
    return getattr(error, "sqlstate", None)

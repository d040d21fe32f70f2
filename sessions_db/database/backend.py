"""What the two databases do differently when connecting, locking, retrying and locating: one method for each.

`SQLite` and `PostgreSQL` are the only two. A third is not planned: triggers enforce what the schema promises, and they
would have to be written, and attacked in tests, all over again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, Final, TypeAlias

from sqlalchemy import URL, Connection, Engine, TextClause, exc

from sessions_db.enums import Severity

Check: TypeAlias = Callable[[Connection], tuple[Severity, str]]
"""One of the doctor's checks: how serious it is, and what was found, in one line."""

# What `schema_cure` returns.
DROPPED: Final = "something was dropped since the schema was made, restore it from a backup"
NOT_OURS: Final = "it is not this library's, use a database of its own"
NUMBER_TAKEN: Final = "the trigger messages_append is missing or disabled, or last_seq was changed by hand"


SCHEMA: Final = "sessions_db_schema"
"""The execution option of the library's own engines that holds `EngineOptions.schema`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """How the library opens its own engine."""

    synchronous: str = "FULL"
    retry_budget_s: float = 10.0
    pool_size: int = 10
    read_only: bool = False
    create: bool = True
    schema: str | None = None


class Backend(ABC):
    """One of the two databases."""

    name: ClassVar[str]
    """SQLAlchemy's name for the dialect."""

    driver: ClassVar[str]
    """SQLAlchemy's name for the one supported driver."""

    is_on_a_server: ClassVar[bool]
    """Whether the database is a server, which holds the locks, or a file that this process opens."""

    longest_wait_s: ClassVar[float]
    """The longest wait between two attempts."""

    groups_at_once: ClassVar[int]
    """How many groups of appends a manager stores at the same time."""

    database_bytes: ClassVar[TextClause]
    """The query for the size of the database, in bytes."""

    transaction_settings: ClassVar[tuple[str, ...]]
    """The attributes of the driver's connections by which SQLAlchemy sets an isolation level."""

    checks: ClassVar[Mapping[str, Check]]
    """The doctor's checks of how a database of this kind is set up, by name."""

    # Connecting

    @abstractmethod
    def engine_arguments(self, url: URL, options: EngineOptions) -> tuple[URL, dict[str, Any]]:
        """The URL and the arguments for `sqlalchemy.create_engine`.

        Raises:
            InvalidInput, DatabaseUnavailable: no engine can be made from them.
        """

    @abstractmethod
    def configure(self, engine: Engine, options: EngineOptions) -> None:
        """Arrange for each new connection of the library's own engine to be set up."""

    @abstractmethod
    def unfit(self, conn: Connection, *, read_only: bool) -> str | None:
        """What an engine of the caller's, which made the connection, must be for this library; None if it is."""

    # Locating

    @abstractmethod
    def is_in_memory(self, url: URL) -> bool:
        """Whether the database disappears when its only connection closes."""

    @abstractmethod
    def file(self, engine: Engine) -> str | None:
        """The file whose locks the process holds; None where a server holds the locks, or the database is in memory."""

    @abstractmethod
    def describe(self, conn: Connection) -> str:
        """The database's product and version."""

    def create_schema(self, conn: Connection) -> None:  # noqa: B027  # SQLite has none
        """Create the schema that `EngineOptions` named, if there is none of this name yet."""

    def settings_cure(self, conn: Connection) -> str | None:
        """What to do about settings with which the schema found is not the one written to; None if there are none."""
        return None

    # Transactions and locks

    def data_version(self, conn: Connection) -> int | None:
        """A number that differs from the last one on this connection if another one has committed since; or None."""
        return None

    @abstractmethod
    def begin(self, conn: Connection, *, read_only: bool) -> None:
        """Begin a transaction on a connection in autocommit mode; a read-only one sees a single snapshot."""

    def reading_only(self, conn: Connection) -> AbstractContextManager[None]:
        """Refuse writes within the block, where `begin` does not already."""
        return nullcontext()

    @abstractmethod
    def time_limit(self, conn: Connection, seconds: float) -> AbstractContextManager[None]:
        """End each statement of the block, which is part of a transaction, that takes longer than this."""

    def replacing_tables(self, conn: Connection) -> AbstractContextManager[None]:
        """Let a migration replace a table within the block without affecting what refers to it."""
        return nullcontext()

    @abstractmethod
    def is_aborted(self, conn: Connection) -> bool:
        """Whether a failed statement has rolled back the transaction, or left it unable to commit."""

    @abstractmethod
    def is_idle(self, conn: Connection) -> bool:
        """Whether the connection is in no transaction and in no statement, so that another call may use it."""

    def waits_briefly(self, conn: Connection) -> bool:
        """Whether a statement on this connection can set its own `lock_timeout`."""
        return False

    def is_usable(self, conn: Connection) -> bool:
        """Whether a connection that lay unused can still be used, as far as can be told without sending anything."""
        return True

    @abstractmethod
    def lock_migrations(self, conn: Connection) -> None:
        """Make other migrations wait until the transaction ends."""

    @abstractmethod
    def lock_table(self, conn: Connection, table: str, mode: str) -> None:
        """Lock the table until the transaction ends; `mode` is Postgres's name for the kind of lock."""

    def lock_name(self, conn: Connection, name: str) -> None:  # noqa: B027  # SQLite's one write lock is held already
        """Make others that lock this name wait until the transaction, which writes, ends."""

    # Errors

    @abstractmethod
    def is_rolled_back(self, error: exc.DBAPIError) -> bool:
        """Whether the database is known to have undone the statement, so that repeating it is safe."""

    def is_lock_timeout(self, error: exc.DBAPIError) -> bool:
        """Whether the statement waited too long for a lock."""
        return False

    def is_lost(self, error: exc.DBAPIError) -> bool:
        """Whether a connection broke, so that nobody knows whether what was sent before was done."""
        return error.connection_invalidated

    @abstractmethod
    def is_out_of_time(self, error: exc.DBAPIError) -> bool:
        """Whether a time limit ended the statement."""

    @abstractmethod
    def is_forbidden(self, error: exc.DBAPIError) -> bool:
        """Whether the login may not do this."""

    @abstractmethod
    def is_transient_refusal(self, error: exc.DBAPIError) -> bool:
        """Whether retrying a refused connection may succeed."""

    @abstractmethod
    def schema_cure(self, error: exc.DBAPIError) -> str | None:
        """What to do about a schema object that is missing or in the way; None for any other error."""


def value(conn: Connection, sql: str) -> object:
    """The only value of the only row."""
    return conn.exec_driver_sql(sql).scalar_one()

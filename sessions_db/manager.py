"""`SessionManager`: the sessions of a database, each operation a transaction of its own or part of a group."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

from sqlalchemy import URL, Engine, exc

from sessions_db import validation
from sessions_db.calls import Calls
from sessions_db.database import EngineOptions
from sessions_db.database import migrate as migrations
from sessions_db.database.adoption import adopt, require_fit
from sessions_db.database.backend import SCHEMA
from sessions_db.database.connections import PoolStatus
from sessions_db.database.engine import open_engine
from sessions_db.database.urls import shown
from sessions_db.errors import DatabaseUnavailable, InvalidInput, SessionsError, Shown, StatementRefused
from sessions_db.group_commit.storing import GroupCommit
from sessions_db.limits import DEFAULT_MESSAGE_CAP, DEFAULT_POLL_INTERVAL_S
from sessions_db.models import Message
from sessions_db.operations.appending_together import Append
from sessions_db.operations.operation import Operation
from sessions_db.store import SessionStore
from sessions_db.transaction import Transaction
from sessions_db.waiting.board import Board
from sessions_db.waiting.methods import Waiting, wait_in_thread
from sessions_db.waiting.polling import Polling
from sessions_db.waiting.waits import Wait

_P = ParamSpec("_P")
_T = TypeVar("_T")


class SessionManager(SessionStore, Waiting):
    """The sessions, messages and labels of a database. Thread-safe and fork-safe.

    Opening creates the schema in an empty database, unless told not to, and refuses one whose schema does not fit.

    Args:
        database: a URL (`sqlite:///sessions.db`, `sqlite://` for one in memory, `postgresql://…`), or the
            caller's own SQLAlchemy `Engine`, which keeps its settings and which `close` leaves open.
        schema: on Postgres, the schema that holds everything, created if it is missing. Every connection is pinned to
            it, whatever search_path the role has. Behind PgBouncer nothing can be pinned, and another one is refused.
        create: create what is missing: a SQLite file, the schema in an empty database. With False it is refused.
        migrate: upgrade a database that an older release made, instead of refusing it.
        message_cap: how many messages a new session retains, unless the spawn call says otherwise.
        archive_trimmed: move the messages that a new session no longer retains to `archived_messages` instead of
            deleting them, unless the spawn call says otherwise.
        actor: the name under which the log (`session_events`) records what is done through this manager. Without
            one it is the database user on Postgres, and nobody on SQLite.
        read_only: change nothing and create nothing: operations that write raise `ReadOnly`. A SQLite file is opened
            for reading only; on Postgres the connections are read-only too, except behind PgBouncer.
        synchronous: SQLite's durability: `"FULL"` keeps every committed append after a power loss, `"NORMAL"` is
            faster and may lose the last ones (but never stores part of one).
        retry_budget_s: seconds that a call waits for a lock and for a connection before `DatabaseUnavailable`. On
            Postgres it is also the `lock_timeout`, unless one is set.
        pool_size: the most connections that are kept open; further threads wait for one.
        poll_interval: seconds within which those who wait notice what other processes commit. Polling takes one more
            connection, while somebody waits.

    Raises:
        InvalidInput: an argument is not valid.
        SchemaMismatch: the database is at another revision.
        DatabaseUnavailable: it can't be reached.
    """

    def __init__(
        self,
        database: str | URL | Engine,
        *,
        schema: str | None = None,
        create: bool = True,
        migrate: bool = False,
        message_cap: int = DEFAULT_MESSAGE_CAP,
        archive_trimmed: bool = False,
        actor: str | None = None,
        read_only: bool = False,
        synchronous: str = "FULL",
        retry_budget_s: float = 10.0,
        pool_size: int = 10,
        poll_interval: float = DEFAULT_POLL_INTERVAL_S,
    ) -> None:
        super().__init__(message_cap=message_cap, archive_trimmed=archive_trimmed, actor=actor)
        self._read_only = validation.flag("read_only", read_only)
        if validation.flag("migrate", migrate) and read_only:
            raise InvalidInput("migrate", "must be False where read_only is True", migrate)
        if synchronous not in ("FULL", "NORMAL"):
            raise InvalidInput("synchronous", "must be 'FULL' or 'NORMAL'", synchronous)
        if schema is not None and isinstance(database, Engine):
            raise InvalidInput("schema", "must be None for an engine of your own: set its search_path", schema)
        options = EngineOptions(
            schema=validation.optional_schema_name(schema),
            synchronous=synchronous,
            retry_budget_s=validation.seconds("retry_budget_s", retry_budget_s),
            pool_size=validation.pool_size(pool_size),
            read_only=read_only,
            create=validation.flag("create", create),
        )
        interval_s = validation.poll_interval(poll_interval)
        self._engine = open_engine(database, options) if isinstance(database, str | URL) else adopt(database)
        self._calls = Calls(
            self._engine,
            owned=isinstance(database, str | URL),
            actor=self._actor,
            read_only=read_only,
            retry_budget_s=options.retry_budget_s,
        )
        self._connections = self._calls.connections
        self._group_commit = GroupCommit(self._calls)
        self._board = Board()
        self._polling = Polling(self._calls, self._board, interval_s)
        try:
            self._found_revision = self._ensure_schema(create=create and not read_only, migrate=migrate)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        url, cap = shown(self._engine.url), self._message_cap
        if (schema := self._engine.get_execution_options().get(SCHEMA)) is not None:
            url = Shown(f"{url}, schema {schema!r}")
        return f"<SessionManager {url}, revision {self.revision}, message_cap {cap}{', closed' * self.closed}>"

    def __del__(self, _warn: Any = warnings.warn) -> None:
        # The constructor may have raised before there was anything to close.
        connections = self.__dict__.get("_connections")
        if connections is not None and not connections.closed:
            _warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
            self.close()

    @property
    def found_revision(self) -> str | None:
        """The Alembic revision before opening created or upgraded the schema; None if the database was empty."""
        return self._found_revision

    @property
    def revision(self) -> str | None:
        """The Alembic revision of the schema that this release works with."""
        return migrations.head_revision()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._connections.closed

    def close(self) -> None:
        """Close the manager's connections; further calls, and those that wait, raise `ManagerClosed`.

        Closing again does nothing.
        """
        self._board.close()
        self._polling.stop()
        self._connections.close()

    def pool_status(self) -> PoolStatus:
        """How the connections are being used right now."""
        status = self._connections.status()
        return replace(status, waiting=status.waiting + self._group_commit.waiting)

    def transaction(self) -> AbstractContextManager[Transaction]:
        """Group operations: the block's writes are committed together at its end, or rolled back if it raises.

        Use the yielded object inside the block, not the manager, which uses other connections. Keep the block
        short: on SQLite it holds the database's one write lock from its first line, on Postgres it locks each row that
        it writes until it ends. A block that fails is not retried.

            with manager.transaction() as tx:
                key = tx.spawn_subagent("main", "Summarise the report", parent_key=parent)
                tx.send_message(key, "Start with chapter 2")
        """
        return self._block(read_only=self._read_only)

    def snapshot(self) -> AbstractContextManager[Transaction]:
        """Group reads: all of them see the database as of the first one.

        Writers are not blocked. Operations that write raise `ReadOnly`.
        """
        return self._block(read_only=True)

    @contextmanager
    def _block(self, *, read_only: bool) -> Iterator[Transaction]:
        retry = self._calls.retry()
        raised: BaseException | None = None
        try:
            with ExitStack() as stack:
                conn = stack.enter_context(self._calls.connection(retry, writing=not read_only, lent=True))
                retry.run(lambda: stack.enter_context(self._calls.begun(conn, read_only=read_only)))
                retry.sent = not read_only
                tx = Transaction(
                    conn,
                    message_cap=self._message_cap,
                    archive_trimmed=self._archive_trimmed,
                    actor=self._actor,
                    read_only=read_only,
                )
                try:
                    yield tx
                except BaseException as error:
                    raised = error
                    raise
                tx._refuse_if_lost()  # noqa: SLF001  # not for the caller of the block
            self._board.learn(tx._appended_to, tx._ended_there)  # noqa: SLF001
        except exc.SQLAlchemyError as error:
            if raised is not None:
                # Either the caller's own error, from a database of its own; or the connection broke, and with it went
                # the transaction.
                raise raised from None
            raise retry.translated(error) from error
        finally:
            # An exception that its own traceback leads to would keep the connection until the garbage collector runs.
            raised = None

    def _run(self, operation: Operation[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        return self._calls.run(operation, *args, **kwargs)

    def _append(self, new: Append) -> list[Message]:
        stored = self._group_commit.append(new)
        self._board.appended(new.key)
        return stored

    def _appended(self, key: str) -> None:
        self._board.appended(key)

    def _ended(self, key: str) -> None:
        self._board.ended(key)

    def _wait(self, wait: Wait[_T], timeout: float | None) -> _T:
        return wait_in_thread(wait, timeout, self, self._polling)

    def _ensure_schema(self, *, create: bool, migrate: bool) -> str | None:
        retry = self._calls.retry()
        try:
            retry.connect(self._connect_first)
        except StatementRefused as error:
            if not self._calls.owned:
                raise
            # No statement was sent: libpq does not know an option in the URL.
            raise DatabaseUnavailable(error.reason, 0.0) from error
        except SessionsError:
            raise
        except (exc.ArgumentError, TypeError, ValueError):
            # From the driver, about part of the URL. Its text may contain a password.
            needed = "a URL that the driver takes" if self._calls.owned else "an engine that can connect"
            raise InvalidInput("database", f"must be {needed}", Shown("another")) from None
        return retry.run(
            lambda: migrations.ensure_head(self._engine, migrate=migrate, create=create, read_only=self._read_only)
        )

    def _connect_first(self) -> None:
        with self._engine.connect() as conn:
            if not self._calls.owned:
                require_fit(conn, read_only=self._read_only)

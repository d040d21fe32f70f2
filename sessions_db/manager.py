"""`SessionManager`: the sessions of a database, each operation a transaction of its own or one of a group."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from types import TracebackType
from typing import Concatenate, ParamSpec, Self, TypeVar

from sqlalchemy import URL, Connection, Engine, exc

from sessions_db import engine as engines
from sessions_db import errors, migrate, validation
from sessions_db.connections import Connections
from sessions_db.errors import DatabaseUnavailable, InvalidInput, SessionsError
from sessions_db.models import DEFAULT_MESSAGE_CAP
from sessions_db.operations import acting
from sessions_db.retry import RetryBudget
from sessions_db.store import Needs, SessionStore

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Transaction(SessionStore):
    """The operations within one transaction, which `SessionManager.transaction` begins and ends.

    An operation that raises leaves nothing of itself behind. The block may go on without it, except after
    `DatabaseUnavailable`: then nothing of the block will be stored. One thread uses it at a time, until the block ends.
    """

    def __init__(
        self,
        conn: Connection,
        *,
        message_cap: int,
        archive_trimmed: bool,
        actor: str | None,
        read_only: bool,
        password: str | None,
    ) -> None:
        super().__init__(message_cap=message_cap, archive_trimmed=archive_trimmed, actor=actor)
        self._conn = conn
        self._read_only = read_only
        self._password = password
        self._lost = False

    @property
    def connection(self) -> Connection:
        """The SQLAlchemy connection of the transaction, for statements of the caller's own in it."""
        return self._conn

    def _run(
        self,
        needs: Needs,
        operation: Callable[Concatenate[Connection, _P], _T],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> _T:
        if self._conn.closed:
            raise SessionsError("This transaction is over")
        _refuse_to_write(self._read_only, needs)
        self._refuse_if_lost()
        budget = RetryBudget(0)
        try:
            if needs is Needs.TRANSACTION:
                return self._in_savepoint(operation, *args, **kwargs)
            return operation(self._conn, *args, **kwargs)
        except exc.SQLAlchemyError as error:
            translated = errors.translate(error, waited_s=budget.spent_s, password=self._password)
            self._lost = isinstance(translated, DatabaseUnavailable)
            raise translated from error

    def _in_savepoint(
        self, operation: Callable[Concatenate[Connection, _P], _T], *args: _P.args, **kwargs: _P.kwargs
    ) -> _T:
        savepoint = self._conn.begin_nested()
        try:
            result = operation(self._conn, *args, **kwargs)
            savepoint.commit()
        except BaseException:
            # On a full disk SQLite may have rolled back the whole transaction, and this savepoint with it.
            if not engines.is_aborted(self._conn):
                savepoint.rollback()
            raise
        return result

    def _refuse_if_lost(self) -> None:
        """Raise `SessionsError` where a statement has failed in such a way that nothing of the block can be stored."""
        # What came after would be committed without it: SQLite is in autocommit mode once it has rolled back.
        if self._lost or engines.is_aborted(self._conn):
            raise SessionsError(engines.ROLLED_BACK)


class SessionManager(SessionStore):
    """The sessions, messages and labels of a database. Threads may share it; a forked child may go on using it.

    Opening creates the schema in an empty database and refuses one that does not fit.

    Args:
        database: a URL (`sqlite:///sessions.db`, `sqlite://` for one in memory, `postgresql://…`), or a SQLAlchemy
            `Engine` of the caller's, whose settings are kept and which `close` leaves open.
        migrate: upgrade a database that an older release left behind, instead of refusing it.
        message_cap: how many messages a new session retains, unless its spawn says otherwise.
        archive_trimmed: move the messages that a new session no longer retains to `archived_messages` instead of
            deleting them, unless its spawn says otherwise.
        actor: the name under which the log (`session_events`) records what is done through this manager. Without
            one it is the database user on Postgres, and nobody on SQLite.
        read_only: change nothing and create nothing: whatever would write raises `SessionsError`. A SQLite file is
            opened for reading only; on Postgres the connections are read-only too, except behind PgBouncer.
        synchronous: SQLite's durability: `"FULL"` keeps every committed append after a power loss, `"NORMAL"` is
            faster and may lose the last ones (but never leaves a part of one).
        retry_budget_s: seconds that a call goes on waiting for a lock, and for a connection, before
            `DatabaseUnavailable`. On Postgres it is the `lock_timeout`, where none is set.
        pool_size: how many connections are kept open at most; further threads wait for one.

    Raises:
        InvalidInput: an argument is not what it must be.
        SchemaMismatch: the database is at another revision.
        DatabaseUnavailable: it can't be reached.
    """

    def __init__(
        self,
        database: str | URL | Engine,
        *,
        migrate: bool = False,
        message_cap: int = DEFAULT_MESSAGE_CAP,
        archive_trimmed: bool = False,
        actor: str | None = None,
        read_only: bool = False,
        synchronous: str = "FULL",
        retry_budget_s: float = 10.0,
        pool_size: int = 10,
    ) -> None:
        super().__init__(message_cap=message_cap, archive_trimmed=archive_trimmed, actor=actor)
        self._read_only = validation.flag("read_only", read_only)
        if validation.flag("migrate", migrate) and read_only:
            raise InvalidInput.of("migrate", "must be False where read_only is True", migrate)
        if synchronous not in ("FULL", "NORMAL"):
            raise InvalidInput.of("synchronous", "must be 'FULL' or 'NORMAL'", synchronous)
        self._retry_budget_s = validation.seconds("retry_budget_s", retry_budget_s)
        self._owns_engine = isinstance(database, str | URL)
        if isinstance(database, str | URL):
            self._engine = engines.open_engine(
                database,
                synchronous=synchronous,
                retry_budget_s=self._retry_budget_s,
                pool_size=validation.pool_size(pool_size),
                read_only=read_only,
            )
        else:
            self._engine = engines.adopt(database)
        self._connections = Connections(self._engine, owned=self._owns_engine)
        try:
            self._found_revision = self._ensure_schema(migrate)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def found_revision(self) -> str | None:
        """The Alembic revision that opening found, before it created or upgraded the schema; None if it was empty."""
        return self._found_revision

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._connections.closed

    def close(self) -> None:
        """Close the manager's connections; further calls raise `SessionsError`. Closing again does nothing."""
        self._connections.close()

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Group operations: all that the block does is committed together when it ends, or nothing if it raises.

        Use the yielded object inside the block, not the manager, which works on other connections. On SQLite the
        block holds the database's one write lock from its first line, on Postgres each row that it writes is
        locked until it ends: keep it short. It is not repeated when it fails. A read-only manager's block sees the
        database as it is at its first look, whatever others write meanwhile.

            with manager.transaction() as tx:
                key = tx.spawn_subagent("main", "Summarise the report", parent_key=parent)
                tx.send_message(key, "Start with chapter 2")
        """
        budget = self._budget()
        raised: BaseException | None = None
        in_block = False
        try:
            with ExitStack() as stack:
                conn = stack.enter_context(self._connection(budget, writing=not self._read_only, lent=True))
                begun = partial(self._begun, conn, read_only=self._read_only)
                self._retry(lambda: stack.enter_context(begun()), errors.is_rolled_back, budget)
                in_block = True
                tx = Transaction(
                    conn,
                    message_cap=self._message_cap,
                    archive_trimmed=self._archive_trimmed,
                    actor=self._actor,
                    read_only=self._read_only,
                    password=self._engine.url.password,
                )
                try:
                    yield tx
                except BaseException as error:
                    raised = error
                    raise
                tx._refuse_if_lost()  # noqa: SLF001  # a class of this module
        except exc.SQLAlchemyError as error:
            if raised is not None:
                # The caller's own, of a database of the caller's; or the connection broke, and with it went what
                # there was to roll back.
                raise raised from None
            raise self._translate(error, budget, sent=in_block) from error

    def _run(
        self,
        needs: Needs,
        operation: Callable[Concatenate[Connection, _P], _T],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> _T:
        _refuse_to_write(self._read_only, needs)
        budget = self._budget()
        writing = needs not in _READING
        in_transaction = needs in (Needs.SNAPSHOT, Needs.TRANSACTION) or (
            needs is Needs.LOGGED_STATEMENT and self._actor is not None
        )
        sent = False

        def attempt() -> _T:
            nonlocal sent
            sent = False
            with self._connection(budget, writing=writing) as conn:
                if in_transaction:
                    with self._begun(conn, read_only=not writing):
                        sent = writing
                        return operation(conn, *args, **kwargs)
                sent = writing
                result = operation(conn, *args, **kwargs)
                if not self._owns_engine:
                    # The caller's engine may begin transactions by itself.
                    conn.commit()
                return result

        return self._retry(attempt, errors.is_rolled_back, budget, sent=lambda: sent)

    @contextmanager
    def _begun(self, conn: Connection, *, read_only: bool) -> Iterator[None]:
        with engines.transaction(conn, read_only=read_only):
            if self._actor is None or read_only:
                yield
                return
            acting.act_as(conn, self._actor)
            yield
            acting.stop_acting(conn)

    def _connection(
        self, budget: RetryBudget, *, writing: bool, lent: bool = False
    ) -> AbstractContextManager[Connection]:
        connect = partial(self._retry, self._engine.connect, errors.is_passing_refusal, budget)
        return self._connections.use(budget, connect, writing=writing, lent=lent)

    def _budget(self) -> RetryBudget:
        if self._engine.dialect.name == "sqlite" and self._owns_engine:
            return RetryBudget(self._retry_budget_s, longest_wait_s=engines.LONGEST_NAP_S)
        return RetryBudget(self._retry_budget_s)

    def _retry(
        self,
        attempt: Callable[[], _T],
        is_safe: Callable[[exc.DBAPIError], bool],
        budget: RetryBudget,
        *,
        sent: Callable[[], bool] = lambda: False,
    ) -> _T:
        while True:
            try:
                return attempt()
            except exc.SQLAlchemyError as error:
                # That a connection was cut while it lay in the pool is noticed by the first who uses it.
                again = isinstance(error, exc.DBAPIError) and (
                    is_safe(error) or (error.connection_invalidated and not sent())
                )
                if not (again and budget.wait()):
                    raise self._translate(error, budget, sent=sent()) from error

    def _translate(self, error: exc.SQLAlchemyError, budget: RetryBudget, *, sent: bool) -> SessionsError:
        return errors.translate(error, waited_s=budget.spent_s, password=self._engine.url.password, sent=sent)

    def _ensure_schema(self, migrate_: bool) -> str | None:
        budget = self._budget()
        try:
            self._retry(self._engine.connect, errors.is_passing_refusal, budget).close()
        except SessionsError:
            raise
        except (exc.ArgumentError, TypeError, ValueError):
            # Of the driver, about a part of the URL. Its text may hold a password.
            raise InvalidInput("database", "must be a URL that the driver takes", "another") from None
        return self._retry(
            lambda: migrate.ensure_head(self._engine, migrate=migrate_, create=not self._read_only),
            errors.is_rolled_back,
            budget,
        )


_READING = (Needs.READ, Needs.SNAPSHOT)


def _refuse_to_write(read_only: bool, needs: Needs) -> None:
    if read_only and needs not in _READING:
        raise SessionsError("This SessionManager is read-only")


DEFAULT_URL = "sqlite:///sessions.db"
"""The database of a process that names none."""


def default_url() -> str:
    """The database that the environment names, `SESSIONS_DB_URL`, or else `DEFAULT_URL`."""
    return os.environ.get("SESSIONS_DB_URL") or DEFAULT_URL


_default: SessionManager | None = None
_default_lock = threading.Lock()


def session_manager() -> SessionManager:
    """The process's own `SessionManager`, opened on first use from `SESSIONS_DB_URL` (default: a file
    `sessions.db` in the working directory).

    Raises:
        InvalidInput, SchemaMismatch, DatabaseUnavailable: as `SessionManager`.
    """
    global _default
    with _default_lock:
        if _default is None or _default.closed:
            _default = SessionManager(default_url())
        return _default


def _new_lock() -> None:
    global _default_lock
    # Another thread of the parent's may have held it.
    _default_lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_new_lock)

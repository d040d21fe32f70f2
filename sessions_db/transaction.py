"""`Transaction`: operations that are committed together."""

from __future__ import annotations

from typing import ParamSpec, TypeVar

from sqlalchemy import Connection, exc, text

from sessions_db.database import backend_of
from sessions_db.database.statement import Statement
from sessions_db.database.transactions import is_aborted
from sessions_db.database.translation import translate
from sessions_db.errors import DatabaseUnavailable, ReadOnly, TransactionOver, TransactionRolledBack
from sessions_db.operations.operation import Needs, Operation
from sessions_db.store import SessionStore

# Through SQLAlchemy's `begin_nested`, a savepoint took as long as SQLite takes to store a session (measured once).
_SAVEPOINT = Statement(lambda _: text("SAVEPOINT operation"))
_RELEASE = Statement(lambda _: text("RELEASE SAVEPOINT operation"))
_ROLL_BACK = Statement(lambda _: text("ROLLBACK TO SAVEPOINT operation"))

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Transaction(SessionStore):
    """The operations within one transaction; `SessionManager.transaction` and `snapshot` begin and end it.

    An operation that raises is undone. The block may carry on without it, except after `DatabaseUnavailable`: then
    nothing of the block will be stored. Only one thread may use it at a time, until the block ends.
    """

    def __init__(
        self, conn: Connection, *, message_cap: int, archive_trimmed: bool, actor: str | None, read_only: bool
    ) -> None:
        super().__init__(message_cap=message_cap, archive_trimmed=archive_trimmed, actor=actor)
        self._conn = conn
        self._read_only = read_only
        self._lost = False
        self._appended_to: set[str] = set()
        self._ended_there: set[str] = set()

    @property
    def connection(self) -> Connection:
        """The transaction's SQLAlchemy connection, for the caller's own statements; they raise SQLAlchemy's errors."""
        return self._conn

    def _refuse_if_lost(self) -> None:
        """Check that the block can still be committed.

        Raises:
            TransactionRolledBack: a statement failed, and nothing of the block can be stored any more.
        """
        # Anything that came after would be committed without the rest: SQLite is in autocommit mode after it has
        # rolled back.
        if self._lost or is_aborted(self._conn):
            raise TransactionRolledBack

    def _run(self, operation: Operation[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        if self._conn.closed:
            raise TransactionOver
        if self._read_only and not operation.needs.is_reading:
            raise ReadOnly
        self._refuse_if_lost()
        try:
            if operation.needs is Needs.TRANSACTION:
                return self._in_savepoint(operation, *args, **kwargs)
            return operation.function(self._conn, *args, **kwargs)
        except exc.SQLAlchemyError as error:
            password = self._conn.engine.url.password
            translated = translate(error, backend_of(self._conn), waited_s=0.0, password=password)
            self._lost = isinstance(translated, DatabaseUnavailable)
            raise translated from error

    def _appended(self, key: str) -> None:
        self._appended_to.add(key)

    def _ended(self, key: str) -> None:
        self._ended_there.add(key)

    def _in_savepoint(self, operation: Operation[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        _SAVEPOINT.rows(self._conn, {})
        try:
            result = operation.function(self._conn, *args, **kwargs)
            _RELEASE.rows(self._conn, {})
        except BaseException:
            # On a full disk SQLite may have rolled back the whole transaction, and this savepoint with it.
            if not is_aborted(self._conn):
                self._undo()
            raise
        return result

    def _undo(self) -> None:
        try:
            _ROLL_BACK.rows(self._conn, {})
            _RELEASE.rows(self._conn, {})
        except exc.SQLAlchemyError:
            # Perhaps an exception interrupted a statement, and the connection takes no other. What the operation did
            # may still be there, so nothing of the block may be stored.
            self._lost = True

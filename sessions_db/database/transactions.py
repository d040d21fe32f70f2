"""Transactions on a connection in autocommit mode."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

from sqlalchemy import Connection

from sessions_db.database import backend_of
from sessions_db.errors import TransactionRolledBack


@contextmanager
def transaction(conn: Connection, *, read_only: bool = False) -> Iterator[Connection]:
    """Commit all that the block does, or none of it. All statements of a read-only one see the same snapshot.

    Raises:
        TransactionRolledBack: a statement failed in the block, which then carried on; nothing of it is stored.
    """
    backend = backend_of(conn)
    with backend.reading_only(conn) if read_only else nullcontext():
        root = conn.begin()
        try:
            backend.begin(conn, read_only=read_only)
            yield conn
            if is_aborted(conn):
                raise TransactionRolledBack  # noqa: TRY301  # what the block did is rolled back below
            raising_what_interrupts(root.commit)
        except BaseException:
            _roll_back(conn)
            raise
        finally:
            raising_what_interrupts(root.close)


def raising_what_interrupts(end: Callable[[], None]) -> None:
    """End a transaction by this method of SQLAlchemy's, which checks in the end that it is over.

    The check fails where an exception has interrupted the method, and would hide it.
    """
    try:
        end()
    except AssertionError as error:
        if error.__context__ is not None:
            raise error.__context__ from None
        raise


def is_aborted(conn: Connection) -> bool:
    """Whether a failed statement has rolled back the transaction, or left it unable to commit."""
    return conn.invalidated or backend_of(conn).is_aborted(conn)


def _roll_back(conn: Connection) -> None:
    # Through the driver: SQLAlchemy assumes that there is nothing to roll back in autocommit mode.
    if not conn.invalidated:
        try:
            conn.connection.rollback()
        except conn.dialect.loaded_dbapi.Error:
            # The connection broke. It must not go back to the pool with a transaction that may still be open.
            conn.invalidate()

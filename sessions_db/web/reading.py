"""Reading the views, with a limit on time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import exc

from sessions_db.database import backend_of
from sessions_db.database.translation import translate
from sessions_db.errors import SessionsError
from sessions_db.manager import SessionManager
from sessions_db.transaction import Transaction


class OutOfTime(Exception):
    """A statement took longer than these seconds."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds


class Forbidden(Exception):
    """The login may not read what the statement reads."""


class Reading:
    """Reads a database for the pages.

    Args:
        manager: whose database it is.
        time_limit_s: seconds that a statement may take.
        row_limit: how many rows of an answer are shown.
    """

    def __init__(self, manager: SessionManager, *, time_limit_s: float, row_limit: int) -> None:
        self.time_limit_s = time_limit_s
        self.row_limit = row_limit
        self._manager = manager

    @contextmanager
    def snapshot(self, time_limit_s: float | None = None) -> Iterator[Transaction]:
        """Reads that see the database as of the first one, each with the limit on time.

        Raises:
            OutOfTime: a statement took longer.
            Forbidden: the login may not do this.
            SessionsError: what else went wrong.
        """
        limit_s = time_limit_s or self.time_limit_s
        with self._manager.snapshot() as tx:
            backend = backend_of(tx.connection)
            try:
                with backend.time_limit(tx.connection, limit_s):
                    yield tx
            except (exc.SQLAlchemyError, SessionsError) as error:
                cause = error.__cause__ if isinstance(error, SessionsError) else error
                if isinstance(cause, exc.DBAPIError):
                    if backend.is_out_of_time(cause):
                        raise OutOfTime(limit_s) from error
                    if backend.is_forbidden(cause):
                        raise Forbidden from error
                if isinstance(error, SessionsError):
                    raise
                password = tx.connection.engine.url.password
                raise translate(error, backend, waited_s=0.0, password=password) from error

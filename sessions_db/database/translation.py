"""SQLAlchemy's and the drivers' exceptions as this library's errors."""

from __future__ import annotations

from sqlalchemy import exc

from sessions_db.database.backend import Backend
from sessions_db.errors import DatabaseUnavailable, SchemaMismatch, StatementRefused


def translate(
    error: exc.SQLAlchemyError, backend: Backend, *, waited_s: float, password: str | None, sent: bool = False
) -> BaseException:
    """The library's error for `error`; the caller raises it `from` the original.

    SQLAlchemy wraps some exceptions that are not the database's, such as one that a signal handler raised. These come
    as they are.

    `sent` says that a write had been sent, so that its outcome is unknown if the connection broke.
    """
    if type(error) is exc.StatementError and error.orig is not None:
        return error.orig
    if not isinstance(error, exc.DBAPIError):
        reason = reason_of(error, password)
        return (
            DatabaseUnavailable(reason, waited_s) if isinstance(error, exc.TimeoutError) else StatementRefused(reason)
        )
    reason = reason_of(error.orig, password)
    if (cure := backend.schema_cure(error)) is not None:
        return SchemaMismatch(None, None, f"{reason}; {cure}")
    undone, lost = backend.is_rolled_back(error), backend.is_lost(error)
    # SQLite reports a corrupted file, and a file that is not a database, as plain DatabaseError.
    if (
        lost
        or undone
        or isinstance(error, exc.OperationalError | exc.InterfaceError)
        or type(error) is exc.DatabaseError
    ):
        outcome_unknown = lost and sent and not undone
        return DatabaseUnavailable(reason, waited_s, outcome_unknown=outcome_unknown)
    return StatementRefused(reason)


def reason_of(error: BaseException | None, password: str | None) -> str:
    """The error's text on one line, without the password."""
    reason = " ".join(str(error).split())
    return reason.replace(password, "***") if password else reason

"""The error tree, and the translation of SQLAlchemy's and the drivers' exceptions into it."""

from __future__ import annotations

import re
import reprlib
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sqlalchemy import Connection, exc

if TYPE_CHECKING:
    from sessions_db.models import SessionStatus


class SessionsError(Exception):
    """Root of every error that this library raises on purpose."""


class SessionNotFound(SessionsError, LookupError):
    """No session has this key. `key` is the key that was asked for."""

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key

    def __str__(self) -> str:
        return f"Session not found: {self.key}"


class SessionNotActive(SessionsError):
    """The session `key` has already ended, as `status`."""

    def __init__(self, key: str, status: SessionStatus) -> None:
        super().__init__(key, status)
        self.key = key
        self.status = status

    def __str__(self) -> str:
        return f"Session is not active: {self.status.value.capitalize()}"


class LabelInUse(SessionsError):
    """`label` belongs to the session `session_key`, and the caller asked not to take it over."""

    def __init__(self, label: str, session_key: str) -> None:
        super().__init__(label, session_key)
        self.label = label
        self.session_key = session_key

    def __str__(self) -> str:
        return f"Label {self.label!r} is in use by {self.session_key}"


class InvalidInput(SessionsError, ValueError):
    """An argument was refused before anything was stored.

    `argument` names it, `reason` says what it must be, `value` is a shortened `repr` of what
    was passed (a text, so that the error pickles whatever the value was).
    """

    def __init__(self, argument: str, reason: str, value: str) -> None:
        super().__init__(argument, reason, value)
        self.argument = argument
        self.reason = reason
        self.value = value

    def __str__(self) -> str:
        return f"{self.argument} {self.reason}, got {self.value}"

    @classmethod
    def of(cls, argument: str, reason: str, value: object) -> InvalidInput:
        """The error for `value` itself, which is kept as a shortened `repr`."""
        try:
            shown = reprlib.repr(value)
        except ValueError:  # Python prints no integer of more than 4,300 digits
            shown = f"a {type(value).__name__} that can't be printed"
        return cls(argument, reason, shown)


class SchemaMismatch(SessionsError):
    """The database's schema is not the one that this release works with.

    `found` and `expected` are the Alembic revisions: `found` is `None` where nothing was created yet, both are where a
    table is missing or somebody else's. `cure` says what to do.
    """

    def __init__(self, found: str | None, expected: str | None, cure: str) -> None:
        super().__init__(found, expected, cure)
        self.found = found
        self.expected = expected
        self.cure = cure

    def __str__(self) -> str:
        if self.expected is None:
            return f"The database's schema does not fit: {self.cure}"
        if self.found is None:
            return f"The database has no tables of this library: {self.cure}"
        return f"The database's schema is at revision {self.found}, this release needs {self.expected}: {self.cure}"


class DatabaseUnavailable(SessionsError):
    """The database could not be reached, was locked for too long, or failed.

    `reason` is the driver's text without any password, `waited_s` the seconds spent trying.
    `outcome_unknown` is True where the connection broke after a write was sent: it may have been
    committed, so repeating it is safe only with an `idempotency_key`.
    """

    def __init__(self, reason: str, waited_s: float, *, outcome_unknown: bool = False) -> None:
        super().__init__(reason, waited_s)
        self.reason = reason
        self.waited_s = waited_s
        self.outcome_unknown = outcome_unknown

    def __str__(self) -> str:
        tail = "; the write may have been committed" if self.outcome_unknown else ""
        return f"Database unavailable after {self.waited_s:.1f} s: {self.reason}{tail}"


# PostgreSQL's read_only_sql_transaction: the server is a standby, for now.
_READ_ONLY = "25006"

# PostgreSQL, appendix A: serialization_failure, deadlock_detected, lock_not_available. The server
# has rolled the statement back.
_ROLLED_BACK_STATES = frozenset({"40001", "40P01", "55P03", _READ_ONLY})

# What a server says while it starts, stops or is full, as opposed to a wrong password or database name,
# which no waiting mends. libpq gives a failed connection no SQLSTATE, only the text.
_PASSING_REFUSALS = (
    "starting up",
    "shutting down",
    "recovery mode",
    "not yet accepting connections",
    "too many clients",
    "too many connections",
    "remaining connection slots",
    # PgBouncer's.
    "no more connections allowed",
    "server login has been failing",
)


def is_rolled_back(error: exc.DBAPIError) -> bool:
    """Whether the database is known to have undone the statement, so that repeating it is safe."""
    if isinstance(error.orig, sqlite3.Error):
        # The low byte is the primary result code: BUSY_SNAPSHOT, BUSY_RECOVERY and the like count as BUSY.
        code = getattr(error.orig, "sqlite_errorcode", None)
        return code is not None and code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
    return getattr(error.orig, "sqlstate", None) in _ROLLED_BACK_STATES


def is_passing_refusal(error: exc.DBAPIError) -> bool:
    """Whether a connection that was refused may be had a little later."""
    if isinstance(error.orig, sqlite3.Error):
        return is_rolled_back(error)
    text = str(error.orig)
    if not isinstance(error, exc.OperationalError):  # of a URL that psycopg can't read
        return False
    return "FATAL" not in text or any(passing in text for passing in _PASSING_REFUSALS)


def translate(
    error: exc.SQLAlchemyError, *, waited_s: float, password: str | None, sent: bool = False
) -> SessionsError:
    """The error of this library's for `error`, which the caller raises from it.

    `sent` says that a write had been sent, so that a broken connection leaves its outcome open.
    """
    cause = error.orig if isinstance(error, exc.DBAPIError) else error
    reason = " ".join(str(cause).split())
    if password:
        reason = reason.replace(password, "***")
    if (cure := _schema_cure(error)) is not None:
        return SchemaMismatch(None, None, f"{reason}; {cure}")
    broken = isinstance(error, exc.DBAPIError) and error.connection_invalidated
    undone = isinstance(error, exc.DBAPIError) and is_rolled_back(error)
    if broken or undone or isinstance(error, exc.OperationalError | exc.InterfaceError | exc.TimeoutError):
        return DatabaseUnavailable(reason, waited_s, outcome_unknown=broken and sent and not undone)
    # SQLite reports a corrupted file and a file that is no database as plain DatabaseError.
    if type(error) is exc.DatabaseError:
        return DatabaseUnavailable(reason, waited_s)
    return SessionsError(f"The database refused the statement: {reason}")


@contextmanager
def translated(conn: Connection) -> Iterator[None]:
    """Have the errors of a block that sends statements of its own within a transaction come as this library's."""
    try:
        yield
    except exc.SQLAlchemyError as error:
        raise translate(error, waited_s=0, password=conn.engine.url.password) from error


def is_read_only(error: BaseException | None) -> bool:
    """Whether the driver's error is a server's that takes no writes."""
    return getattr(error, "sqlstate", None) == _READ_ONLY


# Numbers go on from `last_seq`, which the trigger moves.
_NUMBER_TAKEN = re.compile("messages.session_key, messages.seq|pk_messages")


def _schema_cure(error: exc.SQLAlchemyError) -> str | None:
    """What to do about a table that is missing or in the way; None where that is not what is wrong."""
    if not isinstance(error, exc.DBAPIError):
        return None
    # PostgreSQL's undefined_table and undefined_column, duplicate_table, duplicate_object and duplicate_function.
    # SQLite has only its generic error and the text.
    state = getattr(error.orig, "sqlstate", None)
    text = str(error.orig) if isinstance(error.orig, sqlite3.OperationalError) else ""
    if state in ("42P01", "42703") or text.startswith(("no such table", "no such column")) or " has no column " in text:
        return "something was dropped since the schema was made, restore it from a backup"
    if state in ("42P07", "42710", "42723") or text.endswith("already exists"):
        return "it is not this library's, use a database of its own"
    if isinstance(error, exc.IntegrityError) and _NUMBER_TAKEN.search(str(error.orig)):
        return "the trigger messages_append is missing or disabled, or last_seq was changed by hand"
    return None

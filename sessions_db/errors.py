"""The public exceptions.

    SessionsError
    ├── SessionNotFound (LookupError)
    ├── SessionNotActive
    ├── SessionChanged
    ├── LabelInUse
    ├── LimitReached
    ├── IdempotencyConflict
    ├── InvalidInput (ValueError)
    ├── ReadOnly
    ├── ManagerClosed
    ├── TransactionOver
    ├── TransactionRolledBack
    ├── UnsafeFork
    ├── SchemaMismatch
    ├── StatementRefused
    ├── WriteUndone
    └── DatabaseUnavailable

Each carries its data as attributes and can be pickled.
"""

from __future__ import annotations

import reprlib

from sessions_db.enums import SessionStatus


class SessionsError(Exception):
    """Base class of every error that this library raises on purpose."""

    def __repr__(self) -> str:
        attributes = [f"{name}={value!r}" for name, value in vars(self).items() if not name.startswith("_")]
        return f"{type(self).__name__}({', '.join(attributes)})"


class SessionNotFound(SessionsError, LookupError):
    """No session has the key `key`."""

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
        return f"Session is not active: {self.status.value.capitalize()} ({self.key})"


class SessionChanged(SessionsError):
    """The session `key` has had `count` messages, and not `expected_count`; nothing was stored."""

    def __init__(self, key: str, expected_count: int, count: int) -> None:
        super().__init__(key, expected_count, count)
        self.key = key
        self.expected_count = expected_count
        self.count = count

    def __str__(self) -> str:
        return f"Session has changed: it has had {self.count} messages, not {self.expected_count} ({self.key})"


class LabelInUse(SessionsError):
    """`label` belongs to the session `session_key`, and the caller asked not to take it over."""

    def __init__(self, label: str, session_key: str) -> None:
        super().__init__(label, session_key)
        self.label = label
        self.session_key = session_key

    def __str__(self) -> str:
        return f"Label {self.label!r} is in use by {self.session_key}"


class LimitReached(SessionsError):
    """The caller's `limit` for spawning allows no further session: it is `maximum`. Nothing was stored.

    `limit` is `max_depth`, `max_children` or `max_active`.
    """

    def __init__(self, limit: str, maximum: int) -> None:
        super().__init__(limit, maximum)
        self.limit = limit
        self.maximum = maximum

    def __str__(self) -> str:
        return f"Limit for spawning reached: {self.limit} is {self.maximum}"


class IdempotencyConflict(SessionsError):
    """`idempotency_key` came before with other values than now, in the session `session_key`; nothing was stored.

    `differing` names the arguments that differ.
    """

    def __init__(self, idempotency_key: str, session_key: str, differing: tuple[str, ...]) -> None:
        super().__init__(idempotency_key, session_key, differing)
        self.idempotency_key = idempotency_key
        self.session_key = session_key
        self.differing = differing

    def __str__(self) -> str:
        names = ", ".join(self.differing)
        return f"Idempotency key {self.idempotency_key!r} was used with another {names} before, in {self.session_key}"


class Shown(str):
    """A string that an error message shows in place of a value, without quotes.

    For values whose `repr` must not appear, such as a URL with a password.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


class InvalidInput(SessionsError, ValueError):
    """An argument was refused before anything was stored.

    `argument` names it, `reason` says what it must be, `value` is a shortened `repr` of what was passed (a string,
    so that the error can be pickled whatever the value was).
    """

    def __init__(self, argument: str, reason: str, value: object) -> None:
        self.argument = argument
        self.reason = reason
        self.value = value if isinstance(value, Shown) else Shown(_shortened(value))
        super().__init__(argument, reason, self.value)

    def __str__(self) -> str:
        return f"{self.argument} {self.reason}, got {self.value}"


def _shortened(value: object) -> str:
    try:
        return reprlib.repr(value)
    except ValueError:  # Python prints no integer of more than 4,300 digits
        return f"a {type(value).__name__} that can't be printed"


class ReadOnly(SessionsError):
    """A write was attempted through a read-only manager or a snapshot."""

    def __str__(self) -> str:
        return "This manager, or this snapshot, is read-only"


class ManagerClosed(SessionsError):
    """The manager was closed before the call."""

    def __str__(self) -> str:
        return "This manager is closed"


class TransactionOver(SessionsError):
    """The object of a `transaction()` or `snapshot()` was used after its block had ended."""

    def __str__(self) -> str:
        return "This transaction is over"


class TransactionRolledBack(SessionsError):
    """A statement failed in a `transaction()` whose block then carried on; nothing of it is stored."""

    def __str__(self) -> str:
        return "The transaction was rolled back, because a statement in it had failed"


class UnsafeFork(SessionsError):
    """The process was forked while its parent used the SQLite file `file`, which the child must not open."""

    def __init__(self, file: str) -> None:
        super().__init__(file)
        self.file = file

    def __str__(self) -> str:
        return f"This process was forked while {self.file} was in use, so it can't use it safely"


class SchemaMismatch(SessionsError):
    """The database's schema is not the one that this release works with.

    `found` and `expected` are Alembic revisions: `found` is None if nothing was created yet, both are None if an object
    of the schema is missing or isn't this library's. `cure` says what to do.
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


class StatementRefused(SessionsError):
    """The database refused a statement: a constraint, a trigger, a missing privilege. `reason` is the driver's text."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"The database refused the statement: {self.reason}"


class WriteUndone(SessionsError):
    """A write to the session `key` did not persist: something else, such as a trigger, undoes it every time."""

    def __init__(self, key: str, attempts: int) -> None:
        super().__init__(key, attempts)
        self.key = key
        self.attempts = attempts

    def __str__(self) -> str:
        return f"What is written to {self.key} does not stay: tried {self.attempts} times"


class DatabaseUnavailable(SessionsError):
    """The database could not be reached, was locked for too long, or failed.

    `reason` is the driver's text without any password, `waited_s` the seconds spent trying. `outcome_unknown` is True
    if the connection broke after a write was sent: it may have been committed, so repeating it is safe only with an
    `idempotency_key`.
    """

    def __init__(self, reason: str, waited_s: float, *, outcome_unknown: bool = False) -> None:
        super().__init__(reason, waited_s)
        self.reason = reason
        self.waited_s = waited_s
        self.outcome_unknown = outcome_unknown

    def __str__(self) -> str:
        tail = "; the write may have been committed" if self.outcome_unknown else ""
        return f"Database unavailable after {self.waited_s:.1f} s: {self.reason}{tail}"

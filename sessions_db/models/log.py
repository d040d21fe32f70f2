"""The log: its entries, the seals over them, and the result of verifying them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sessions_db import clock
from sessions_db.enums import EventKind, SessionStatus
from sessions_db.models.camel_case import camel_case
from sessions_db.validation import JsonValue


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionEvent:
    """A log entry. `id` gives the order; `at_ms` is by the database's clock (milliseconds since the epoch, UTC).

    `actor` is the name that the manager gave, or else the database user. `db_user` is always the database user, and
    None on SQLite, which has no users. The other fields are None where they do not apply to this kind of event.
    """

    id: int
    at_ms: int
    actor: str | None
    db_user: str | None
    event: EventKind
    session_key: str | None
    from_status: SessionStatus | None
    to_status: SessionStatus | None
    reason: str | None
    label: str | None
    from_session_key: str | None
    parent_key: str | None
    message_count: int | None
    first_seq: int | None
    last_seq: int | None

    @property
    def at(self) -> datetime:
        """`at_ms` as an aware datetime in UTC."""
        return clock.to_datetime(self.at_ms)

    def to_dict(self) -> dict[str, JsonValue]:
        """The event as camelCase JSON, without fields that are None."""
        return camel_case(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seal:
    """A digest over all events up to `through_event_id`. `sealed_ms` is in milliseconds since the epoch, UTC."""

    id: int
    sealed_ms: int
    actor: str | None
    through_event_id: int
    event_count: int
    previous_digest: str
    events_digest: str
    digest: str

    @property
    def sealed_at(self) -> datetime:
        """`sealed_ms` as an aware datetime in UTC."""
        return clock.to_datetime(self.sealed_ms)

    def to_dict(self) -> dict[str, JsonValue]:
        """The seal as camelCase JSON, fields that are None left out."""
        return camel_case(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The result of verifying the log.

    `event_id` is the first event that is not as it was sealed, and `fault` says what is wrong with it. Without a fault,
    the log is as it was when `seal`, the newest one that was read, was made. `expired` events have been deleted, which
    is allowed once they are older than the log's retention. `unsealed` ones came after the last seal: nothing is known
    about them.
    """

    fault: str | None
    event_id: int | None
    seal: Seal | None
    verified: int
    expired: int
    unsealed: int

    def to_dict(self) -> dict[str, JsonValue]:
        """The verdict as camelCase JSON, fields that are None left out: without a fault there is no `fault`."""
        return camel_case(self)

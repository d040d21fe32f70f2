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
    """A digest over all events up to `through_event_id`, and over the transcripts that were sealed with them.

    `sealed_ms` is in milliseconds since the epoch, UTC.
    """

    id: int
    sealed_ms: int
    actor: str | None
    through_event_id: int
    event_count: int
    previous_digest: str
    events_digest: str
    transcript_count: int
    transcripts_digest: str
    digest: str

    @property
    def sealed_at(self) -> datetime:
        """`sealed_ms` as an aware datetime in UTC."""
        return clock.to_datetime(self.sealed_ms)

    def to_dict(self) -> dict[str, JsonValue]:
        """The seal as camelCase JSON, fields that are None left out."""
        return camel_case(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcript:
    """What one seal covers of a session: its messages after `after_seq`, from `first_seq` through `last_seq`.

    Those between `after_seq` and `first_seq` were gone before they could be sealed. `number` counts the transcripts of
    the session's key from 1; each has the digest of the one before it. A session with many new messages has more than
    one of a seal.
    """

    session_key: str
    number: int
    seal_id: int
    after_seq: int
    first_seq: int
    last_seq: int
    message_count: int
    previous_digest: str
    messages_digest: str
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The result of verifying the log, and the messages that were sealed with it.

    `fault` says what is wrong with the first event, or the first message, that is not as it was sealed: the event with
    the id `event_id`, or the message `seq` of the session `session_key`. Without a fault, both are as they were when
    `seal`, the newest one that was read, was made. `expired` events have been deleted, which is allowed once they are
    older than the log's retention. `unsealed` ones came after the last seal: nothing is known about them.

    Of the sealed messages, `messages_verified` are as they were, `messages_redacted` were redacted, and `messages_gone`
    were trimmed, removed or deleted with their session, as the log or the session's cap says. `messages_unsealed` are
    in no seal yet; with `since`, only those in sessions that the next seal has to read are counted.
    """

    fault: str | None
    event_id: int | None
    session_key: str | None
    seq: int | None
    seal: Seal | None
    verified: int
    expired: int
    unsealed: int
    messages_verified: int
    messages_redacted: int
    messages_gone: int
    messages_unsealed: int

    def to_dict(self) -> dict[str, JsonValue]:
        """The verdict as camelCase JSON, fields that are None left out: without a fault there is no `fault`."""
        return camel_case(self)

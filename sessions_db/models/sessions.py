"""Sessions as they are read, created and exported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from sessions_db import clock, keys, validation
from sessions_db.enums import SessionKind, SessionStatus
from sessions_db.errors import InvalidInput
from sessions_db.models import stored
from sessions_db.models.camel_case import camel_case
from sessions_db.models.messages import ExportedMessage, Message
from sessions_db.models.stored import optional, required
from sessions_db.validation import JsonValue


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A session as it was when it was read; later changes do not show in it.

    The `_ms` fields are milliseconds since the epoch, UTC. `messages` are retained messages, oldest first (which ones
    depends on the call); `message_count` counts all that were ever appended.
    """

    key: str
    agent_id: str
    kind: SessionKind
    status: SessionStatus
    label: str | None = None
    task: str | None = None
    created_ms: int
    finished_ms: int | None = None
    # In a repr, a hundred messages would bury everything else.
    messages: tuple[Message, ...] = field(default=(), repr=False)
    run_id: str | None = None
    parent_key: str | None = None
    forked_at_seq: int | None = None
    message_count: int
    last_activity_ms: int
    end_reason: str | None = None
    metadata: Mapping[str, JsonValue] | None = field(default=None, hash=False)

    @property
    def name(self) -> str | None:
        """A conversation's name; None for sessions of other kinds."""
        if self.kind is not SessionKind.CONVERSATION:
            return None
        return self.key.removeprefix(keys.conversation_key(self.agent_id, ""))

    @property
    def created_at(self) -> datetime:
        """`created_ms` as an aware datetime in UTC."""
        return clock.to_datetime(self.created_ms)

    @property
    def finished_at(self) -> datetime | None:
        """`finished_ms` as an aware datetime in UTC."""
        return None if self.finished_ms is None else clock.to_datetime(self.finished_ms)

    @property
    def last_activity_at(self) -> datetime:
        """`last_activity_ms` as an aware datetime in UTC."""
        return clock.to_datetime(self.last_activity_ms)

    def runtime_secs(self, now_ms: int | None = None) -> int:
        """Whole seconds from creation to the end, or to `now_ms` (default: now) while active; never below 0."""
        if self.finished_ms is not None:
            end_ms = self.finished_ms
        elif now_ms is not None:
            end_ms = validation.integer("now_ms", now_ms, minimum=0)
        else:
            end_ms = clock.now_ms()
        return max(0, end_ms - self.created_ms) // 1000

    def spawn_result(self, message: str) -> SpawnResult:
        """What to tell the agent that spawned this session.

        Raises:
            InvalidInput: this is a main session or a conversation, which nobody spawned.
        """
        if self.run_id is None:
            raise InvalidInput("session", "must be a spawned session", self.key)
        return SpawnResult(
            status=self.status.value,
            run_id=self.run_id,
            session_key=self.key,
            message=validation.text("message", message),
        )

    def to_dict(self) -> dict[str, JsonValue]:
        """The session as camelCase JSON, without fields that are None."""
        return camel_case(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSession:
    """A session to be created, checked on construction. Each field is a column of `sessions`.

    Raises:
        InvalidInput: names the argument that can't be stored.
    """

    agent_id: str
    kind: SessionKind
    task: str | None = None
    label: str | None = None
    parent_key: str | None = None
    forked_at_seq: int | None = None
    metadata: Mapping[str, JsonValue] | None = field(default=None, hash=False)
    message_cap: int
    archive_trimmed: bool

    def __post_init__(self) -> None:
        checked = {
            "agent_id": validation.agent_id(self.agent_id),
            "task": validation.optional_text("task", self.task),
            "label": validation.optional_nonempty_name("label", self.label),
            "parent_key": validation.optional_text("parent_key", self.parent_key),
            "metadata": validation.metadata("metadata", self.metadata),
            "message_cap": validation.message_cap(self.message_cap),
            "archive_trimmed": validation.flag("archive_trimmed", self.archive_trimmed),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpawnResult:
    """What an agent is told about a session that it spawned."""

    status: str
    run_id: str
    session_key: str
    message: str

    def to_dict(self) -> dict[str, JsonValue]:
        """The result as camelCase JSON."""
        return camel_case(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedSession:
    """Everything stored about a session, for export and import: the columns of `sessions`, and what belongs to it.

    `metadata` is JSON text. `labels` are those that the session owns, each with the time when the session got it.
    Messages are in the order of their numbers.
    """

    key: str = required(keys.checked_key)
    agent_id: str = required(lambda _, value: validation.agent_id(value))
    kind: str = required(stored.one_of(SessionKind))
    status: str = required(stored.one_of(SessionStatus))
    label: str | None = optional(validation.nonempty_name)
    task: str | None = optional(validation.text)
    run_id: str | None = optional(validation.name)
    parent_key: str | None = optional(keys.checked_key)
    forked_at_seq: int | None = optional(stored.count)
    created_ms: int = required(stored.integer)
    finished_ms: int | None = optional(stored.integer)
    end_reason: str | None = optional(validation.text)
    metadata: str | None = optional(stored.metadata_text)
    message_cap: int = required(lambda _, value: validation.message_cap(value))
    last_seq: int = required(stored.count)
    last_activity_ms: int = required(stored.integer)
    archive_trimmed: bool = required(validation.flag)
    labels: Sequence[tuple[str, int]] = ()
    messages: Sequence[ExportedMessage] = ()
    archived_messages: Sequence[ExportedMessage] = ()

    def checked(self) -> ExportedSession:
        """The same session, checked against the input rules and the rules of the schema.

        Raises:
            InvalidInput: names the field that can't be stored.
        """
        session = stored.checked(self)
        kind, status = SessionKind(session.kind), SessionStatus(session.status)
        keys.own_key("key", session.key, session.agent_id, kind)
        is_run = kind in (SessionKind.SUBAGENT, SessionKind.CRON)
        if is_run and session.run_id is None:
            raise InvalidInput("run_id", "must be given", None)
        if status is not SessionStatus.ACTIVE and session.finished_ms is None:
            raise InvalidInput("finished_ms", "must be given", None)
        if not is_run:
            _leave_out(session, "run_id", f"for a {kind} session")
        if session.parent_key is None:
            _leave_out(session, "forked_at_seq", "without parent_key")
        if status is SessionStatus.ACTIVE:
            _leave_out(session, "finished_ms", "for an active session")
            _leave_out(session, "end_reason", "for an active session")
        session = replace(
            session,
            labels=tuple(_label(f"labels[{position}]", *label) for position, label in enumerate(session.labels)),
            messages=_messages(session, "messages", archived=False),
            archived_messages=_messages(session, "archived_messages", archived=True),
        )
        _check_activity(session)
        stored.refuse_twice("labels", "label", [label for label, _ in session.labels])
        _check_numbers(session)
        return session


def _leave_out(session: ExportedSession, name: str, why: str) -> None:
    if (value := getattr(session, name)) is not None:
        raise InvalidInput(name, f"must be left out {why}", value)


def _label(place: str, label: object, assigned_ms: object) -> tuple[str, int]:
    return validation.nonempty_name(f"{place}.label", label), stored.integer(f"{place}.assigned_ms", assigned_ms)


def _messages(session: ExportedSession, name: str, *, archived: bool) -> tuple[ExportedMessage, ...]:
    messages: Sequence[ExportedMessage] = getattr(session, name)
    return tuple(message.checked(f"{name}[{position}]", archived=archived) for position, message in enumerate(messages))


def _check_activity(session: ExportedSession) -> None:
    """Refuse a last activity before one that the session shows: `timeout_idle` would end it early."""
    messages = (*session.messages, *session.archived_messages)
    newest_ms = max((message.timestamp_ms for message in messages), default=session.last_activity_ms)
    if session.last_activity_ms < newest_ms:
        reason = f"must not be before the time of a message ({newest_ms})"
        raise InvalidInput("last_activity_ms", reason, session.last_activity_ms)


def _check_numbers(session: ExportedSession) -> None:
    """Refuse numbers that the triggers would refuse, and messages that they would trim at once."""
    first = max(0, session.last_seq - session.message_cap) + 1
    _check_order("messages", session.messages, first, session.last_seq, f"from {first} (message_cap says) to last_seq")
    stored.refuse_twice("messages", "idempotency_key", [message.idempotency_key for message in session.messages])
    _check_order("archived_messages", session.archived_messages, 1, session.last_seq, "from 1 to last_seq")
    retained = {message.seq for message in session.messages}
    for position, message in enumerate(session.archived_messages):
        if message.seq in retained:
            place = f"archived_messages[{position}].seq"
            raise InvalidInput(place, "must not be that of a retained message", message.seq)


def _check_order(place: str, messages: Sequence[ExportedMessage], first: int, last: int, allowed: str) -> None:
    for position, message in enumerate(messages):
        if not first <= message.seq <= last:
            raise InvalidInput(f"{place}[{position}].seq", f"must go up, {allowed}", message.seq)
        first = message.seq + 1

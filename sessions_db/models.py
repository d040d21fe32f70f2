"""The values that go in and come out, and the grammar of session keys.

Everything is frozen: a change goes through the manager, never through a snapshot.
"""

from __future__ import annotations

import inspect
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import NamedTuple

from sessions_db import validation
from sessions_db.errors import InvalidInput
from sessions_db.validation import JsonValue

DEFAULT_MESSAGE_CAP = 100
"""How many messages a session retains unless told otherwise."""


class SessionKind(StrEnum):
    """What a session is for."""

    MAIN = "main"
    SUBAGENT = "subagent"
    CRON = "cron"


class SessionStatus(StrEnum):
    """Whether a session runs, or how it ended."""

    ACTIVE = "active"
    COMPLETED = "completed"
    ERROR = "error"
    TIMEOUT = "timeout"
    STOPPED = "stopped"


class Role(StrEnum):
    """Who a message is from."""

    USER = "user"
    ASSISTANT = "assistant"
    SYSTEM = "system"
    TOOL = "tool"


class EventKind(StrEnum):
    """What the log records: `session_events` holds a row for each."""

    CREATED = "created"
    STATUS_CHANGED = "status_changed"
    END_CHANGED = "end_changed"
    LABEL_ASSIGNED = "label_assigned"
    LABEL_MOVED = "label_moved"
    LABEL_REMOVED = "label_removed"
    DELETED = "deleted"


class LabelConflict(StrEnum):
    """What a spawn does when its label already belongs to a session."""

    REPLACE = "replace"
    ERROR = "error"


def clock_ms() -> int:
    """Milliseconds since the epoch, UTC."""
    return time.time_ns() // 1_000_000


class Message(NamedTuple):
    """A stored message. Its fields are to be read by their names: their order is not part of the interface.

    `seq` numbers a session's messages from 1 without gaps and is their order; `timestamp_ms`
    (milliseconds since the epoch, UTC) is the writer's clock and only information.
    """

    # A tuple, because reading makes many: a frozen dataclass takes more than three times as long to make, which is a
    # fifth of the time that reading 50 messages from SQLite takes.
    seq: int
    role: Role
    content: str
    timestamp_ms: int
    tool_name: str | None = None
    metadata: Mapping[str, JsonValue] | None = None

    def to_dict(self) -> dict[str, JsonValue]:
        """The message as camelCase JSON, fields that are None left out."""
        return _camel_case(self)


@dataclass(frozen=True, slots=True)
class NewMessage:
    """A message to be stored, checked when it is made.

    Raises:
        InvalidInput: names the argument that can't be stored.
    """

    role: Role | str
    content: str
    tool_name: str | None = None
    metadata: Mapping[str, JsonValue] | None = None
    idempotency_key: str | None = None

    def __post_init__(self) -> None:
        checked = {
            "role": validation.choice("role", self.role, Role),
            "content": validation.text("content", self.content),
            "tool_name": validation.optional_name("tool_name", self.tool_name),
            "metadata": validation.metadata("metadata", self.metadata),
            "idempotency_key": validation.idempotency_key(self.idempotency_key),
        }
        for field, value in checked.items():
            object.__setattr__(self, field, value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A session as it stood when it was read; later changes do not reach it.

    Times are milliseconds since the epoch, UTC. `messages` are retained messages, oldest first (which of
    them depends on the call that made the snapshot); `message_count` counts all that were ever appended.
    """

    key: str
    agent_id: str
    kind: SessionKind
    status: SessionStatus
    label: str | None = None
    task: str | None = None
    created_ms: int
    finished_ms: int | None = None
    messages: tuple[Message, ...] = ()
    run_id: str | None = None
    parent_key: str | None = None
    message_count: int
    last_activity_ms: int
    end_reason: str | None = None
    metadata: Mapping[str, JsonValue] | None = None

    def runtime_secs(self, now_ms: int | None = None) -> int:
        """Whole seconds from creation to the end, or to `now_ms` (default: now) while active; never below 0."""
        if self.finished_ms is not None:
            end_ms = self.finished_ms
        elif now_ms is not None:
            end_ms = validation.integer("now_ms", now_ms, minimum=0)
        else:
            end_ms = clock_ms()
        return max(0, end_ms - self.created_ms) // 1000

    def spawn_result(self, message: str) -> SpawnResult:
        """What to tell the agent that spawned this session.

        Raises:
            InvalidInput: this is a main session, which nobody spawned.
        """
        if self.run_id is None:
            raise InvalidInput.of("session", "must be a spawned session", self.key)
        return SpawnResult(
            status=self.status.value,
            run_id=self.run_id,
            session_key=self.key,
            message=validation.text("message", message),
        )

    def to_dict(self) -> dict[str, JsonValue]:
        """The session as camelCase JSON, fields that are None left out."""
        return _camel_case(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpawnResult:
    """What an agent is told about a session that it spawned."""

    status: str
    run_id: str
    session_key: str
    message: str

    def to_dict(self) -> dict[str, JsonValue]:
        """The result as camelCase JSON."""
        return _camel_case(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionEvent:
    """An entry of the log. `id` is the order; `at_ms` is the database's clock (milliseconds since the epoch, UTC).

    `actor` is whom the manager named, else the database user; `db_user` is the database user in any case, and None on
    SQLite, which knows none. The other fields are None where they do not belong to this kind of event.
    """

    id: int
    at_ms: int
    actor: str | None
    db_user: str | None
    event: EventKind
    session_key: str
    from_status: SessionStatus | None
    to_status: SessionStatus | None
    reason: str | None
    label: str | None
    from_session_key: str | None
    parent_key: str | None
    message_count: int | None

    def to_dict(self) -> dict[str, JsonValue]:
        """The event as camelCase JSON, fields that are None left out."""
        return _camel_case(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seal:
    """A digest over all events up to `through_event_id`. `sealed_ms` is in milliseconds since the epoch, UTC."""

    id: int
    sealed_ms: int
    actor: str | None
    through_event_id: int
    event_count: int
    previous_digest: str
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What verifying the log found.

    `event_id` is the first event that is not as it was sealed and `fault` says in what way; without a fault the log is
    as it was when `seal`, the newest that was looked at, was made. `expired` events were deleted after the 30 days that
    the log keeps them; `unsealed` ones came after the last seal, and nothing is known of them.
    """

    fault: str | None
    event_id: int | None
    seal: Seal | None
    verified: int
    expired: int
    unsealed: int


def main_key(agent_id: str) -> str:
    """The key of the one main session that an agent has."""
    return f"agent:{agent_id}:{SessionKind.MAIN}"


def spawned_key(agent_id: str, kind: SessionKind, session_id: uuid.UUID) -> str:
    """The key of a sub-agent or cron session."""
    return f"agent:{agent_id}:{kind}:{session_id}"


def _camel_case(value: Message | Session | SessionEvent | SpawnResult) -> dict[str, JsonValue]:
    camel: dict[str, JsonValue] = {}
    model: type = type(value)
    for field, json_name in _json_names(model):
        item = getattr(value, field)
        if field == "messages":
            camel[json_name] = [message.to_dict() for message in item]
        elif item is not None:
            camel[json_name] = item.value if isinstance(item, StrEnum) else item
    return camel


@cache
def _json_names(model: type) -> tuple[tuple[str, str], ...]:
    names = []
    for field in inspect.signature(model).parameters:
        first, *rest = field.split("_")
        names.append((field, first + "".join(word.capitalize() for word in rest)))
    return tuple(names)

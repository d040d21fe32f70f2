"""Messages as they are read, written and exported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import NamedTuple

from sessions_db import clock, validation
from sessions_db.enums import Role
from sessions_db.errors import InvalidInput
from sessions_db.models.camel_case import camel_case
from sessions_db.models.stored import checked, integer, metadata_text, number, one_of, optional, required
from sessions_db.validation import JsonValue


class Message(NamedTuple):
    """A stored message. Access its fields by name: their order is not part of the interface.

    `seq` numbers a session's messages from 1 and gives their order; no number is given twice. `timestamp_ms`
    (milliseconds since the epoch, UTC) is by the writer's clock and only informational. `archived_ms` is when the
    database moved the message to the archive, and None while the session retains it.
    """

    # A tuple, because a read creates many of them: creating a frozen dataclass takes more than three times as long,
    # which was a fifth of the time of reading 50 messages from SQLite (measured once).
    seq: int
    role: Role
    content: str
    timestamp_ms: int
    tool_name: str | None = None
    metadata: Mapping[str, JsonValue] | None = None
    archived_ms: int | None = None

    def __hash__(self) -> int:
        # Metadata, a dict, has no hash.
        return hash((*self[:5], self.archived_ms))

    @property
    def sent_at(self) -> datetime:
        """`timestamp_ms` as an aware datetime in UTC."""
        return clock.to_datetime(self.timestamp_ms)

    @property
    def archived_at(self) -> datetime | None:
        """`archived_ms` as an aware datetime in UTC."""
        return None if self.archived_ms is None else clock.to_datetime(self.archived_ms)

    def to_dict(self) -> dict[str, JsonValue]:
        """The message as camelCase JSON, without fields that are None."""
        return camel_case(self)


@dataclass(frozen=True, slots=True)
class NewMessage:
    """A message to be stored, checked on construction.

    Raises:
        InvalidInput: names the argument that can't be stored.
    """

    role: Role | str
    content: str
    tool_name: str | None = None
    metadata: Mapping[str, JsonValue] | None = field(default=None, hash=False)
    idempotency_key: str | None = None

    def __post_init__(self) -> None:
        # One by one, and only what there is or changes: this is on the way of every append.
        fill = partial(object.__setattr__, self)
        if (role := validation.choice("role", self.role, Role)) is not self.role:
            fill("role", role)
        if (content := validation.text("content", self.content)) is not self.content:
            fill("content", content)
        if self.tool_name is not None:
            fill("tool_name", validation.name("tool_name", self.tool_name))
        if self.metadata is not None:
            fill("metadata", validation.metadata("metadata", self.metadata))
        if self.idempotency_key is not None:
            fill("idempotency_key", validation.nonempty_name("idempotency_key", self.idempotency_key))


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedMessage:
    """Everything that is stored about a message, for export and import: the columns of `archived_messages`.

    `metadata` is JSON text. `archived_ms` is None for a message that its session retains.
    """

    seq: int = required(number)
    role: str = required(one_of(Role))
    content: str = required(validation.text)
    tool_name: str | None = optional(validation.name)
    metadata: str | None = optional(metadata_text)
    timestamp_ms: int = required(integer)
    idempotency_key: str | None = optional(validation.nonempty_name)
    archived_ms: int | None = optional(integer)

    def checked(self, place: str, *, archived: bool) -> ExportedMessage:
        """The same message, checked; `place` names it in errors.

        Raises:
            InvalidInput: names the field that can't be stored.
        """
        try:
            message = checked(self)
        except InvalidInput as error:
            raise InvalidInput(f"{place}.{error.argument}", error.reason, error.value) from error
        if archived != (message.archived_ms is not None):
            must = "must be given" if archived else "must be left out"
            raise InvalidInput(f"{place}.archived_ms", must, message.archived_ms)
        return message

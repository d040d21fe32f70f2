"""Appending messages, reading, redacting and removing them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sessions_db import validation
from sessions_db.enums import Role
from sessions_db.errors import InvalidInput
from sessions_db.models import Archive, Message, NewMessage
from sessions_db.operations import appending, transcripts
from sessions_db.operations import history as reading
from sessions_db.operations.appending_together import Append
from sessions_db.store.runner import Runner
from sessions_db.validation import JsonValue


class Messages(Runner):
    """Operations on messages."""

    def history(
        self,
        key: str,
        limit: int | None = None,
        include_tools: bool = False,
        *,
        after_seq: int | None = None,
        before_seq: int | None = None,
        archived: bool = False,
    ) -> list[Message] | None:
        """The newest retained messages, oldest first, or None if there is no such session.

        Args:
            key: the session's key.
            limit: at most this many messages (default: all that are retained).
            include_tools: False leaves tool messages out before the limit is applied.
            after_seq: only messages after this number; the limit then keeps the oldest of them, for paging forward.
            before_seq: only messages before this number, for paging back.
            archived: True reads on into the archive: the messages that a session with `archive_trimmed` no longer
                retains, with their `archived_ms`.
        """
        return self._run(
            reading.history,
            validation.text("key", key),
            limit=validation.optional_integer("limit", limit, minimum=0),
            include_tools=validation.flag("include_tools", include_tools),
            after_seq=validation.optional_integer("after_seq", after_seq, minimum=0),
            before_seq=validation.optional_integer("before_seq", before_seq, minimum=0),
            archived=validation.flag("archived", archived),
        )

    def _metadata(self, key: str, limit: int | None = None) -> list[tuple[int, Mapping[str, JsonValue]]] | None:
        """The numbers and metadata of the newest retained messages, oldest first; None if one of them has none.

        Nothing, too, if there is no such session.
        """
        return self._run(
            reading.metadata,
            validation.text("key", key),
            limit=validation.optional_integer("limit", limit, minimum=0),
        )

    def send_message(
        self,
        key: str,
        message: str,
        *,
        metadata: Mapping[str, JsonValue] | None = None,
        idempotency_key: str | None = None,
    ) -> Message:
        """The message, stored with the role `user` in an active session.

        Args:
            key: the session's key.
            message: the text; it may be empty.
            metadata: any JSON object.
            idempotency_key: makes it safe to repeat the call: while the session retains a message with this key,
                that message is returned and nothing is stored, even if the session has ended since.

        Raises:
            SessionNotFound: there is no such session.
            SessionNotActive: it has ended.
            IdempotencyConflict: the message with this key has another role, content, tool name or metadata.
        """
        text = validation.text("message", message)
        new = NewMessage(Role.USER, text, metadata=metadata, idempotency_key=idempotency_key)
        (stored,) = self._append(Append(validation.text("key", key), [new], active_only=True, owns_messages=True))
        return stored

    def add_message(
        self,
        key: str,
        role: Role | str,
        content: str,
        *,
        tool_name: str | None = None,
        metadata: Mapping[str, JsonValue] | None = None,
        idempotency_key: str | None = None,
        expected_count: int | None = None,
    ) -> Message:
        """The message, stored whatever the session's status.

        Args:
            key: the session's key.
            role: `user`, `assistant`, `system` or `tool`.
            content: the text; it may be empty.
            tool_name: the tool that the message is from or about.
            metadata: any JSON object.
            idempotency_key: makes it safe to repeat the call: while the session retains a message with this key,
                that message is returned and nothing is stored.
            expected_count: store the message only if the session has had exactly so many messages (`message_count`):
                of two runs that continue from the same point, one is refused.

        Raises:
            SessionNotFound: there is no such session.
            SessionChanged: it has had another number of messages.
            IdempotencyConflict: the message with this key has another role, content, tool name or metadata.
        """
        new = NewMessage(role, content, tool_name, metadata, idempotency_key)
        key = validation.text("key", key)
        expected_count = validation.optional_integer("expected_count", expected_count, minimum=0)
        (stored,) = self._append(Append(key, [new], expected_count=expected_count, owns_messages=True))
        return stored

    def add_messages(
        self, key: str, messages: Iterable[NewMessage], *, expected_count: int | None = None
    ) -> list[Message]:
        """The messages, in order: all stored or none, however many (up to 1,000,000,000 bytes together, as JSON).

        A message whose `idempotency_key` the session already retains is returned as it was stored.

        Args:
            key: the session's key.
            messages: in order.
            expected_count: store them only if the session has had exactly so many messages. It is not looked at if
                all of them are there already, by their idempotency keys.

        Raises:
            SessionNotFound: there is no such session.
            SessionChanged: it has had another number of messages.
            IdempotencyConflict: the session, or the batch, has another message with one of the keys.
        """
        batch = _batch(messages)
        key = validation.text("key", key)
        expected_count = validation.optional_integer("expected_count", expected_count, minimum=0)
        if any(new.idempotency_key is not None for new in batch):
            stored = self._run(appending.append_many_once, key, batch, expected_count)
            self._appended(key)
            return stored
        return self._append(Append(key, batch, expected_count=expected_count))

    def redact_message(self, key: str, seq: int, *, reason: str) -> Message | None:
        """The message, whose content, metadata and tool name are replaced by a mark; None if there is no such session.

        Its number, role and time stay, and the log records the number and the reason. An archived message is redacted
        too. One that was redacted before is returned as it is. A task that says the same as the message is replaced by
        the mark; copies in other sessions stay.

        Args:
            key: the session's key.
            seq: the message's number.
            reason: why, for the log and the metadata, which is `{"redacted": reason}` then.

        Raises:
            InvalidInput: the session has no such message.
        """
        return self._run(
            transcripts.redact,
            validation.text("key", key),
            validation.integer("seq", seq, minimum=1),
            validation.nonempty_name("reason", reason),
        )

    def pop_messages(self, key: str, count: int | None = 1) -> list[Message] | None:
        """The newest retained messages, oldest first, removed from the session; None if there is no such session.

        They are archived where the session archives. Their numbers are not given again, and the log records them.

        Args:
            key: the session's key.
            count: how many at most (None: all that are retained).
        """
        return self._run(
            transcripts.pop,
            validation.text("key", key),
            validation.optional_integer("count", count, minimum=0),
        )

    def archives(self, limit: int = 50) -> list[Archive]:
        """The sessions that have archived messages, those with the most first."""
        return self._run(reading.archives, limit=validation.integer("limit", limit, minimum=0))


def _batch(messages: Iterable[NewMessage]) -> list[NewMessage]:
    if isinstance(messages, str) or not isinstance(messages, Iterable):
        raise InvalidInput("messages", "must be a collection", messages)
    batch = []
    for position, new in enumerate(messages):
        if not isinstance(new, NewMessage):
            raise InvalidInput(f"messages[{position}]", "must be a NewMessage", new)
        batch.append(new)
    return batch

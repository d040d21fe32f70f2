"""The operations on plain dictionaries and lists: the yardstick of the model test.

The test supplies times, and keys that the manager under test has created, so that both sides agree.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from sessions_db import (
    IdempotencyConflict,
    InvalidInput,
    LabelInUse,
    Message,
    NewMessage,
    Role,
    Session,
    SessionChanged,
    SessionKind,
    SessionNotActive,
    SessionNotFound,
    SessionStatus,
)
from tests.support.clock import at


@dataclass
class Record:
    """A session that can change."""

    key: str
    agent_id: str
    kind: SessionKind
    created_ms: int
    last_activity_ms: int
    cap: int
    label: str | None = None
    task: str | None = None
    run_id: str | None = None
    parent_key: str | None = None
    forked_at_seq: int | None = None
    metadata: dict[str, Any] | None = None
    archive: bool = False
    archived: list[Message] = field(default_factory=list)
    popped: set[int] = field(default_factory=set)
    status: SessionStatus = SessionStatus.ACTIVE
    finished_ms: int | None = None
    end_reason: str | None = None
    count: int = 0
    messages: list[Message] = field(default_factory=list)
    by_idempotency_key: dict[str, Message] = field(default_factory=dict)

    def copy(self) -> Record:
        """Another record that holds the same messages and metadata, which are never changed in place."""
        return replace(
            self,
            archived=[*self.archived],
            popped={*self.popped},
            messages=[*self.messages],
            by_idempotency_key={**self.by_idempotency_key},
        )

    def snapshot(self, message_limit: int | None = None) -> Session:
        """The session as the library shows it."""
        shown = self.messages if message_limit is None else self.messages[max(0, len(self.messages) - message_limit) :]
        return Session(
            key=self.key,
            agent_id=self.agent_id,
            kind=self.kind,
            status=self.status,
            label=self.label,
            task=self.task,
            created_ms=self.created_ms,
            finished_ms=self.finished_ms,
            messages=tuple(shown),
            run_id=self.run_id,
            parent_key=self.parent_key,
            forked_at_seq=self.forked_at_seq,
            metadata=self.metadata,
            message_count=self.count,
            last_activity_ms=self.last_activity_ms,
            end_reason=self.end_reason,
        )


# What must be the same where an idempotency key comes again.
_COMPARED = ("role", "content", "tool_name", "metadata")


class Model:
    """The operations, on a dictionary."""

    def __init__(self, cap: int) -> None:
        self.sessions: dict[str, Record] = {}
        self.labels: dict[str, str] = {}
        self.cap = cap
        self.now_ms = 0

    def copy(self) -> Model:
        """Another model that holds the same."""
        other = Model(self.cap)
        other.sessions = {key: record.copy() for key, record in self.sessions.items()}
        other.labels, other.now_ms = {**self.labels}, self.now_ms
        return other

    def get_or_create_main(self, agent_id: str) -> Session:
        return self._get_or_create(f"agent:{agent_id}:main", agent_id, SessionKind.MAIN)

    def get_or_create(self, agent_id: str, name: str) -> Session:
        return self._get_or_create(f"agent:{agent_id}:conversation:{name}", agent_id, SessionKind.CONVERSATION)

    def _get_or_create(self, key: str, agent_id: str, kind: SessionKind) -> Session:
        if key not in self.sessions:
            self.sessions[key] = Record(key, agent_id, kind, self.now_ms, self.now_ms, self.cap)
        return self.sessions[key].snapshot()

    def check_spawn(self, label: str | None, parent_key: str | None, on_label_conflict: str) -> None:
        """Raise what the spawn must raise."""
        if parent_key is not None:
            self._record(parent_key)
        if label in self.labels and on_label_conflict == "error":
            raise LabelInUse(label, self.labels[label])

    def check_fork(self, key: str, at_seq: int, label: str | None, on_label_conflict: str) -> None:
        """Raise what the fork must raise."""
        record = self._record(key)
        if at_seq > record.count:
            raise InvalidInput("at_seq", f"must be at most {record.count}, the session's message_count", at_seq)
        self.check_spawn(label, None, on_label_conflict)

    def fork(self, made: Session, key: str, at_seq: int, archive: bool | None) -> None:
        """Adopt a session that the manager made of another."""
        origin = self._record(key)
        self.spawn(made, origin.cap, origin.archive if archive is None else archive)
        record = self.sessions[made.key]
        record.forked_at_seq, record.task, record.metadata = at_seq, origin.task, origin.metadata
        stored = [message for message in origin.archived if message.seq not in origin.popped] + origin.messages
        copied = [message for message in stored if message.seq <= at_seq]
        if not record.archive:
            copied = copied[max(0, len(copied) - record.cap) :]
        record.messages = [
            message._replace(seq=number, archived_ms=None) for number, message in enumerate(copied, start=1)
        ]
        record.count = len(copied)
        record.last_activity_ms = max([self.now_ms, *(message.timestamp_ms for message in copied)])
        self._trim(record)

    def update_session(
        self, key: str, *, metadata: Any = ..., replace_metadata: bool, label: Any = ..., on_label_conflict: str
    ) -> Session:
        record = self._record(key)
        if label is not ...:
            if label is not None and on_label_conflict == "error" and self.labels.get(label, key) != key:
                raise LabelInUse(label, self.labels[label])
            self.labels = {name: owner for name, owner in self.labels.items() if owner != key}
            if label is not None:
                self.labels[label] = key
            record.label = label
        if metadata is not ...:
            kept = {} if replace_metadata or metadata is None else record.metadata or {}
            if metadata is None or replace_metadata:
                record.metadata = metadata
            else:
                removed = {name for name, value in metadata.items() if value is None}
                record.metadata = {name: value for name, value in (kept | metadata).items() if name not in removed}
        return record.snapshot()

    def pop_messages(self, key: str, count: int | None) -> builtins.list[Message] | None:
        if key not in self.sessions:
            return None
        record = self.sessions[key]
        left = 0 if count is None else max(0, len(record.messages) - count)
        popped = record.messages[left:]
        record.messages = record.messages[:left]
        record.popped |= {message.seq for message in popped}
        if record.archive:
            record.archived += popped
        self._forget_keys(record)
        return popped

    def redact_message(self, key: str, seq: int, reason: str) -> Message | None:
        if key not in self.sessions:
            return None
        record = self.sessions[key]
        for messages in (record.messages, record.archived):
            for position, message in enumerate(messages):
                if message.seq == seq:
                    if record.task == message.content != "":
                        record.task = "[redacted]"
                    if message.content != "[redacted]":
                        messages[position] = self._redacted(record, message, reason)
                    return messages[position]
        raise InvalidInput("seq", "must be the number of a message that is stored", seq)

    def _redacted(self, record: Record, message: Message, reason: str) -> Message:
        tool_name = None if message.tool_name is None else "[redacted]"
        redacted = message._replace(content="[redacted]", tool_name=tool_name, metadata={"redacted": reason})
        record.by_idempotency_key = {
            name: redacted if known.seq == message.seq else known for name, known in record.by_idempotency_key.items()
        }
        return redacted

    def touch(self, key: str) -> None:
        record = self._active(key)
        record.last_activity_ms = max(record.last_activity_ms, self.now_ms)

    def spawn(self, made: Session, cap: int, archive: bool = False) -> None:
        """Adopt a session that the manager created, because the manager chooses the key and run id."""
        record = Record(made.key, made.agent_id, made.kind, self.now_ms, self.now_ms, cap)
        record.archive = archive
        record.label, record.task, record.parent_key, record.run_id = (
            made.label,
            made.task,
            made.parent_key,
            made.run_id,
        )
        self.sessions[made.key] = record
        if made.label is not None:
            self.labels[made.label] = made.key

    def get(self, key: str) -> Session | None:
        return self.sessions[key].snapshot() if key in self.sessions else None

    def get_by_label(self, label: str) -> Session | None:
        return self.get(self.labels[label]) if label in self.labels else None

    def list(
        self,
        kinds: Collection[SessionKind] | None,
        active_only: bool,
        limit: int,
        *,
        agent_id: str | None,
        status: SessionStatus | None,
        active_within_ms: int | None,
        under: str | None,
        key_prefix: str | None,
        created_after_ms: int | None,
        created_before_ms: int | None,
        message_limit: int,
    ) -> builtins.list[Session]:
        matches: builtins.list[Callable[[Record], bool]] = []
        if kinds is not None:
            matches.append(lambda record: record.kind in kinds)
        if active_only:
            matches.append(lambda record: record.status == SessionStatus.ACTIVE)
        if agent_id is not None:
            matches.append(lambda record: record.agent_id == agent_id)
        if status is not None:
            matches.append(lambda record: record.status == status)
        if active_within_ms is not None:
            matches.append(lambda record: record.last_activity_ms >= self.now_ms - active_within_ms)
        if under is not None:
            below = {session.key for session in self.descendants(under)}
            matches.append(lambda record: record.key in below)
        if key_prefix is not None:
            matches.append(lambda record: record.key.startswith(key_prefix))
        if created_after_ms is not None:
            matches.append(lambda record: record.created_ms >= created_after_ms)
        if created_before_ms is not None:
            matches.append(lambda record: record.created_ms < created_before_ms)
        found = [record for record in self.sessions.values() if all(match(record) for match in matches)]
        found.sort(key=lambda record: (record.created_ms, record.key), reverse=True)
        return [record.snapshot(message_limit) for record in found[:limit]]

    def history(
        self, key: str, limit: int | None, include_tools: bool, after_seq: int | None, before_seq: int | None
    ) -> builtins.list[Message] | None:
        if key not in self.sessions:
            return None
        kept = [m for m in self.sessions[key].messages if include_tools or m.role != Role.TOOL]
        if before_seq is not None:
            kept = [m for m in kept if m.seq < before_seq]
        if after_seq is not None:
            return [m for m in kept if m.seq > after_seq][:limit]
        return kept if limit is None else kept[max(0, len(kept) - limit) :]

    def wait_for_messages(self, key: str, after_seq: int) -> builtins.list[Message]:
        return [message for message in self._record(key).messages if message.seq > after_seq]

    def wait_for_end(self, keys: Collection[str]) -> builtins.list[Session]:
        found = [self.sessions[key] for key in dict.fromkeys(keys) if key in self.sessions]
        return [record.snapshot(0) for record in found if record.status is not SessionStatus.ACTIVE]

    def send_message(self, key: str, message: str, idempotency_key: str | None = None) -> Message:
        record = self._record(key)
        if idempotency_key not in record.by_idempotency_key:
            self._active(key)
        return self.add_messages(key, [NewMessage("user", message, idempotency_key=idempotency_key)])[0]

    def add_messages(
        self, key: str, batch: Collection[NewMessage], expected_count: int | None = None
    ) -> builtins.list[Message]:
        record = self._record(key)
        # The whole batch is looked up before any of it is stored, and so before any of it trims.
        known = dict(record.by_idempotency_key)
        said: dict[str, Message | NewMessage] = {**known}
        for new in batch:
            if new.idempotency_key is not None:
                first = said.setdefault(new.idempotency_key, new)
                if first.content == "[redacted]":
                    continue
                differing = [name for name in _COMPARED if getattr(first, name) != getattr(new, name)]
                if differing:
                    raise IdempotencyConflict(new.idempotency_key, key, tuple(differing))
        are_known = bool(batch) and all(new.idempotency_key in known for new in batch)
        if expected_count is not None and expected_count != record.count and not are_known:
            raise SessionChanged(key, expected_count, record.count)
        stored = []
        for new in batch:
            if new.idempotency_key is None:
                stored.append(self._append(record, new, trim=False))
            elif new.idempotency_key in known:
                stored.append(known[new.idempotency_key])
            else:
                stored.append(self._append(record, new, trim=False))
                known[new.idempotency_key] = stored[-1]
        self._trim(record)
        return stored

    def end(self, key: str, status: SessionStatus, reason: str | None) -> bool:
        record = self._record(key)
        if record.status is status:
            return False
        if record.status is not SessionStatus.ACTIVE:
            raise SessionNotActive(key, record.status)
        record.status, record.finished_ms, record.end_reason = status, self.now_ms, reason
        return True

    def reopen_session(self, key: str) -> Session:
        record = self._record(key)
        if record.status is not SessionStatus.ACTIVE:
            record.status, record.finished_ms, record.end_reason = SessionStatus.ACTIVE, None, None
            record.last_activity_ms = max(record.last_activity_ms, self.now_ms)
        return record.snapshot()

    def children(self, key: str) -> builtins.list[Session]:
        found = [record for record in self.sessions.values() if record.parent_key == key]
        return [r.snapshot(0) for r in sorted(found, key=lambda record: (record.created_ms, record.key))]

    def descendants(self, key: str) -> builtins.list[Session]:
        found: dict[str, Session] = {}
        queue = [key]
        while queue:
            for child in self.children(queue.pop()):
                if child.key not in found:
                    found[child.key] = child
                    queue.append(child.key)
        found.pop(key, None)
        return sorted(found.values(), key=lambda session: (session.created_ms, session.key))

    def timeout_idle(self, idle_ms: int, kinds: Collection[SessionKind], agent_id: str | None) -> builtins.list[str]:
        ended = sorted(
            (record.created_ms, record.key)
            for record in self.sessions.values()
            if record.status is SessionStatus.ACTIVE
            and record.kind in kinds
            and record.last_activity_ms <= self.now_ms - idle_ms
            and agent_id in (None, record.agent_id)
        )
        for _, key in ended:
            self.end(key, SessionStatus.TIMEOUT, f"idle for {timedelta(milliseconds=idle_ms)} or longer")
        return [key for _, key in ended]

    def delete_session(self, key: str) -> bool:
        self.labels = {label: owner for label, owner in self.labels.items() if owner != key}
        return self.sessions.pop(key, None) is not None

    def prune(
        self,
        finished_before_ms: int,
        kinds: Collection[SessionKind] | None,
        agent_id: str | None,
        status: SessionStatus | None,
        dry_run: bool,
    ) -> builtins.list[str]:
        if finished_before_ms > self.now_ms:
            raise InvalidInput("before", "must not be in the future", at(finished_before_ms))
        ended = sorted(
            (record.finished_ms, record.key)
            for record in self.sessions.values()
            if record.finished_ms is not None
            and record.finished_ms < finished_before_ms
            and (record.kind is not SessionKind.CONVERSATION if kinds is None else record.kind in kinds)
            and agent_id in (None, record.agent_id)
            and status in (None, record.status)
        )
        if not dry_run:
            for _, key in ended:
                self.delete_session(key)
        return [key for _, key in ended]

    def _record(self, key: str) -> Record:
        if key not in self.sessions:
            raise SessionNotFound(key)
        return self.sessions[key]

    def _active(self, key: str) -> Record:
        record = self._record(key)
        if record.status is not SessionStatus.ACTIVE:
            raise SessionNotActive(key, record.status)
        return record

    def _append(self, record: Record, new: NewMessage, *, trim: bool = True) -> Message:
        record.count += 1
        record.last_activity_ms = max(record.last_activity_ms, self.now_ms)
        stored = Message(
            role=Role(new.role),
            content=new.content,
            timestamp_ms=self.now_ms,
            tool_name=new.tool_name,
            seq=record.count,
            metadata=new.metadata,
        )
        record.messages.append(stored)
        if new.idempotency_key is not None:
            record.by_idempotency_key[new.idempotency_key] = stored
        if trim:
            self._trim(record)
        return stored

    def _trim(self, record: Record) -> None:
        trimmed = [message for message in record.messages if message.seq <= record.count - record.cap]
        if record.archive:
            record.archived += trimmed
        record.messages = record.messages[len(trimmed) :]
        self._forget_keys(record)

    def _forget_keys(self, record: Record) -> None:
        kept = {message.seq for message in record.messages}
        record.by_idempotency_key = {
            name: message for name, message in record.by_idempotency_key.items() if message.seq in kept
        }

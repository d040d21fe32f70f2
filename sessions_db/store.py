"""`SessionStore`: the operations, as methods with checked arguments."""

from __future__ import annotations

import builtins
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from enum import Enum, auto
from functools import partial
from typing import Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection

from sessions_db import validation
from sessions_db.errors import InvalidInput
from sessions_db.models import (
    EventKind,
    LabelConflict,
    Message,
    NewMessage,
    Role,
    Seal,
    Session,
    SessionEvent,
    SessionKind,
    SessionStatus,
    Verdict,
    clock_ms,
    main_key,
)
from sessions_db.operations import appending, ending, reading, sealing, starting
from sessions_db.operations.attempts import attempts
from sessions_db.validation import JsonValue

_P = ParamSpec("_P")
_T = TypeVar("_T")

_MAX_MESSAGE_CAP = 2**31 - 1  # the column is an INTEGER

# Sessions that one statement of `prune` or `timeout_idle` takes: a lock is held for some milliseconds.
_SWEEP_BATCH = 500


class Needs(Enum):
    """What an operation needs of its connection."""

    READ = auto()
    # Several statements that see one moment.
    SNAPSHOT = auto()
    STATEMENT = auto()
    # One statement too, and the log tells who sent it.
    LOGGED_STATEMENT = auto()
    TRANSACTION = auto()


class SessionStore(ABC):
    """The operations, which a `SessionManager` and a `Transaction` have in common.

    Every argument is checked before anything is sent, and every method raises `InvalidInput` naming an argument
    that can't be taken, `DatabaseUnavailable` when the database can't be reached or stays locked for longer than
    the manager waits, and `SchemaMismatch` when a table is not what it should be. Snapshots that are returned do
    not change any more.
    """

    def __init__(self, *, message_cap: int, archive_trimmed: bool, actor: str | None) -> None:
        self._message_cap = _cap(message_cap)
        self._archive_trimmed = validation.flag("archive_trimmed", archive_trimmed)
        self._actor = validation.actor(actor)

    @abstractmethod
    def _run(
        self,
        needs: Needs,
        operation: Callable[Concatenate[Connection, _P], _T],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> _T: ...

    def get_or_create_main(self, agent_id: str) -> Session:
        """The agent's main session with its retained messages, made if there is none.

        However many processes call this at once, there is one main session for each agent. A main session that
        has ended is returned as it is; `reopen_session` makes it active again.
        """
        agent_id = validation.agent_id(agent_id)
        # Nearly always there is one, and reading it waits for no writer.
        existing = self._run(Needs.READ, reading.get, main_key(agent_id))
        if existing is not None:
            return existing
        return self._run(
            Needs.LOGGED_STATEMENT,
            starting.get_or_create_main,
            agent_id,
            message_cap=self._message_cap,
            archive_trimmed=self._archive_trimmed,
        )

    def spawn_subagent(
        self,
        agent_id: str,
        task: str,
        label: str | None = None,
        parent_key: str | None = None,
        *,
        metadata: Mapping[str, JsonValue] | None = None,
        message_cap: int | None = None,
        archive_trimmed: bool | None = None,
        on_label_conflict: LabelConflict | str = LabelConflict.REPLACE,
        idempotency_key: str | None = None,
    ) -> str:
        """The key of a new, active sub-agent session.

        Args:
            agent_id: who works in the session. Not empty, no colon, no control characters.
            task: what the session is to do.
            label: a name that `get_by_label` finds the session by, until a newer session takes it.
            parent_key: the session that spawned this one.
            metadata: a JSON object of the caller's.
            message_cap: how many messages the session retains (default: the manager's).
            archive_trimmed: whether messages beyond that are archived and not deleted (default: as the manager).
            on_label_conflict: `"replace"` takes the label over from the session that has it, `"error"` refuses.
            idempotency_key: makes it safe to repeat the call: a second spawn with the same key, agent and kind
                gives the first session's key and stores nothing.

        Raises:
            SessionNotFound: there is no session `parent_key`.
            LabelInUse: the label belongs to a session, and `on_label_conflict` is `"error"`.
        """
        return self._spawn(
            SessionKind.SUBAGENT,
            agent_id,
            task,
            label,
            parent_key,
            metadata=metadata,
            message_cap=message_cap,
            archive_trimmed=archive_trimmed,
            on_label_conflict=on_label_conflict,
            idempotency_key=idempotency_key,
        )

    def spawn_cron(
        self,
        agent_id: str,
        task: str,
        label: str | None = None,
        parent_key: str | None = None,
        *,
        metadata: Mapping[str, JsonValue] | None = None,
        message_cap: int | None = None,
        archive_trimmed: bool | None = None,
        on_label_conflict: LabelConflict | str = LabelConflict.REPLACE,
        idempotency_key: str | None = None,
    ) -> str:
        """The key of a new, active session for a scheduled run. Otherwise as `spawn_subagent`.

        Raises:
            SessionNotFound: there is no session `parent_key`.
            LabelInUse: the label belongs to a session, and `on_label_conflict` is `"error"`.
        """
        return self._spawn(
            SessionKind.CRON,
            agent_id,
            task,
            label,
            parent_key,
            metadata=metadata,
            message_cap=message_cap,
            archive_trimmed=archive_trimmed,
            on_label_conflict=on_label_conflict,
            idempotency_key=idempotency_key,
        )

    def _spawn(
        self,
        kind: SessionKind,
        agent_id: str,
        task: str,
        label: str | None,
        parent_key: str | None,
        *,
        metadata: Mapping[str, JsonValue] | None,
        message_cap: int | None,
        archive_trimmed: bool | None,
        on_label_conflict: LabelConflict | str,
        idempotency_key: str | None,
    ) -> str:
        return self._run(
            Needs.TRANSACTION,
            starting.spawn,
            kind,
            validation.agent_id(agent_id),
            validation.text("task", task),
            validation.optional_name("label", label),
            validation.optional_text("parent_key", parent_key),
            metadata=validation.metadata("metadata", metadata),
            message_cap=self._message_cap if message_cap is None else _cap(message_cap),
            archive_trimmed=(
                self._archive_trimmed
                if archive_trimmed is None
                else validation.flag("archive_trimmed", archive_trimmed)
            ),
            on_label_conflict=validation.choice("on_label_conflict", on_label_conflict, LabelConflict),
            idempotency_key=validation.idempotency_key(idempotency_key),
        )

    def get(self, key: str) -> Session | None:
        """The session with all its retained messages, or None if there is none."""
        return self._run(Needs.READ, reading.get, validation.text("key", key))

    def get_by_label(self, label: str) -> Session | None:
        """The session that the label belongs to, ended or not, with its retained messages; None if there is none.

        A label belongs to the newest session that was spawned with it.
        """
        return self._run(Needs.READ, reading.get_by_label, validation.text("label", label))

    def list(
        self,
        kinds: Collection[SessionKind | str] | None = None,
        active_only: bool = False,
        limit: int = 50,
        *,
        agent_id: str | None = None,
        parent_key: str | None = None,
        status: SessionStatus | str | None = None,
        active_within_ms: int | None = None,
        message_limit: int = 0,
        before: Session | None = None,
    ) -> builtins.list[Session]:
        """The newest sessions that pass every filter: by `created_ms` descending, then by key descending.

        Args:
            kinds: only these kinds; an empty collection matches nothing.
            active_only: only sessions that have not ended.
            limit: how many sessions at most.
            agent_id: only this agent's.
            parent_key: only those that this session spawned.
            status: only those with this status.
            active_within_ms: only those whose last activity is at most this many milliseconds ago.
            message_limit: how many of its newest messages each session comes with.
            before: only sessions that come after this one in the order. The last session of a page, given here,
                leads to the next page, whatever was created or deleted meanwhile.
        """
        statuses = None if status is None else {validation.choice("status", status, SessionStatus)}
        if validation.flag("active_only", active_only):
            statuses = {SessionStatus.ACTIVE} if statuses is None else statuses & {SessionStatus.ACTIVE}
        if active_within_ms is not None:
            active_within_ms = validation.integer("active_within_ms", active_within_ms, minimum=0)
        if before is not None:
            _check_position(before)
        return self._run(
            Needs.READ,
            reading.page,
            kinds=None if kinds is None else validation.choices("kinds", kinds, SessionKind),
            statuses=statuses,
            agent_id=validation.optional_text("agent_id", agent_id),
            parent_key=validation.optional_text("parent_key", parent_key),
            active_since_ms=None if active_within_ms is None else _ago(active_within_ms),
            before=before,
            limit=validation.integer("limit", limit, minimum=0),
            message_limit=validation.integer("message_limit", message_limit, minimum=0),
        )

    def children(self, key: str) -> builtins.list[Session]:
        """The sessions that `key` spawned, oldest first, without messages. They outlive a parent that is pruned."""
        return self._run(Needs.READ, reading.children, validation.text("key", key))

    def descendants(self, key: str) -> builtins.list[Session]:
        """The sessions that `key` spawned, and those that they spawned, and so on, oldest first, without messages.

        A cycle, which only SQL written by hand can make, is walked once.
        """
        return self._run(Needs.READ, reading.descendants, validation.text("key", key))

    def history(self, key: str, limit: int | None = None, include_tools: bool = False) -> builtins.list[Message] | None:
        """The newest retained messages, oldest first, or None if there is no such session.

        Args:
            key: the session's key.
            limit: how many messages at most (default: all that are retained).
            include_tools: False leaves tool messages out before the limit is applied.
        """
        return self._run(
            Needs.READ,
            reading.history,
            validation.text("key", key),
            limit=None if limit is None else validation.integer("limit", limit, minimum=0),
            include_tools=validation.flag("include_tools", include_tools),
        )

    def send_message(self, key: str, message: str) -> Message:
        """The message, stored with the role `user` in an active session.

        Raises:
            SessionNotFound: there is no such session.
            SessionNotActive: it has ended.
        """
        new = NewMessage(Role.USER, validation.text("message", message))
        return self._run(Needs.STATEMENT, appending.append, validation.text("key", key), new, active_only=True)

    def add_message(
        self,
        key: str,
        role: Role | str,
        content: str,
        *,
        tool_name: str | None = None,
        metadata: Mapping[str, JsonValue] | None = None,
        idempotency_key: str | None = None,
    ) -> Message:
        """The message, stored whatever the session's status.

        Args:
            key: the session's key.
            role: `user`, `assistant`, `system` or `tool`.
            content: the text; it may be empty.
            tool_name: the tool that the message is from or about.
            metadata: a JSON object of the caller's.
            idempotency_key: makes it safe to repeat the call: while the session retains a message with this key,
                that message is returned and nothing is stored.

        Raises:
            SessionNotFound: there is no such session.
        """
        new = NewMessage(role, content, tool_name, metadata, idempotency_key)
        return self._run(Needs.STATEMENT, appending.append, validation.text("key", key), new)

    def add_messages(self, key: str, messages: Iterable[NewMessage]) -> builtins.list[Message]:
        """The messages in their order, all stored or none, however many (as JSON, up to 1,000,000,000 bytes together).

        A message whose `idempotency_key` the session already retains is returned as it is there.

        Raises:
            SessionNotFound: there is no such session.
        """
        batch = _batch(messages)
        if any(new.idempotency_key is not None for new in batch):
            return self._run(Needs.TRANSACTION, appending.append_many_once, validation.text("key", key), batch)
        return self._run(Needs.STATEMENT, appending.append_many, validation.text("key", key), batch)

    def complete_session(self, key: str, reason: str | None = None) -> bool:
        """End the session as completed: True if this call did, False if it had already ended so.

        The first end wins: whichever of several callers comes first, the others do not change what it left.

        Raises:
            SessionNotFound: there is no such session.
            SessionNotActive: it has ended in another way.
        """
        return self._end(key, SessionStatus.COMPLETED, reason)

    def error_session(self, key: str, reason: str | None = None) -> bool:
        """End the session as failed. Otherwise as `complete_session`.

        Raises:
            SessionNotFound: there is no such session.
            SessionNotActive: it has ended in another way.
        """
        return self._end(key, SessionStatus.ERROR, reason)

    def timeout_session(self, key: str, reason: str | None = None) -> bool:
        """End the session as timed out. Otherwise as `complete_session`.

        Raises:
            SessionNotFound: there is no such session.
            SessionNotActive: it has ended in another way.
        """
        return self._end(key, SessionStatus.TIMEOUT, reason)

    def stop_session(self, key: str, reason: str | None = None) -> bool:
        """End the session as stopped by somebody. Otherwise as `complete_session`.

        Raises:
            SessionNotFound: there is no such session.
            SessionNotActive: it has ended in another way.
        """
        return self._end(key, SessionStatus.STOPPED, reason)

    def _end(self, key: str, status: SessionStatus, reason: str | None) -> bool:
        return self._run(
            Needs.LOGGED_STATEMENT,
            ending.end,
            validation.text("key", key),
            status,
            validation.optional_text("reason", reason),
        )

    def reopen_session(self, key: str) -> Session:
        """The session, active again, its end and the reason for it cleared. An active session stays as it is.

        Raises:
            SessionNotFound: there is no such session.
        """
        return self._run(Needs.TRANSACTION, ending.reopen, validation.text("key", key))

    def timeout_idle(
        self,
        idle_ms: int,
        kinds: Collection[SessionKind | str] = (SessionKind.SUBAGENT, SessionKind.CRON),
        *,
        dry_run: bool = False,
        progress: Callable[[int, int], object] | None = None,
    ) -> builtins.list[str]:
        """End, as timed out, the active sessions of these kinds without activity for `idle_ms` milliseconds.

        Activity is creation, an append or a reopening. A service calls this at its start, to end what a crash
        left active. A manager ends them in batches, each a transaction, so that no lock is held for long.

        Args:
            idle_ms: 1 or more, and at most 100 years.
            kinds: only these kinds.
            dry_run: end nothing.
            progress: called after each batch with how many sessions were ended, and how many there were to end.

        Returns:
            The keys of the sessions that were (or would be) ended, the oldest first.
        """
        checked_ms = validation.integer("idle_ms", idle_ms, minimum=1, maximum=validation.MAX_AGE_MS)
        sweep = ending.idle(_ago(checked_ms), validation.choices("kinds", kinds, SessionKind))
        reason = f"idle for {checked_ms} ms or more"
        return self._sweep(sweep, partial(sweep.time_out, reason=reason), dry_run=dry_run, progress=progress)

    def delete_session(self, key: str) -> bool:
        """Delete the session, ended or not, with its messages and labels; False if there is no such session."""
        return self._run(Needs.LOGGED_STATEMENT, ending.remove, validation.text("key", key))

    def prune(
        self,
        finished_before_ms: int,
        *,
        kinds: Collection[SessionKind | str] | None = None,
        dry_run: bool = False,
        progress: Callable[[int, int], object] | None = None,
    ) -> builtins.list[str]:
        """Delete the sessions that ended before that time, with their messages, archived ones too, and labels.

        Active sessions are never deleted. A manager deletes in batches, each a transaction, so that no lock is
        held for long; what a failed call had already deleted stays deleted.

        Args:
            finished_before_ms: milliseconds since the epoch, UTC; not in the future.
            kinds: only these kinds.
            dry_run: delete nothing.
            progress: called after each batch with how many sessions were deleted, and how many there were to delete.

        Returns:
            The keys of the sessions that were (or would be) deleted, the longest ended first.
        """
        before_ms = validation.integer("finished_before_ms", finished_before_ms, minimum=1, maximum=clock_ms())
        sweep = ending.finished(before_ms, None if kinds is None else validation.choices("kinds", kinds, SessionKind))
        return self._sweep(sweep, sweep.delete, dry_run=dry_run, progress=progress)

    def events(
        self,
        *,
        session_key: str | None = None,
        kind: EventKind | str | None = None,
        after_id: int | None = None,
        limit: int = 50,
    ) -> builtins.list[SessionEvent]:
        """What the log says became of sessions and labels, oldest first: the newest events that pass every filter.

        Args:
            session_key: only what happened to this session, which may be deleted.
            kind: only events of this kind.
            after_id: the events next after this one, instead of the newest. The last event of a page, given here,
                leads to the next page.
            limit: how many events at most.
        """
        return self._run(
            Needs.READ,
            reading.events,
            session_key=validation.optional_text("session_key", session_key),
            kind=None if kind is None else validation.choice("kind", kind, EventKind),
            after_id=None if after_id is None else validation.integer("after_id", after_id, minimum=0),
            limit=validation.integer("limit", limit, minimum=0),
        )

    def seal_log(self) -> Seal | None:
        """Seal the log: a digest over all events so far, chained to the seal before it.

        Keep the digest where whoever may write to the database can't reach it: `verify_log(expect=...)` then tells
        whether the log still is what was sealed. Takes as long as there are events since the last seal; on Postgres it
        needs the rights of the tables' owner, and those who log something wait for a moment.

        Returns:
            The new seal; the last one if nothing was logged since; None if nothing was ever logged.
        """
        # Two transactions: the first makes sure that no event comes late, and holds up others.
        through_event_id = self._run(Needs.TRANSACTION, sealing.last_event_id)
        return self._run(Needs.TRANSACTION, sealing.seal, through_event_id, self._actor)

    def verify_log(self, *, expect: str | None = None, since: str | None = None) -> Verdict:
        """Whether the events of the log are as they were sealed, and if not, the first that is not.

        Args:
            expect: the digest of a seal, kept elsewhere: the log must hold that seal. Without it, only changes by
                somebody who did not make the seals anew are found.
            since: the digest of a seal, kept elsewhere, up to which the log was verified before: only what came after
                it is read.
        """
        return self._run(
            Needs.SNAPSHOT,
            sealing.verify,
            expect=validation.optional_text("expect", expect),
            since=validation.optional_text("since", since),
        )

    def _sweep(
        self,
        sweep: ending.Sweep,
        change: Callable[..., builtins.list[str]],
        *,
        dry_run: bool,
        progress: Callable[[int, int], object] | None,
    ) -> builtins.list[str]:
        if progress is not None and not callable(progress):
            raise InvalidInput.of("progress", "must be callable", progress)
        if validation.flag("dry_run", dry_run):
            return self._run(Needs.READ, sweep.keys)
        total = 0 if progress is None else self._run(Needs.READ, sweep.count)
        swept: builtins.list[str] = []
        turns: Iterator[None] | None = None
        while left := self._run(Needs.READ, sweep.keys, limit=1):
            batch = self._run(Needs.LOGGED_STATEMENT, change, limit=_SWEEP_BATCH)
            swept += batch
            # A batch may come to nothing because somebody else took those sessions: there may be more. Or because
            # something keeps them as they are, and then there is no end.
            if not batch:
                turns = turns or attempts(left[0])
                next(turns)
            if progress is not None:
                progress(len(swept), max(total, len(swept)))
        return swept


def _ago(age_ms: int) -> int:
    # A clock that is set before 1970 can make it earlier than a BIGINT can say.
    return max(-validation.MAX_INTEGER - 1, clock_ms() - age_ms)


def _cap(value: int) -> int:
    return validation.integer("message_cap", value, minimum=1, maximum=_MAX_MESSAGE_CAP)


def _check_position(before: Session) -> None:
    if not isinstance(before, Session):
        raise InvalidInput.of("before", "must be a Session", before)
    validation.text("before.key", before.key)
    validation.integer("before.created_ms", before.created_ms, minimum=-validation.MAX_INTEGER)


def _batch(messages: Iterable[NewMessage]) -> builtins.list[NewMessage]:
    if isinstance(messages, str) or not isinstance(messages, Iterable):
        raise InvalidInput.of("messages", "must be a collection", messages)
    batch = []
    for position, new in enumerate(messages):
        if not isinstance(new, NewMessage):
            raise InvalidInput.of(f"messages[{position}]", "must be a NewMessage", new)
        batch.append(new)
    return batch

"""Creating sessions and reading them."""

from __future__ import annotations

import builtins
from collections.abc import Collection, Mapping

from sessions_db import clock, validation
from sessions_db.enums import LabelConflict, SessionKind, SessionStatus
from sessions_db.errors import InvalidInput
from sessions_db.keys import main_key
from sessions_db.limits import MAX_INTEGER
from sessions_db.models import NewSession, Session
from sessions_db.operations import reading, starting
from sessions_db.store.runner import Runner
from sessions_db.validation import JsonValue


class Sessions(Runner):
    """Operations that create sessions and read them."""

    def get_or_create_main(self, agent_id: str) -> Session:
        """The agent's main session with its retained messages, created if there is none.

        There is one main session for each agent, however many processes call this at once. A main session that has
        ended is returned as it is; `reopen_session` makes it active again.
        """
        new = NewSession(
            agent_id=agent_id,
            kind=SessionKind.MAIN,
            message_cap=self._message_cap,
            archive_trimmed=self._archive_trimmed,
        )
        # It nearly always exists, and reading it does not wait for writers.
        existing = self._run(reading.get, main_key(new.agent_id))
        return self._run(starting.get_or_create_main, new) if existing is None else existing

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
            agent_id: the agent that works in the session. Not empty, no colon, no control characters.
            task: what the session is to do.
            label: a non-empty name by which `get_by_label` finds the session, until a newer session takes it.
            parent_key: the session that spawned this one.
            metadata: any JSON object.
            message_cap: how many messages the session retains (default: the manager's).
            archive_trimmed: whether messages beyond that are archived instead of deleted (default: the manager's).
            on_label_conflict: `"replace"` takes the label over from the session that has it, `"error"` refuses.
            idempotency_key: makes it safe to repeat the call: a second spawn with the same key, agent and kind returns
                the first session's key and stores nothing.

        Raises:
            SessionNotFound: there is no session `parent_key`.
            LabelInUse: the label belongs to a session, and `on_label_conflict` is `"error"`.
            IdempotencyConflict: the session of this key has another task, label, parent or metadata.
        """
        return self._spawn(
            SessionKind.SUBAGENT,
            agent_id,
            task,
            label,
            parent_key,
            metadata,
            message_cap,
            archive_trimmed,
            on_label_conflict,
            idempotency_key,
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
        """The key of a new, active session for a scheduled run. Otherwise like `spawn_subagent`.

        Raises:
            SessionNotFound: there is no session `parent_key`.
            LabelInUse: the label belongs to a session, and `on_label_conflict` is `"error"`.
            IdempotencyConflict: the session of this key has another task, label, parent or metadata.
        """
        return self._spawn(
            SessionKind.CRON,
            agent_id,
            task,
            label,
            parent_key,
            metadata,
            message_cap,
            archive_trimmed,
            on_label_conflict,
            idempotency_key,
        )

    def _spawn(
        self,
        kind: SessionKind,
        agent_id: str,
        task: str,
        label: str | None,
        parent_key: str | None,
        metadata: Mapping[str, JsonValue] | None,
        message_cap: int | None,
        archive_trimmed: bool | None,
        on_label_conflict: LabelConflict | str,
        idempotency_key: str | None,
    ) -> str:
        new = NewSession(
            agent_id=agent_id,
            kind=kind,
            task=validation.text("task", task),
            label=label,
            parent_key=parent_key,
            metadata=metadata,
            message_cap=self._message_cap if message_cap is None else message_cap,
            archive_trimmed=self._archive_trimmed if archive_trimmed is None else archive_trimmed,
        )
        conflict = validation.choice("on_label_conflict", on_label_conflict, LabelConflict)
        idempotency_key = validation.optional_nonempty_name("idempotency_key", idempotency_key)
        if new.label is None:
            return self._run(starting.spawn, new, idempotency_key)
        if conflict is LabelConflict.REPLACE:
            return self._run(starting.spawn_with_label, new, idempotency_key)
        return self._run(starting.spawn_with_free_label, new, idempotency_key)

    def get(self, key: str) -> Session | None:
        """The session with all its retained messages, or None if there is none."""
        return self._run(reading.get, validation.text("key", key))

    def get_by_label(self, label: str) -> Session | None:
        """The session that the label belongs to, ended or not, with its retained messages; None if there is none.

        A label belongs to the newest session that was spawned with it.
        """
        return self._run(reading.get_by_label, validation.text("label", label))

    def list(
        self,
        kinds: Collection[SessionKind | str] | None = None,
        active_only: bool = False,
        limit: int = 50,
        *,
        agent_id: str | None = None,
        parent_key: str | None = None,
        status: SessionStatus | str | Collection[SessionStatus | str] | None = None,
        active_within_ms: int | None = None,
        message_limit: int = 0,
        before: Session | None = None,
    ) -> builtins.list[Session]:
        """The newest sessions that pass every filter: by `created_ms` descending, then by key descending.

        Args:
            kinds: only these kinds; an empty collection matches nothing.
            active_only: only sessions that have not ended.
            limit: at most this many sessions.
            agent_id: only this agent's.
            parent_key: only those that this session spawned.
            status: only those with this status, or one of these; an empty collection matches nothing.
            active_within_ms: only those whose last activity is at most this many milliseconds ago.
            message_limit: how many of its newest messages each session comes with.
            before: only sessions that come after this one in the order. Pass the last session of a page to get the
                next page, whatever was created or deleted meanwhile.
        """
        statuses = validation.optional_one_or_more("status", status, SessionStatus)
        if validation.flag("active_only", active_only):
            statuses = [each for each in (SessionStatus.ACTIVE,) if statuses is None or each in statuses]
        if active_within_ms is not None:
            active_within_ms = validation.integer("active_within_ms", active_within_ms, minimum=0)
        if before is not None:
            _check_position(before)
        return self._run(
            reading.page,
            kinds=validation.optional_choices("kinds", kinds, SessionKind),
            statuses=statuses,
            agent_id=validation.optional_text("agent_id", agent_id),
            parent_key=validation.optional_text("parent_key", parent_key),
            active_since_ms=None
            if active_within_ms is None
            else max(-MAX_INTEGER - 1, clock.now_ms() - active_within_ms),
            before=before,
            limit=validation.integer("limit", limit, minimum=0),
            message_limit=validation.integer("message_limit", message_limit, minimum=0),
        )

    def count_sessions(
        self,
        *,
        agent_id: str | None = None,
        kinds: Collection[SessionKind | str] | None = None,
        statuses: Collection[SessionStatus | str] | None = None,
        descendants_of: str | None = None,
    ) -> int:
        """How many sessions pass every filter that is given.

        Args:
            agent_id: only this agent's.
            kinds: only these kinds.
            statuses: only these statuses.
            descendants_of: only those that this session spawned, directly or indirectly.
        """
        return self._run(
            reading.count,
            agent_id=validation.optional_text("agent_id", agent_id),
            kinds=validation.optional_choices("kinds", kinds, SessionKind),
            statuses=validation.optional_choices("statuses", statuses, SessionStatus),
            descendants_of=validation.optional_text("descendants_of", descendants_of),
        )

    def children(self, key: str) -> builtins.list[Session]:
        """The sessions that `key` spawned, oldest first, without messages. They outlive a parent that is pruned."""
        return self._run(reading.children, validation.text("key", key))

    def descendants(self, key: str) -> builtins.list[Session]:
        """The sessions that `key` spawned, directly or indirectly, oldest first, without messages.

        A cycle, which only SQL written by hand can create, is walked once.
        """
        return self._run(reading.descendants, validation.text("key", key))


def _check_position(before: Session) -> None:
    if not isinstance(before, Session):
        raise InvalidInput("before", "must be a Session", before)
    validation.text("before.key", before.key)
    validation.integer("before.created_ms", before.created_ms, minimum=-MAX_INTEGER)

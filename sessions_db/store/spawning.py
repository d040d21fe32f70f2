"""Spawning sessions."""

from __future__ import annotations

from collections.abc import Mapping

from sessions_db import validation
from sessions_db.enums import LabelConflict, SessionKind
from sessions_db.errors import InvalidInput
from sessions_db.models import SpawnLimits
from sessions_db.operations import starting
from sessions_db.operations.limiting import spawn_within
from sessions_db.store.runner import Runner
from sessions_db.validation import JsonValue


class Spawning(Runner):
    """Operations that start a run."""

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
        limits: SpawnLimits | None = None,
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
            limits: refuse to go beyond these, whatever else spawns with limits at the same time.

        Raises:
            SessionNotFound: there is no session `parent_key`.
            LimitReached: one of the limits.
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
            limits,
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
        limits: SpawnLimits | None = None,
    ) -> str:
        """The key of a new, active session for a scheduled run. Otherwise like `spawn_subagent`.

        Raises:
            SessionNotFound: there is no session `parent_key`.
            LimitReached: one of the limits.
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
            limits,
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
        limits: SpawnLimits | None,
    ) -> str:
        task = validation.text("task", task)
        new = self._new(agent_id, kind, task, label, parent_key, metadata, message_cap, archive_trimmed)
        conflict = validation.choice("on_label_conflict", on_label_conflict, LabelConflict)
        idempotency_key = validation.optional_nonempty_name("idempotency_key", idempotency_key)
        if limits is not None:
            if not isinstance(limits, SpawnLimits):
                raise InvalidInput("limits", "must be SpawnLimits", limits)
            return self._run(spawn_within, limits, new, idempotency_key, conflict)
        if new.label is None:
            return self._run(starting.spawn, new, idempotency_key)
        if conflict is LabelConflict.REPLACE:
            return self._run(starting.spawn_with_label, new, idempotency_key)
        return self._run(starting.spawn_with_free_label, new, idempotency_key)

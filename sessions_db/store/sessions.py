"""Creating sessions and reading them."""

from __future__ import annotations

from collections.abc import Mapping
from types import EllipsisType

from sessions_db import validation
from sessions_db.enums import LabelConflict, SessionKind
from sessions_db.keys import conversation_key, main_key
from sessions_db.models import NewSession, Session
from sessions_db.operations import reading, starting
from sessions_db.operations.forking import Fork, fork_session
from sessions_db.operations.updating import Changes, update_session
from sessions_db.store.runner import Runner
from sessions_db.validation import JsonValue


class Sessions(Runner):
    """Operations that create sessions and read them."""

    def get_or_create_main(
        self,
        agent_id: str,
        *,
        metadata: Mapping[str, JsonValue] | None = None,
        message_cap: int | None = None,
        archive_trimmed: bool | None = None,
    ) -> Session:
        """The agent's main session with its retained messages, created if there is none.

        There is one main session for each agent, however many processes call this at once. A main session that has
        ended is returned as it is; `reopen_session` makes it active again.

        Args:
            agent_id: the agent. Not empty, no colon, no control characters.
            metadata: any JSON object, for a session that is created; one that is there keeps its own.
            message_cap: how many messages a session that is created retains (default: the manager's).
            archive_trimmed: whether messages beyond that are archived instead of deleted (default: the manager's).
        """
        new = self._new(agent_id, SessionKind.MAIN, None, None, None, metadata, message_cap, archive_trimmed)
        return self._get_or_create(main_key(new.agent_id), new)

    def get_or_create(
        self,
        agent_id: str,
        name: str,
        *,
        metadata: Mapping[str, JsonValue] | None = None,
        message_cap: int | None = None,
        archive_trimmed: bool | None = None,
    ) -> Session:
        """The agent's conversation of this name with its retained messages, created if there is none.

        There is one for each agent and name, however many processes call this at once; two agents may use one name.
        A conversation that has ended is returned as it is. Neither `timeout_idle` nor `prune` touches conversations
        unless `kinds` says so.

        Args:
            agent_id: the agent. Not empty, no colon, no control characters.
            name: 1 to 255 bytes of UTF-8 without control characters, such as `telegram:4711`. It ends the session's
                key, and is compared as it is: capitals, spaces and forms of Unicode count.
            metadata: any JSON object, for a session that is created; one that is there keeps its own.
            message_cap: how many messages a session that is created retains (default: the manager's).
            archive_trimmed: whether messages beyond that are archived instead of deleted (default: the manager's).
        """
        new = self._new(agent_id, SessionKind.CONVERSATION, None, None, None, metadata, message_cap, archive_trimmed)
        return self._get_or_create(conversation_key(new.agent_id, validation.conversation_name(name)), new)

    def _get_or_create(self, key: str, new: NewSession) -> Session:
        # It nearly always exists, and reading it does not wait for writers.
        existing = self._run(reading.get, key)
        return self._run(starting.get_or_create, key, new) if existing is None else existing

    def fork_session(
        self,
        key: str,
        at_seq: int,
        *,
        task: str | None = None,
        label: str | None = None,
        metadata: Mapping[str, JsonValue] | None = None,
        message_cap: int | None = None,
        archive_trimmed: bool | None = None,
        on_label_conflict: LabelConflict | str = LabelConflict.REPLACE,
        idempotency_key: str | None = None,
    ) -> str:
        """The key of a new, active sub-agent session that begins with the messages of another up to `at_seq`.

        For a branch, or to try again from a point. The origin, ended or not, stays as it is; the new session has it as
        its `parent_key`, and `at_seq` as its `forked_at_seq`. Copied is what is stored of the messages, archived ones
        too, as far as the new session retains or archives it, with roles, texts, metadata and times. They are numbered
        from 1, and have no idempotency keys.

        Args:
            key: the session to begin with.
            at_seq: the number of the last message to copy; 0 for none.
            task: what the new session is to do (default: the origin's).
            label: a label for the new session, as in `spawn_subagent`.
            metadata: any JSON object (default: the origin's).
            message_cap: how many messages the new session retains (default: as many as the origin).
            archive_trimmed: whether messages beyond that are archived instead of deleted (default: as in the origin).
            on_label_conflict: `"replace"` takes the label over from the session that has it, `"error"` refuses.
            idempotency_key: makes it safe to repeat the call, as in `spawn_subagent`.

        Raises:
            SessionNotFound: there is no session `key`.
            InvalidInput: `at_seq` is larger than its `message_count`, or another argument is not accepted.
            LabelInUse: the label belongs to a session, and `on_label_conflict` is `"error"`.
            IdempotencyConflict: the session of this key has another origin, task, label or metadata.
        """
        fork = Fork(
            origin=validation.text("key", key),
            at_seq=validation.integer("at_seq", at_seq, minimum=0),
            task=validation.optional_text("task", task),
            label=validation.optional_nonempty_name("label", label),
            metadata=validation.metadata("metadata", metadata),
            message_cap=None if message_cap is None else validation.message_cap(message_cap),
            archive_trimmed=None if archive_trimmed is None else validation.flag("archive_trimmed", archive_trimmed),
            on_label_conflict=validation.choice("on_label_conflict", on_label_conflict, LabelConflict),
        )
        return self._run(fork_session, fork, validation.optional_nonempty_name("idempotency_key", idempotency_key))

    def update_session(
        self,
        key: str,
        *,
        metadata: Mapping[str, JsonValue] | EllipsisType | None = ...,
        replace_metadata: bool = False,
        label: str | EllipsisType | None = ...,
        on_label_conflict: LabelConflict | str = LabelConflict.REPLACE,
        task: str | EllipsisType | None = ...,
    ) -> Session:
        """The session, ended or not, after these changes. The log records which of them changed something.

        Args:
            key: the session's key.
            metadata: merged into what is there, as JSON Merge Patch (RFC 7396) says: objects are merged, None removes a
                key, anything else replaces. None instead of an object removes all. Default: it stays.
            replace_metadata: replace what is there instead.
            label: the session gives up its label and gets this one; None for no label. Default: it stays.
            on_label_conflict: `"replace"` takes the label over from the session that has it, `"error"` refuses.
            task: what the session is to do, or None. Default: it stays.

        Raises:
            SessionNotFound: there is no such session.
            LabelInUse: the label belongs to another session, and `on_label_conflict` is `"error"`.
        """
        changes = Changes(
            metadata=... if metadata is ... else validation.metadata("metadata", metadata),
            replace_metadata=validation.flag("replace_metadata", replace_metadata),
            label=... if label is ... else validation.optional_nonempty_name("label", label),
            on_label_conflict=validation.choice("on_label_conflict", on_label_conflict, LabelConflict),
            task=... if task is ... else validation.optional_text("task", task),
        )
        return self._run(update_session, validation.text("key", key), changes)

    def get(self, key: str) -> Session | None:
        """The session with all its retained messages, or None if there is none."""
        return self._run(reading.get, validation.text("key", key))

    def get_by_label(self, label: str) -> Session | None:
        """The session that the label belongs to, ended or not, with its retained messages; None if there is none.

        A label belongs to the session that was the last to get it.
        """
        return self._run(reading.get_by_label, validation.text("label", label))

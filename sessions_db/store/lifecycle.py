"""Ending sessions, reopening them and deleting them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator
from datetime import datetime, timedelta

from sessions_db import validation
from sessions_db.enums import SessionKind, SessionStatus
from sessions_db.errors import InvalidInput
from sessions_db.limits import SWEEP_BATCH
from sessions_db.models import Session
from sessions_db.operations import ending
from sessions_db.operations.attempts import attempts
from sessions_db.operations.selecting import Selection
from sessions_db.store.runner import Runner

_log = logging.getLogger("sessions_db")


class Lifecycle(Runner):
    """Operations that end sessions, reopen them and delete them."""

    def complete_session(self, key: str, reason: str | None = None) -> bool:
        """End the session as completed: True if this call did, False if it had already ended that way.

        The first call wins: later calls never change how the session ended.

        Raises:
            SessionNotFound: there is no such session.
            SessionNotActive: it has ended in another way.
        """
        return self._end(key, SessionStatus.COMPLETED, reason)

    def error_session(self, key: str, reason: str | None = None) -> bool:
        """End the session as failed. Otherwise like `complete_session`.

        Raises:
            SessionNotFound: there is no such session.
            SessionNotActive: it has ended in another way.
        """
        return self._end(key, SessionStatus.ERROR, reason)

    def timeout_session(self, key: str, reason: str | None = None) -> bool:
        """End the session as timed out. Otherwise like `complete_session`.

        Raises:
            SessionNotFound: there is no such session.
            SessionNotActive: it has ended in another way.
        """
        return self._end(key, SessionStatus.TIMEOUT, reason)

    def stop_session(self, key: str, reason: str | None = None) -> bool:
        """End the session as stopped by somebody. Otherwise like `complete_session`.

        Raises:
            SessionNotFound: there is no such session.
            SessionNotActive: it has ended in another way.
        """
        return self._end(key, SessionStatus.STOPPED, reason)

    def _end(self, key: str, status: SessionStatus, reason: str | None) -> bool:
        has_ended = self._run(
            ending.end,
            validation.text("key", key),
            status,
            validation.optional_text("reason", reason),
        )
        self._ended(key)
        return has_ended

    def reopen_session(self, key: str) -> Session:
        """The session, active again, with its end and end reason cleared. An active session stays as it is.

        Raises:
            SessionNotFound: there is no such session.
        """
        return self._run(ending.reopen, validation.text("key", key))

    def touch(self, key: str) -> None:
        """Note that the session is active now: a worker that says nothing for long is not ended as idle.

        Raises:
            SessionNotFound: there is no such session.
            SessionNotActive: it has ended: the worker may stop.
        """
        self._run(ending.touch, validation.text("key", key))

    def timeout_idle(
        self,
        older_than: timedelta | None = None,
        kinds: Collection[SessionKind | str] = (SessionKind.SUBAGENT, SessionKind.CRON),
        *,
        before: datetime | None = None,
        agent_id: str | Collection[str] | None = None,
        dry_run: bool = False,
        progress: Callable[[int, int], object] | None = None,
    ) -> list[str]:
        """End, as timed out, the active sessions of these kinds that have been idle for a while.

        Activity is creation, an append, a reopening or a `touch`. A service calls this on startup, to end what a crash
        left active; where several share a database, each with its own `agent_id`. A manager ends them in
        batches, each in a transaction of its own, so that no lock is held for long.

        Args:
            older_than: how long they have been idle, from 1 ms to 100 years. Either this or `before`.
            kinds: only these kinds.
            before: they have been idle since before this time: an aware datetime, not in the future.
            agent_id: only this agent's, or these agents'; an empty collection matches nothing.
            dry_run: end nothing.
            progress: called after each batch with how many sessions were ended, and how many there were to end.

        Returns:
            The keys of the sessions that were (or would be) ended, the oldest first.
        """
        cutoff_ms = validation.cutoff_ms(older_than, before)
        selection = Selection(
            kinds=validation.choices("kinds", kinds, SessionKind),
            agent_ids=validation.optional_texts("agent_id", agent_id),
        )
        sweep = ending.idle(cutoff_ms, selection)
        reason = f"idle since {before.isoformat()} or longer" if before else f"idle for {older_than} or longer"

        def time_out(limit: int) -> list[str]:
            return self._run(ending.time_out_swept, sweep, limit, reason)

        return self._sweep(sweep, time_out, "timed out", dry_run=dry_run, progress=progress)

    def delete_session(self, key: str) -> bool:
        """Delete the session, ended or not, with its messages and labels; False if there is no such session."""
        is_gone = self._run(ending.remove, validation.text("key", key))
        self._ended(key)
        return is_gone

    def prune(
        self,
        older_than: timedelta | None = None,
        *,
        before: datetime | None = None,
        kinds: Collection[SessionKind | str] = (SessionKind.MAIN, SessionKind.SUBAGENT, SessionKind.CRON),
        agent_id: str | Collection[str] | None = None,
        status: SessionStatus | str | Collection[SessionStatus | str] | None = None,
        dry_run: bool = False,
        progress: Callable[[int, int], object] | None = None,
    ) -> list[str]:
        """Delete the sessions that ended a while ago, with their messages, archived ones too, and their labels.

        Active sessions are never deleted. A manager deletes in batches, each in a transaction of its own, so that no
        lock is held for long; what a failed call had already deleted stays deleted.

        Args:
            older_than: how long ago they ended, from 1 ms to 100 years. Either this or `before`.
            before: they ended before this time: an aware datetime, not in the future.
            kinds: only these kinds. Conversations must be asked for.
            agent_id: only this agent's, or these agents'; an empty collection matches nothing.
            status: only those that ended with this status, or one of these; an empty collection matches nothing.
            dry_run: delete nothing.
            progress: called after each batch with how many sessions were deleted, and how many there were to delete.

        Returns:
            The keys of the sessions that were (or would be) deleted, in the order in which they ended.
        """
        cutoff_ms = validation.cutoff_ms(older_than, before)
        selection = Selection(
            kinds=validation.choices("kinds", kinds, SessionKind),
            agent_ids=validation.optional_texts("agent_id", agent_id),
            statuses=validation.optional_one_or_more("status", status, SessionStatus),
        )
        sweep = ending.finished(cutoff_ms, selection)

        def delete(limit: int) -> list[str]:
            return self._run(ending.delete_swept, sweep, limit)

        return self._sweep(sweep, delete, "deleted", dry_run=dry_run, progress=progress)

    def _sweep(
        self,
        sweep: ending.Sweep,
        change: Callable[[int], list[str]],
        done: str,
        *,
        dry_run: bool,
        progress: Callable[[int, int], object] | None,
    ) -> list[str]:
        if progress is not None and not callable(progress):
            raise InvalidInput("progress", "must be callable", progress)
        if validation.flag("dry_run", dry_run):
            return self._run(ending.swept_keys, sweep)
        total = 0 if progress is None else self._run(ending.count_swept, sweep)
        swept: list[str] = []
        tries: Iterator[None] | None = None
        while left := self._run(ending.swept_keys, sweep, limit=1):
            batch = change(SWEEP_BATCH)
            swept += batch
            for key in batch:
                self._ended(key)
            # An empty batch means that somebody else took these sessions, and there may be more; or that something
            # keeps them as they are, and then this loop would never end.
            if not batch:
                tries = tries or attempts(left[0])
                next(tries)
            if progress is not None:
                progress(len(swept), max(total, len(swept)))
        _log.info("Sweep: %d sessions %s", len(swept), done)
        return swept

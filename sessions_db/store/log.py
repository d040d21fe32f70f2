"""Reading the log, sealing it and verifying it."""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta

from sessions_db import validation
from sessions_db.enums import EventKind
from sessions_db.limits import MAX_AGE
from sessions_db.models import Seal, SessionEvent, Verdict
from sessions_db.operations import events, retention, sealing, sealing_messages, verifying
from sessions_db.store.runner import Runner


class Log(Runner):
    """Operations on the log."""

    def events(
        self,
        *,
        session_key: str | Collection[str] | None = None,
        kind: EventKind | str | Collection[EventKind | str] | None = None,
        after_id: int | None = None,
        limit: int = 50,
    ) -> list[SessionEvent]:
        """What happened to sessions and labels, oldest first: the newest events of the log that pass every filter.

        Args:
            session_key: only what happened to this session, or to one of these, which may be deleted; an empty
                collection matches nothing.
            kind: only events of this kind, or of one of these; an empty collection matches nothing.
            after_id: the events right after this one, instead of the newest. Pass the last event of a page to get the
                next page.
            limit: at most this many events.
        """
        return self._run(
            events.events,
            session_keys=validation.optional_texts("session_key", session_key),
            kinds=validation.optional_one_or_more("kind", kind, EventKind),
            after_id=validation.optional_integer("after_id", after_id, minimum=0),
            limit=validation.integer("limit", limit, minimum=0),
        )

    def seal_log(self) -> Seal | None:
        """Seal the log and what was said: a digest over all events and messages so far, chained to the seal before it.

        Keep the digest where those who can write to the database can't reach it: `verify_log(expect=...)` then tells
        whether both are still what was sealed. Takes time in proportion to what came since the last seal. On Postgres
        it needs the rights of the tables' owner. Writers wait for moments: messages are sealed in short transactions.
        If it is interrupted, the next call goes on from there.

        Returns:
            The new seal; the last one if nothing is new since; None if nothing was ever logged.
        """
        # Only the first transaction, which makes sure that no event comes late, blocks all that write to the log.
        through_event_id = self._run(sealing.last_event_id)
        after_key = ""
        held: list[str] = []
        while (page := self._run(sealing_messages.seal_page, after_key)) is not None:
            after_key = page.through_key
            held += page.held
        # Alone: whoever waits for another's session must not make others wait meanwhile.
        for key in held:
            while self._run(sealing_messages.seal_session, key):
                pass
        return self._run(sealing.seal, through_event_id, self._actor)

    def verify_log(self, *, expect: str | None = None, since: str | None = None) -> Verdict:
        """Whether the log and the sealed messages are as they were sealed, and if not, the first that is not.

        Args:
            expect: the digest of a seal, kept elsewhere: the log must hold that seal. Without it, changes by somebody
                who also remade the seals go unnoticed.
            since: the digest of a seal, kept elsewhere, up to which the log was verified before: only what came after
                it is read. `expect` must be that seal or one that came after it.
        """
        return self._run(
            verifying.verify,
            expect=validation.optional_text("expect", expect),
            since=validation.optional_text("since", since),
        )

    def log_retention(self) -> timedelta:
        """How long the database refuses to delete an event of the log."""
        return self._run(retention.log_retention)

    def set_log_retention(self, days: int) -> None:
        """Have the database refuse to delete an event for this many days, 1 to 36,500. The log records the change.

        On Postgres it needs the rights of the tables' owner.
        """
        self._run(retention.set_log_retention, validation.integer("days", days, minimum=1, maximum=MAX_AGE.days))

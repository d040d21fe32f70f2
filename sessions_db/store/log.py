"""Reading the log, sealing it and verifying it."""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta

from sessions_db import validation
from sessions_db.enums import EventKind
from sessions_db.errors import InvalidInput
from sessions_db.limits import MAX_AGE
from sessions_db.models import Seal, SessionEvent, Verdict
from sessions_db.operations import events, retention, sealing
from sessions_db.store.runner import Runner


class Log(Runner):
    """Operations on the log."""

    def events(
        self,
        *,
        session_key: str | None = None,
        kind: EventKind | str | Collection[EventKind | str] | None = None,
        after_id: int | None = None,
        limit: int = 50,
    ) -> list[SessionEvent]:
        """What happened to sessions and labels, oldest first: the newest events of the log that pass every filter.

        Args:
            session_key: only what happened to this session, which may be deleted.
            kind: only events of this kind, or of one of these; an empty collection matches nothing.
            after_id: the events right after this one, instead of the newest. Pass the last event of a page to get the
                next page.
            limit: at most this many events.
        """
        return self._run(
            events.events,
            session_key=validation.optional_text("session_key", session_key),
            kinds=validation.optional_one_or_more("kind", kind, EventKind),
            after_id=None if after_id is None else validation.integer("after_id", after_id, minimum=0),
            limit=validation.integer("limit", limit, minimum=0),
        )

    def seal_log(self) -> Seal | None:
        """Seal the log: a digest over all events so far, chained to the seal before it.

        Keep the digest where those who can write to the database can't reach it: `verify_log(expect=...)` then tells
        whether the log is still what was sealed. Takes time in proportion to the events since the last seal; on
        Postgres it needs the rights of the tables' owner, and writers to the log wait for a moment.

        Returns:
            The new seal; the last one if nothing was logged since; None if nothing was ever logged.
        """
        # Two transactions: only the first, which makes sure that no event comes late, blocks other writers.
        through_event_id = self._run(sealing.last_event_id)
        return self._run(sealing.seal, through_event_id, self._actor)

    def verify_log(self, *, expect: str | None = None, since: str | None = None) -> Verdict:
        """Whether the events of the log are as they were sealed, and if not, the first that is not.

        Args:
            expect: the digest of a seal, kept elsewhere: the log must hold that seal. Without it, changes by somebody
                who also remade the seals go unnoticed.
            since: the digest of a seal, kept elsewhere, up to which the log was verified before: only what came after
                it is read. `expect` must be that seal or one that came after it.
        """
        return self._run(
            sealing.verify,
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
        days = validation.integer("days", days, minimum=1)
        if days > MAX_AGE.days:
            raise InvalidInput("days", f"must be at most {MAX_AGE.days}", days)
        self._run(retention.set_log_retention, days)

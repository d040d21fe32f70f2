"""Reading the log, sealing it and verifying it."""

from __future__ import annotations

from collections.abc import Collection

from sessions_db import validation
from sessions_db.enums import EventKind
from sessions_db.models import Seal, SessionEvent, Verdict
from sessions_db.operations import events, sealing
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
        """What the log says became of sessions and labels, oldest first: the newest events that pass every filter.

        Args:
            session_key: only what happened to this session, which may be deleted.
            kind: only events of this kind, or one of these; an empty collection matches nothing.
            after_id: the events next after this one, instead of the newest. The last event of a page, given here,
                leads to the next page.
            limit: how many events at most.
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

        Keep the digest where whoever may write to the database can't reach it: `verify_log(expect=...)` then tells
        whether the log still is what was sealed. Takes as long as there are events since the last seal; on Postgres it
        needs the rights of the tables' owner, and those who log something wait for a moment.

        Returns:
            The new seal; the last one if nothing was logged since; None if nothing was ever logged.
        """
        # Two transactions: the first makes sure that no event comes late, and holds up others.
        through_event_id = self._run(sealing.last_event_id)
        return self._run(sealing.seal, through_event_id, self._actor)

    def verify_log(self, *, expect: str | None = None, since: str | None = None) -> Verdict:
        """Whether the events of the log are as they were sealed, and if not, the first that is not.

        Args:
            expect: the digest of a seal, kept elsewhere: the log must hold that seal. Without it, only changes by
                somebody who did not make the seals anew are found.
            since: the digest of a seal, kept elsewhere, up to which the log was verified before: only what came after
                it is read.
        """
        return self._run(
            sealing.verify,
            expect=validation.optional_text("expect", expect),
            since=validation.optional_text("since", since),
        )

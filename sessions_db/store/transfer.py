"""Figures about the whole database, and export and import of whole sessions."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from sessions_db import keys, validation
from sessions_db.enums import SessionKind, SessionStatus
from sessions_db.errors import InvalidInput
from sessions_db.limits import MAX_INTEGER
from sessions_db.models import ExportedSession, Proof, Seal, Statistics
from sessions_db.operations import importing, proving, sealing, statistics, transferring
from sessions_db.operations.selecting import Selection
from sessions_db.store.runner import Runner


class Transfer(Runner):
    """Operations on a database as a whole."""

    def statistics(self) -> Statistics:
        """How much the database holds, all from one snapshot. Reads every table at least once."""
        return self._run(statistics.statistics)

    def export_sessions(
        self,
        *,
        agent_id: str | Collection[str] | None = None,
        kinds: Collection[SessionKind | str] | None = None,
        statuses: Collection[SessionStatus | str] | None = None,
        keys: Collection[str] | None = None,
        after: ExportedSession | None = None,
        limit: int = 100,
    ) -> list[ExportedSession]:
        """A page of sessions with everything stored about them, for `import_session` into any database.

        They come oldest first, ties broken by the bytes of the key: the same order on both databases. Within a
        `snapshot()`, pages agree with each other. To export to a file, use `sessions_db.transfer.export_lines`.

        Args:
            agent_id: only this agent's, or these agents'; an empty collection matches nothing.
            kinds: only these kinds.
            statuses: only these statuses.
            keys: only the sessions with these keys.
            after: only sessions that come after this one, the last of the previous page.
            limit: at most this many sessions.
        """
        if after is not None:
            _check_position(after)
        return self._run(
            transferring.export,
            Selection(
                agent_ids=validation.optional_texts("agent_id", agent_id),
                kinds=validation.optional_choices("kinds", kinds, SessionKind),
                statuses=validation.optional_choices("statuses", statuses, SessionStatus),
                keys=None if keys is None else _checked_keys(keys),
            ),
            after=after,
            limit=validation.integer("limit", limit, minimum=0),
        )

    def proofs(self, keys: Collection[str]) -> list[Proof]:
        """For each of these sessions, what proves its messages: their digests, and the transcripts over them.

        Empty for a session of which nothing is sealed, and for one that is gone. Reads the transcripts of all seals
        that cover the sessions.
        """
        return self._run(proving.proofs, _checked_keys(keys))

    def seals(self) -> list[Seal]:
        """All seals, oldest first."""
        return self._run(sealing.seals)

    def import_session(self, session: ExportedSession) -> bool:
        """Store an exported session as it was: True if this call did, False if it was there already.

        Times, numbers and status are those of the export. A label that another session got at a later time stays with
        that one. The log records the session as created now.

        Raises:
            InvalidInput: a field can't be stored, or its key or run id belongs to a session with other content.
        """
        return self._run(transferring.write, _checked("session", session))

    def import_sessions(self, sessions: Iterable[ExportedSession]) -> list[bool]:
        """Store exported sessions as they were, all or none: for each, True if this call did.

        Each is stored as by `import_session`. Of many small sessions, each takes a fraction of the time.

        Raises:
            InvalidInput: a field of a session can't be stored, or its key or run id belongs to a session with other
                content.
        """
        if isinstance(sessions, str) or not isinstance(sessions, Iterable):
            raise InvalidInput("sessions", "must be a collection", sessions)
        batch = [_checked(f"sessions[{position}]", session) for position, session in enumerate(sessions)]
        return self._run(importing.write_all, batch)


def _checked_keys(given: Collection[str]) -> list[str]:
    if isinstance(given, str) or not isinstance(given, Collection):
        raise InvalidInput("keys", "must be a collection of keys", given)
    return [validation.text(f"keys[{position}]", key) for position, key in enumerate(given)]


def _checked(argument: str, session: ExportedSession) -> ExportedSession:
    if not isinstance(session, ExportedSession):
        raise InvalidInput(argument, "must be an ExportedSession", session)
    return session.checked()


def _check_position(after: ExportedSession) -> None:
    if not isinstance(after, ExportedSession):
        raise InvalidInput("after", "must be an ExportedSession", after)
    keys.checked_key("after.key", after.key)
    validation.integer("after.created_ms", after.created_ms, minimum=-MAX_INTEGER)

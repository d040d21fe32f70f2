"""What is not as it was sealed, what is, and what the log says of the rest."""

from __future__ import annotations

from dataclasses import dataclass, field

from sqlalchemy import Connection, func, or_, select

from sessions_db.enums import EventKind
from sessions_db.schema import event_digests, session_events

_TELLING = (EventKind.CREATED, EventKind.DELETED, EventKind.MESSAGES_REMOVED, EventKind.MESSAGE_REDACTED)


class Fault(Exception):
    """What is not as it was sealed, and where."""

    def __init__(
        self, text: str | None, *, event_id: int | None = None, session_key: str | None = None, seq: int | None = None
    ) -> None:
        super().__init__(text, event_id, session_key, seq)
        self.text = text
        self.event_id = event_id
        self.session_key = session_key
        self.seq = seq


@dataclass(slots=True)
class Found:
    """How much is as it was sealed, and how much is gone as it may be."""

    verified: int = 0
    expired: int = 0
    messages_verified: int = 0
    messages_redacted: int = 0
    messages_gone: int = 0


@dataclass(slots=True)
class Log:
    """What the log says of messages that are not there, or not as they were, after an event."""

    conn: Connection
    after_id: int
    _known: dict[str, list[tuple[str, int | None, int | None]]] = field(default_factory=dict)
    _is_whole: bool | None = None

    def tells(self, kind: EventKind, session_key: str, seq: int | None = None) -> bool:
        """Whether it has such an event of the session, or of this message; and so may have lost it to old age."""
        if session_key not in self._known:
            columns = session_events.c.event, session_events.c.first_seq, session_events.c.last_seq
            query = select(*columns).where(
                session_events.c.session_key == session_key,
                session_events.c.id > self.after_id,
                session_events.c.event.in_(_TELLING),
            )
            known = self._known[session_key] = []
            for event, first_seq, last_seq in self.conn.execute(query.order_by(session_events.c.id)):
                if event in (EventKind.CREATED, EventKind.DELETED):
                    # What was removed from a session that had this key before explains nothing in this one.
                    known[:] = [each for each in known if each[0] == EventKind.DELETED]
                known.append((event, first_seq, last_seq))
        for event, first_seq, last_seq in self._known[session_key]:
            if event == kind and (seq is None or (first_seq or 0) <= seq <= (last_seq or 0)):
                return True
        return not self._whole()

    def _whole(self) -> bool:
        if self._is_whole is None:
            oldest = select(func.min(session_events.c.id)).scalar_subquery()
            expired = select(event_digests.c.event_id).where(
                event_digests.c.event_id > self.after_id, or_(oldest.is_(None), event_digests.c.event_id < oldest)
            )
            self._is_whole = self.conn.execute(expired.limit(1)).first() is None
        return self._is_whole

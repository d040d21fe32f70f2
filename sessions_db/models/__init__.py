"""The values that go in and come out. All are frozen: changes go through the manager, never through a snapshot.

Their metadata is frozen too, so all of them can be hashed.
"""

from sessions_db.models.figures import Archive, Statistics
from sessions_db.models.log import Seal, SessionEvent, Verdict
from sessions_db.models.messages import Message, NewMessage, StoredMessage
from sessions_db.models.sessions import NewSession, Session, SpawnResult, StoredSession

__all__ = [
    "Archive",
    "Message",
    "NewMessage",
    "NewSession",
    "Seal",
    "Session",
    "SessionEvent",
    "SpawnResult",
    "Statistics",
    "StoredMessage",
    "StoredSession",
    "Verdict",
]

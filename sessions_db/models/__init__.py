"""The values that go in and come out. All are frozen: changes go through the manager, never through a snapshot.

Their metadata is a plain dict, which is left out of the hash.
"""

from sessions_db.models.figures import Archive, Statistics
from sessions_db.models.log import Seal, SessionEvent, Transcript, Verdict
from sessions_db.models.messages import Message, NewMessage, StoredMessage
from sessions_db.models.proofs import ExportVerdict, Proof, ProvedTranscript, is_mark, is_redacted
from sessions_db.models.sessions import NewSession, Session, SpawnResult, StoredSession

__all__ = [
    "Archive",
    "ExportVerdict",
    "Message",
    "NewMessage",
    "NewSession",
    "Proof",
    "ProvedTranscript",
    "Seal",
    "Session",
    "SessionEvent",
    "SpawnResult",
    "Statistics",
    "StoredMessage",
    "StoredSession",
    "Transcript",
    "Verdict",
    "is_mark",
    "is_redacted",
]

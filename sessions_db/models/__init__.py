"""The values that go in and come out. All are frozen: changes go through the manager, never through a snapshot.

Their metadata is a plain dict, which is left out of the hash.
"""

from sessions_db.models.figures import Archive, Statistics
from sessions_db.models.found import SearchHit, SearchResult
from sessions_db.models.limits import SpawnLimits
from sessions_db.models.log import Seal, SessionEvent, Transcript, Verdict
from sessions_db.models.messages import ExportedMessage, Message, NewMessage
from sessions_db.models.proofs import ExportVerdict, Proof, ProvedTranscript, is_mark, is_redacted
from sessions_db.models.sessions import ExportedSession, NewSession, Session, SpawnResult

__all__ = [
    "Archive",
    "ExportVerdict",
    "ExportedMessage",
    "ExportedSession",
    "Message",
    "NewMessage",
    "NewSession",
    "Proof",
    "ProvedTranscript",
    "Seal",
    "SearchHit",
    "SearchResult",
    "Session",
    "SessionEvent",
    "SpawnLimits",
    "SpawnResult",
    "Statistics",
    "Transcript",
    "Verdict",
    "is_mark",
    "is_redacted",
]

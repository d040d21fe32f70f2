"""SQL-backed sessions, messages and labels for multi-agent services, on SQLite and Postgres."""

import logging

from sessions_db.aio import AsyncSessionManager, AsyncTransaction
from sessions_db.database.connections import PoolStatus
from sessions_db.default import session_manager
from sessions_db.enums import EventKind, LabelConflict, Role, SessionKind, SessionStatus
from sessions_db.errors import (
    DatabaseUnavailable,
    IdempotencyConflict,
    InvalidInput,
    LabelInUse,
    LimitReached,
    ManagerClosed,
    ReadOnly,
    SchemaMismatch,
    SessionChanged,
    SessionNotActive,
    SessionNotFound,
    SessionsError,
    StatementRefused,
    TransactionOver,
    TransactionRolledBack,
    UnsafeFork,
    WriteUndone,
)
from sessions_db.manager import SessionManager
from sessions_db.models import (
    Archive,
    ExportedMessage,
    ExportedSession,
    ExportVerdict,
    Message,
    NewMessage,
    Proof,
    ProvedTranscript,
    Seal,
    SearchHit,
    SearchResult,
    Session,
    SessionEvent,
    SpawnLimits,
    SpawnResult,
    Statistics,
    Transcript,
    Verdict,
)
from sessions_db.transaction import Transaction

# Quiet unless the application configures logging.
logging.getLogger("sessions_db").addHandler(logging.NullHandler())

__all__ = [
    "Archive",
    "AsyncSessionManager",
    "AsyncTransaction",
    "DatabaseUnavailable",
    "EventKind",
    "ExportVerdict",
    "ExportedMessage",
    "ExportedSession",
    "IdempotencyConflict",
    "InvalidInput",
    "LabelConflict",
    "LabelInUse",
    "LimitReached",
    "ManagerClosed",
    "Message",
    "NewMessage",
    "PoolStatus",
    "Proof",
    "ProvedTranscript",
    "ReadOnly",
    "Role",
    "SchemaMismatch",
    "Seal",
    "SearchHit",
    "SearchResult",
    "Session",
    "SessionChanged",
    "SessionEvent",
    "SessionKind",
    "SessionManager",
    "SessionNotActive",
    "SessionNotFound",
    "SessionStatus",
    "SessionsError",
    "SpawnLimits",
    "SpawnResult",
    "StatementRefused",
    "Statistics",
    "Transaction",
    "TransactionOver",
    "TransactionRolledBack",
    "Transcript",
    "UnsafeFork",
    "Verdict",
    "WriteUndone",
    "session_manager",
]

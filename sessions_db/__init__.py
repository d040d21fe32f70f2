"""SQL-backed sessions, messages and labels for multi-agent services, on SQLite and Postgres."""

from sessions_db.aio import AsyncSessionManager, AsyncTransaction
from sessions_db.errors import (
    DatabaseUnavailable,
    InvalidInput,
    LabelInUse,
    SchemaMismatch,
    SessionNotActive,
    SessionNotFound,
    SessionsError,
)
from sessions_db.manager import SessionManager, Transaction, session_manager
from sessions_db.models import (
    EventKind,
    LabelConflict,
    Message,
    NewMessage,
    Role,
    Seal,
    Session,
    SessionEvent,
    SessionKind,
    SessionStatus,
    SpawnResult,
    Verdict,
)

__all__ = [
    "AsyncSessionManager",
    "AsyncTransaction",
    "DatabaseUnavailable",
    "EventKind",
    "InvalidInput",
    "LabelConflict",
    "LabelInUse",
    "Message",
    "NewMessage",
    "Role",
    "SchemaMismatch",
    "Seal",
    "Session",
    "SessionEvent",
    "SessionKind",
    "SessionManager",
    "SessionNotActive",
    "SessionNotFound",
    "SessionStatus",
    "SessionsError",
    "SpawnResult",
    "Transaction",
    "Verdict",
    "session_manager",
]

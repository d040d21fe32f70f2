"""The vocabularies: each value is the text that the database stores."""

from enum import StrEnum


class SessionKind(StrEnum):
    """What a session is for."""

    MAIN = "main"
    SUBAGENT = "subagent"
    CRON = "cron"


class SessionStatus(StrEnum):
    """Whether a session is running, or how it ended."""

    ACTIVE = "active"
    COMPLETED = "completed"
    ERROR = "error"
    TIMEOUT = "timeout"
    STOPPED = "stopped"


class Role(StrEnum):
    """Who a message is from."""

    USER = "user"
    ASSISTANT = "assistant"
    SYSTEM = "system"
    TOOL = "tool"


class EventKind(StrEnum):
    """What the log records: `session_events` holds a row for each."""

    CREATED = "created"
    STATUS_CHANGED = "status_changed"
    END_CHANGED = "end_changed"
    LABEL_ASSIGNED = "label_assigned"
    LABEL_MOVED = "label_moved"
    LABEL_REMOVED = "label_removed"
    DELETED = "deleted"
    MESSAGES_REMOVED = "messages_removed"
    MESSAGE_REDACTED = "message_redacted"
    RETENTION_CHANGED = "retention_changed"


class LabelConflict(StrEnum):
    """What a spawn does when its label already belongs to a session."""

    REPLACE = "replace"
    ERROR = "error"


class Severity(StrEnum):
    """How serious a finding of the doctor is."""

    OK = "ok"
    WARNING = "warning"
    FAILURE = "failure"

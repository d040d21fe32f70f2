"""The tables of the log and its seals, as SQLAlchemy Core metadata."""

from __future__ import annotations

from sqlalchemy import (
    CheckConstraint,
    Column,
    ForeignKeyConstraint,
    Index,
    Integer,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
)

from sessions_db.enums import EventKind
from sessions_db.schema.columns import Int64, Key, metadata, one_of

session_events = Table(
    "session_events",
    metadata,
    Column("id", Int64, autoincrement=True, nullable=False),
    Column("at_ms", Int64, nullable=False),
    Column("actor", Text),
    Column("db_user", Text),
    Column("event", Text, nullable=False),
    # No foreign key: an event outlives its session.
    Column("session_key", Key),
    Column("from_status", Text),
    Column("to_status", Text),
    Column("reason", Text),
    Column("label", Text),
    Column("from_session_key", Key),
    Column("parent_key", Key),
    Column("message_count", Int64),
    Column("first_seq", Int64),
    Column("last_seq", Int64),
    PrimaryKeyConstraint("id", name="pk_session_events"),
    CheckConstraint("id >= 1", name="ck_session_events_id"),
    CheckConstraint(one_of("event", EventKind), name="ck_session_events_event"),
    CheckConstraint("(event = 'retention_changed') = (session_key IS NULL)", name="ck_session_events_session_key"),
    Index("ix_session_events_session", "session_key", "id"),
    Index("ix_session_events_at", "at_ms"),
    # An id is never reused, even after the newest event was deleted.
    sqlite_autoincrement=True,
    sqlite_strict=True,
)

# The acting user's name, for the triggers that write the log. It is inserted and deleted within one transaction, so
# nobody else ever sees a row. On Postgres a setting that is local to the transaction serves the same purpose.
event_actor = Table(
    "event_actor",
    metadata,
    Column("name", Text, nullable=False),
    PrimaryKeyConstraint("name", name="pk_event_actor"),
    sqlite_strict=True,
    info={"only_on": "sqlite"},
)

# How long the log is kept: one row, which is changed and never deleted.
log_policy = Table(
    "log_policy",
    metadata,
    Column("id", Integer, autoincrement=False, nullable=False),
    Column("retention_days", Integer, nullable=False),
    PrimaryKeyConstraint("id", name="pk_log_policy"),
    CheckConstraint("id = 1", name="ck_log_policy_id"),
    CheckConstraint("retention_days BETWEEN 1 AND 36500", name="ck_log_policy_retention_days"),
    sqlite_strict=True,
)

# Messages to be removed: a trigger archives, deletes and logs them, and the row itself goes at once. On Postgres a
# function serves the same purpose.
message_removals = Table(
    "message_removals",
    metadata,
    Column("session_key", Key, nullable=False),
    Column("first_seq", Int64, nullable=False),
    Column("last_seq", Int64, nullable=False),
    PrimaryKeyConstraint("session_key", name="pk_message_removals"),
    sqlite_strict=True,
    info={"only_on": "sqlite"},
)

# By how much the ids of events are ahead of the sequence of the Citus node that the schema is on. Empty elsewhere.
event_numbers = Table(
    "event_numbers",
    metadata,
    Column("id", Integer, autoincrement=False, nullable=False),
    Column("ahead", Int64, nullable=False),
    PrimaryKeyConstraint("id", name="pk_event_numbers"),
    CheckConstraint("id = 1", name="ck_event_numbers_id"),
    info={"only_on": "postgresql"},
)

event_digests = Table(
    "event_digests",
    metadata,
    # No foreign key: a digest outlives its event.
    Column("event_id", Int64, autoincrement=False, nullable=False),
    Column("at_ms", Int64, nullable=False),
    Column("digest", Text, nullable=False),
    PrimaryKeyConstraint("event_id", name="pk_event_digests"),
    sqlite_strict=True,
)

event_seals = Table(
    "event_seals",
    metadata,
    Column("id", Int64, autoincrement=False, nullable=False),
    Column("sealed_ms", Int64, nullable=False),
    Column("actor", Text),
    Column("through_event_id", Int64, nullable=False),
    Column("event_count", Int64, nullable=False),
    Column("previous_digest", Text, nullable=False),
    Column("events_digest", Text, nullable=False),
    Column("transcript_count", Int64, nullable=False),
    Column("transcripts_digest", Text, nullable=False),
    Column("digest", Text, nullable=False),
    PrimaryKeyConstraint("id", name="pk_event_seals"),
    UniqueConstraint("previous_digest", name="uq_event_seals_previous_digest"),
    sqlite_strict=True,
)

message_digests = Table(
    "message_digests",
    metadata,
    # No foreign key to the message: a digest outlives it, and goes with the session.
    Column("session_key", Key, nullable=False),
    Column("seq", Int64, nullable=False),
    Column("transcript", Int64, nullable=False),
    Column("digest", Text, nullable=False),
    PrimaryKeyConstraint("session_key", "seq", name="pk_message_digests"),
    ForeignKeyConstraint(["session_key"], ["sessions.key"], name="fk_message_digests_session_key", ondelete="CASCADE"),
    sqlite_with_rowid=False,
    sqlite_strict=True,
)

sealed_transcripts = Table(
    "sealed_transcripts",
    metadata,
    # No foreign key: it outlives the session.
    Column("session_key", Key, nullable=False),
    Column("number", Int64, nullable=False),
    Column("seal_id", Int64, nullable=False),
    Column("after_seq", Int64, nullable=False),
    Column("first_seq", Int64, nullable=False),
    Column("last_seq", Int64, nullable=False),
    Column("message_count", Int64, nullable=False),
    Column("previous_digest", Text, nullable=False),
    Column("messages_digest", Text, nullable=False),
    Column("digest", Text, nullable=False),
    PrimaryKeyConstraint("session_key", "number", name="pk_sealed_transcripts"),
    Index("ix_sealed_transcripts_seal", "seal_id", "session_key", "number"),
    sqlite_with_rowid=False,
    sqlite_strict=True,
)

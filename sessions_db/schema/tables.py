"""The tables, their constraints and indexes, as SQLAlchemy Core metadata."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from sessions_db.enums import EventKind, Role, SessionKind, SessionStatus
from sessions_db.limits import DEFAULT_MESSAGE_CAP
from sessions_db.schema.json import Json

# Keys sort by their bytes on both databases, whatever the collation of a Postgres database.
_Key = Text().with_variant(Text(collation="C"), "postgresql")

# STRICT tables know INTEGER only, which holds 64 bits there.
_Int64 = BigInteger().with_variant(Integer(), "sqlite")


def _one_of(column: str, choices: type[StrEnum]) -> str:
    return f"{column} IN ({', '.join(repr(choice.value) for choice in choices)})"


def _is_json_object(table: str) -> tuple[CheckConstraint, CheckConstraint]:
    name = f"ck_{table}_metadata"
    return (
        CheckConstraint(
            "metadata IS NULL OR json_valid(metadata) AND json_type(metadata) = 'object'", name=name
        ).ddl_if(dialect="sqlite"),
        CheckConstraint("json_typeof(metadata) = 'object'", name=name).ddl_if(dialect="postgresql"),
    )


def _index(name: str, *columns: str, only: str, unique: bool = False) -> Index:
    """An index of the rows in which the column `only` is not null."""
    is_there = text(f"{only} IS NOT NULL")
    return Index(name, *columns, unique=unique, sqlite_where=is_there, postgresql_where=is_there)


_IS_UNSEALED = text("unsealed = 1")

metadata = MetaData()

sessions = Table(
    "sessions",
    metadata,
    Column("key", _Key, nullable=False),
    Column("agent_id", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("label", Text),
    Column("task", Text),
    Column("run_id", Text),
    # Not a foreign key: pruning a parent must not rewrite its children's rows.
    Column("parent_key", _Key),
    Column("created_ms", _Int64, nullable=False),
    Column("finished_ms", _Int64),
    Column("end_reason", Text),
    Column("metadata", Json),
    Column("message_cap", Integer, nullable=False, server_default=text(str(DEFAULT_MESSAGE_CAP))),
    # Every append changes these two. No index may hold them, so that updates stay HOT on Postgres.
    Column("last_seq", _Int64, nullable=False, server_default=text("0")),
    Column("last_activity_ms", _Int64, nullable=False),
    # 0 or 1 on both databases: SQLite's strict tables have no boolean type.
    Column("archive_trimmed", Integer, nullable=False, server_default=text("0")),
    # Not a fact about the session: whether the next seal has to look at it.
    Column("unsealed", Integer, nullable=False, server_default=text("1")),
    PrimaryKeyConstraint("key", name="pk_sessions"),
    UniqueConstraint("run_id", name="uq_sessions_run_id"),
    CheckConstraint(_one_of("kind", SessionKind), name="ck_sessions_kind"),
    CheckConstraint(_one_of("status", SessionStatus), name="ck_sessions_status"),
    CheckConstraint("agent_id <> '' AND agent_id NOT LIKE '%:%'", name="ck_sessions_agent_id"),
    # The grammar of `keys.py`.
    CheckConstraint(
        "CASE kind WHEN 'main' THEN key = 'agent:' || agent_id || ':' || kind "
        "ELSE substr(key, 1, length(agent_id) + length(kind) + 8) = 'agent:' || agent_id || ':' || kind || ':' END",
        name="ck_sessions_key",
    ),
    # An empty label would be shared by all sessions whose callers have none to give.
    CheckConstraint("label <> ''", name="ck_sessions_label"),
    CheckConstraint("(kind = 'main') = (run_id IS NULL)", name="ck_sessions_run_id"),
    CheckConstraint("(status = 'active') = (finished_ms IS NULL)", name="ck_sessions_finished_ms"),
    CheckConstraint("status <> 'active' OR end_reason IS NULL", name="ck_sessions_end_reason"),
    CheckConstraint("message_cap >= 1", name="ck_sessions_message_cap"),
    CheckConstraint("last_seq >= 0", name="ck_sessions_last_seq"),
    CheckConstraint("archive_trimmed IN (0, 1)", name="ck_sessions_archive_trimmed"),
    CheckConstraint("unsealed IN (0, 1)", name="ck_sessions_unsealed"),
    *_is_json_object("sessions"),
    # `list` orders by (created_ms, key), so each index gives a page without sorting.
    Index("ix_sessions_created", "created_ms", "key"),
    Index("ix_sessions_agent_created", "agent_id", "created_ms", "key"),
    Index("ix_sessions_kind_created", "kind", "created_ms", "key"),
    Index("ix_sessions_status_created", "status", "created_ms", "key"),
    # These two hold no rows that nobody looks for: each index takes a tenth of the time of a spawn on SQLite.
    _index("ix_sessions_parent_created", "parent_key", "created_ms", "key", only="parent_key"),
    _index("ix_sessions_finished", "finished_ms", "key", only="finished_ms"),
    # Of an update, Postgres compares values: one that sets what is set already stays HOT.
    Index("ix_sessions_unsealed", "key", sqlite_where=_IS_UNSEALED, postgresql_where=_IS_UNSEALED),
    # A session is found by its key directly, without a detour through a rowid.
    sqlite_with_rowid=False,
    sqlite_strict=True,
    # HOT updates need room on the page for the next version of a row.
    postgresql_with={"fillfactor": 80},
)


def _message_columns() -> Iterator[Column[Any]]:
    yield Column("session_key", _Key, nullable=False)
    yield Column("seq", _Int64, nullable=False)
    yield Column("role", Text, nullable=False)
    yield Column("content", Text, nullable=False)
    yield Column("tool_name", Text)
    yield Column("metadata", Json)
    yield Column("timestamp_ms", _Int64, nullable=False)
    yield Column("idempotency_key", Text)


messages = Table(
    "messages",
    metadata,
    *_message_columns(),
    PrimaryKeyConstraint("session_key", "seq", name="pk_messages"),
    ForeignKeyConstraint(["session_key"], ["sessions.key"], name="fk_messages_session_key", ondelete="CASCADE"),
    CheckConstraint(_one_of("role", Role), name="ck_messages_role"),
    CheckConstraint("seq >= 1", name="ck_messages_seq"),
    *_is_json_object("messages"),
    _index("uq_messages_idempotency_key", "session_key", "idempotency_key", unique=True, only="idempotency_key"),
    # Clustered by session: a read of the newest 50 touches neighbouring pages, and took 0.55 of the time that a
    # rowid table took (measured once).
    sqlite_with_rowid=False,
    sqlite_strict=True,
)

labels = Table(
    "labels",
    metadata,
    Column("label", Text, nullable=False),
    Column("session_key", _Key, nullable=False),
    Column("assigned_ms", _Int64, nullable=False),
    PrimaryKeyConstraint("label", name="pk_labels"),
    CheckConstraint("label <> ''", name="ck_labels_label"),
    ForeignKeyConstraint(["session_key"], ["sessions.key"], name="fk_labels_session_key", ondelete="CASCADE"),
    Index("ix_labels_session_key", "session_key"),
    sqlite_with_rowid=False,
    sqlite_strict=True,
)


archived_messages = Table(
    "archived_messages",
    metadata,
    *_message_columns(),
    Column("archived_ms", _Int64, nullable=False),
    PrimaryKeyConstraint("session_key", "seq", name="pk_archived_messages"),
    ForeignKeyConstraint(
        ["session_key"], ["sessions.key"], name="fk_archived_messages_session_key", ondelete="CASCADE"
    ),
    sqlite_with_rowid=False,
    sqlite_strict=True,
)

session_events = Table(
    "session_events",
    metadata,
    Column("id", _Int64, autoincrement=True, nullable=False),
    Column("at_ms", _Int64, nullable=False),
    Column("actor", Text),
    Column("db_user", Text),
    Column("event", Text, nullable=False),
    # No foreign key: an event outlives its session.
    Column("session_key", _Key),
    Column("from_status", Text),
    Column("to_status", Text),
    Column("reason", Text),
    Column("label", Text),
    Column("from_session_key", _Key),
    Column("parent_key", _Key),
    Column("message_count", _Int64),
    Column("first_seq", _Int64),
    Column("last_seq", _Int64),
    PrimaryKeyConstraint("id", name="pk_session_events"),
    CheckConstraint("id >= 1", name="ck_session_events_id"),
    CheckConstraint(_one_of("event", EventKind), name="ck_session_events_event"),
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

event_digests = Table(
    "event_digests",
    metadata,
    # No foreign key: a digest outlives its event.
    Column("event_id", _Int64, autoincrement=False, nullable=False),
    Column("at_ms", _Int64, nullable=False),
    Column("digest", Text, nullable=False),
    PrimaryKeyConstraint("event_id", name="pk_event_digests"),
    sqlite_strict=True,
)

event_seals = Table(
    "event_seals",
    metadata,
    Column("id", _Int64, autoincrement=False, nullable=False),
    Column("sealed_ms", _Int64, nullable=False),
    Column("actor", Text),
    Column("through_event_id", _Int64, nullable=False),
    Column("event_count", _Int64, nullable=False),
    Column("previous_digest", Text, nullable=False),
    Column("events_digest", Text, nullable=False),
    Column("transcript_count", _Int64, nullable=False),
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
    Column("session_key", _Key, nullable=False),
    Column("seq", _Int64, nullable=False),
    Column("transcript", _Int64, nullable=False),
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
    Column("session_key", _Key, nullable=False),
    Column("number", _Int64, nullable=False),
    Column("seal_id", _Int64, nullable=False),
    Column("after_seq", _Int64, nullable=False),
    Column("first_seq", _Int64, nullable=False),
    Column("last_seq", _Int64, nullable=False),
    Column("message_count", _Int64, nullable=False),
    Column("previous_digest", Text, nullable=False),
    Column("messages_digest", Text, nullable=False),
    Column("digest", Text, nullable=False),
    PrimaryKeyConstraint("session_key", "number", name="pk_sealed_transcripts"),
    Index("ix_sealed_transcripts_seal", "seal_id", "session_key", "number"),
    sqlite_with_rowid=False,
    sqlite_strict=True,
)


def tables_of(dialect: str) -> list[Table]:
    """The tables of a database of this kind, each after those that it refers to."""
    return [table for table in metadata.sorted_tables if table.info.get("only_on", dialect) == dialect]

"""The tables, their constraints and indexes, as SQLAlchemy Core metadata."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Dialect,
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
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.types import UserDefinedType

from sessions_db.models import DEFAULT_MESSAGE_CAP, EventKind, Role, SessionKind, SessionStatus
from sessions_db.validation import JsonValue


class Json(UserDefinedType[dict[str, JsonValue]]):
    """A JSON object kept as the text that was written: key order and numbers come back exactly.

    That is why it is `JSON` on Postgres and not `JSONB`, which reorders keys; on SQLite it is `TEXT`. It is read as
    text too, by `from_json`.
    """

    cache_ok = True
    # psycopg sends a str as text, which Postgres does not turn into json by itself.
    render_bind_cast = True

    def bind_processor(self, dialect: Dialect) -> Callable[[Any], str | None]:
        """Write an object as text that an auditor can read: nothing is escaped that need not be."""
        return to_json


def to_json(value: JsonValue) -> str | None:
    """The text of a JSON object, or None for no object."""
    return None if value is None else _ENCODER.encode(value)


def from_json(value: str | None) -> Any:
    """The object that `to_json` wrote."""
    if value is None:
        return None
    # `decode` looks for white space around it, which takes a third of its time and is rarely there.
    if value[:1] == "{":
        found, end = _DECODER.raw_decode(value)
        if end == len(value):
            return found
    return _DECODER.decode(value)


# `json.loads` and `json.dumps` look at their options first, for each message that is read or written.
_DECODER = json.JSONDecoder()
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False)


@compiles(Json, "sqlite")
def _json_on_sqlite(_type: Json, _compiler: object, **_kwargs: object) -> str:
    return "TEXT"


@compiles(Json, "postgresql")
def _json_on_postgresql(_type: Json, _compiler: object, **_kwargs: object) -> str:
    return "JSON"


# Keys sort by their bytes on both databases, whatever a Postgres database's own order of text is.
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
    # Not a foreign key: the row of a pruned parent's child is not rewritten.
    Column("parent_key", _Key),
    Column("created_ms", _Int64, nullable=False),
    Column("finished_ms", _Int64),
    Column("end_reason", Text),
    Column("metadata", Json),
    Column("message_cap", Integer, nullable=False, server_default=text(str(DEFAULT_MESSAGE_CAP))),
    # An append changes these two, so no index may hold them: Postgres updates stay HOT.
    Column("last_seq", _Int64, nullable=False, server_default=text("0")),
    Column("last_activity_ms", _Int64, nullable=False),
    Column(
        "archive_trimmed",
        Integer,
        # 0 or 1 on both databases: SQLite's strict tables have no type for booleans.
        CheckConstraint("archive_trimmed IN (0, 1)", name="ck_sessions_archive_trimmed"),
        nullable=False,
        server_default=text("0"),
    ),
    PrimaryKeyConstraint("key", name="pk_sessions"),
    UniqueConstraint("run_id", name="uq_sessions_run_id"),
    CheckConstraint(_one_of("kind", SessionKind), name="ck_sessions_kind"),
    CheckConstraint(_one_of("status", SessionStatus), name="ck_sessions_status"),
    CheckConstraint("agent_id <> '' AND agent_id NOT LIKE '%:%'", name="ck_sessions_agent_id"),
    CheckConstraint(
        "CASE kind WHEN 'main' THEN key = 'agent:' || agent_id || ':' || kind "
        "ELSE substr(key, 1, length(agent_id) + length(kind) + 8) = 'agent:' || agent_id || ':' || kind || ':' END",
        name="ck_sessions_key",
    ),
    CheckConstraint("(kind = 'main') = (run_id IS NULL)", name="ck_sessions_run_id"),
    CheckConstraint("(status = 'active') = (finished_ms IS NULL)", name="ck_sessions_finished_ms"),
    CheckConstraint("status <> 'active' OR end_reason IS NULL", name="ck_sessions_end_reason"),
    CheckConstraint("message_cap >= 1", name="ck_sessions_message_cap"),
    CheckConstraint("last_seq >= 0", name="ck_sessions_last_seq"),
    *_is_json_object("sessions"),
    # Every order is (created_ms, key), so each index gives a page of `list` without sorting.
    Index("ix_sessions_created", "created_ms", "key"),
    Index("ix_sessions_agent_created", "agent_id", "created_ms", "key"),
    Index("ix_sessions_kind_created", "kind", "created_ms", "key"),
    Index("ix_sessions_status_created", "status", "created_ms", "key"),
    Index("ix_sessions_parent_created", "parent_key", "created_ms", "key"),
    Index("ix_sessions_finished", "finished_ms", "key"),
    # Found by its key at once, not by way of a rowid.
    sqlite_with_rowid=False,
    sqlite_strict=True,
    # Room on each page for the next version of a row, which is what HOT needs.
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
    Index(
        "uq_messages_idempotency_key",
        "session_key",
        "idempotency_key",
        unique=True,
        sqlite_where=text("idempotency_key IS NOT NULL"),
        postgresql_where=text("idempotency_key IS NOT NULL"),
    ),
    # Clustered by session: reading the newest 50 touches neighbouring pages (1.8 times as fast as with rowids).
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
    Column("session_key", _Key, nullable=False),
    Column("from_status", Text),
    Column("to_status", Text),
    Column("reason", Text),
    Column("label", Text),
    Column("from_session_key", _Key),
    Column("parent_key", _Key),
    Column("message_count", _Int64),
    PrimaryKeyConstraint("id", name="pk_session_events"),
    CheckConstraint("id >= 1", name="ck_session_events_id"),
    CheckConstraint(_one_of("event", EventKind), name="ck_session_events_event"),
    Index("ix_session_events_session", "session_key", "id"),
    Index("ix_session_events_at", "at_ms"),
    # An id is never used again, also after the newest event was deleted.
    sqlite_autoincrement=True,
    sqlite_strict=True,
)

# Who is acting, for the triggers that log it: set and taken away within a transaction, so nobody else ever sees a row.
# On Postgres a setting that is local to the transaction does it.
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
    Column("digest", Text, nullable=False),
    PrimaryKeyConstraint("id", name="pk_event_seals"),
    UniqueConstraint("previous_digest", name="uq_event_seals_previous_digest"),
    sqlite_strict=True,
)


def tables_of(dialect: str) -> list[Table]:
    """The tables of a database of this kind, each after those that it refers to."""
    return [table for table in metadata.sorted_tables if table.info.get("only_on", dialect) == dialect]


def insert_into(dialect: str, table: Table) -> postgresql.Insert | sqlite.Insert:
    """The dialect's own INSERT: SQLAlchemy has no common form of ON CONFLICT."""
    return postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)

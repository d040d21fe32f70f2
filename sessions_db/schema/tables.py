"""The tables, their constraints and indexes, as SQLAlchemy Core metadata."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from sqlalchemy import (
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

from sessions_db.enums import Role, SessionKind, SessionStatus
from sessions_db.limits import DEFAULT_MESSAGE_CAP
from sessions_db.schema.columns import Int64, Key, index, is_json_object, metadata, one_of
from sessions_db.schema.json import Json

_IS_UNSEALED = text("unsealed = 1")


def identity_rules(row: str = "") -> dict[str, str]:
    """What else holds for the columns of a session that never change: conditions, each by its name.

    On SQLite each is a CHECK. Postgres would parse all of them anew for each update of a row, and so for each append: a
    tenth of its work (measured once). There the trigger `sessions_insert` has them, and `sessions_identity` refuses
    updates.

    Args:
        row: what comes before the name of a column, such as `NEW.`.
    """
    kind, key, agent_id, forked_at_seq = (f"{row}{name}" for name in ("kind", "key", "agent_id", "forked_at_seq"))
    return {
        "ck_sessions_agent_id": f"{agent_id} <> '' AND {agent_id} NOT LIKE '%:%'",
        # The grammar of `keys.py`.
        "ck_sessions_key": f"CASE {kind} WHEN 'main' THEN {key} = 'agent:' || {agent_id} || ':' || {kind} "
        f"ELSE substr({key}, 1, length({agent_id}) + length({kind}) + 8) "
        f"= 'agent:' || {agent_id} || ':' || {kind} || ':' END",
        "ck_sessions_run_id": f"({kind} IN ('main', 'conversation')) = ({row}run_id IS NULL)",
        "ck_sessions_forked_at_seq": f"{forked_at_seq} IS NULL OR {forked_at_seq} >= 0 AND {row}parent_key IS NOT NULL",
    }


sessions = Table(
    "sessions",
    metadata,
    Column("key", Key, nullable=False),
    Column("agent_id", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("label", Text),
    Column("task", Text),
    Column("run_id", Text),
    # Not a foreign key: pruning a parent must not rewrite its children's rows.
    Column("parent_key", Key),
    Column("forked_at_seq", Int64),
    Column("created_ms", Int64, nullable=False),
    Column("finished_ms", Int64),
    Column("end_reason", Text),
    Column("metadata", Json),
    Column("message_cap", Integer, nullable=False, server_default=text(str(DEFAULT_MESSAGE_CAP))),
    # Every append changes these two. No index may hold them, so that updates stay HOT on Postgres.
    Column("last_seq", Int64, nullable=False, server_default=text("0")),
    Column("last_activity_ms", Int64, nullable=False),
    # 0 or 1 on both databases: SQLite's strict tables have no boolean type.
    Column("archive_trimmed", Integer, nullable=False, server_default=text("0")),
    # Not a fact about the session: whether the next seal has to look at it.
    Column("unsealed", Integer, nullable=False, server_default=text("1")),
    PrimaryKeyConstraint("key", name="pk_sessions"),
    UniqueConstraint("run_id", name="uq_sessions_run_id"),
    *(CheckConstraint(rule, name=name).ddl_if(dialect="sqlite") for name, rule in identity_rules().items()),
    CheckConstraint(one_of("kind", SessionKind), name="ck_sessions_kind"),
    CheckConstraint(one_of("status", SessionStatus), name="ck_sessions_status"),
    # An empty label would be shared by all sessions whose callers have none to give.
    CheckConstraint("label <> ''", name="ck_sessions_label"),
    CheckConstraint("(status = 'active') = (finished_ms IS NULL)", name="ck_sessions_finished_ms"),
    CheckConstraint("status <> 'active' OR end_reason IS NULL", name="ck_sessions_end_reason"),
    CheckConstraint("message_cap >= 1", name="ck_sessions_message_cap"),
    CheckConstraint("last_seq >= 0", name="ck_sessions_last_seq"),
    CheckConstraint("archive_trimmed IN (0, 1)", name="ck_sessions_archive_trimmed"),
    CheckConstraint("unsealed IN (0, 1)", name="ck_sessions_unsealed"),
    *is_json_object("sessions"),
    # `list` orders by (created_ms, key), so each index gives a page without sorting.
    Index("ix_sessions_created", "created_ms", "key"),
    Index("ix_sessions_agent_created", "agent_id", "created_ms", "key"),
    Index("ix_sessions_kind_created", "kind", "created_ms", "key"),
    Index("ix_sessions_status_created", "status", "created_ms", "key"),
    # These two hold no rows that nobody looks for: each index takes a tenth of the time of a spawn on SQLite.
    index("ix_sessions_parent_created", "parent_key", "created_ms", "key", only="parent_key"),
    index("ix_sessions_finished", "finished_ms", "key", only="finished_ms"),
    # Of an update, Postgres compares values: one that sets what is set already stays HOT.
    Index("ix_sessions_unsealed", "key", sqlite_where=_IS_UNSEALED, postgresql_where=_IS_UNSEALED),
    # A session is found by its key directly, without a detour through a rowid.
    sqlite_with_rowid=False,
    sqlite_strict=True,
    # HOT updates need room on the page for the next version of a row.
    postgresql_with={"fillfactor": 80},
)


# A view of the columns that a new session is given. On SQLite no statement writes to two tables, but a trigger does.
labelled_sessions: Final = Table(
    "labelled_sessions",
    MetaData(),
    *(
        Column(column.name, column.type)
        for column in sessions.c
        if column.name not in ("finished_ms", "end_reason", "last_seq", "unsealed")
    ),
)


def labelling(dialect: str) -> Table:
    """Where a session is inserted that is to get its label in the same statement."""
    return labelled_sessions if dialect == "sqlite" else sessions


def _message_columns() -> Iterator[Column[Any]]:
    yield Column("session_key", Key, nullable=False)
    yield Column("seq", Int64, nullable=False)
    yield Column("role", Text, nullable=False)
    yield Column("content", Text, nullable=False)
    yield Column("tool_name", Text)
    yield Column("metadata", Json)
    yield Column("timestamp_ms", Int64, nullable=False)
    yield Column("idempotency_key", Text)


messages = Table(
    "messages",
    metadata,
    *_message_columns(),
    PrimaryKeyConstraint("session_key", "seq", name="pk_messages"),
    ForeignKeyConstraint(["session_key"], ["sessions.key"], name="fk_messages_session_key", ondelete="CASCADE"),
    CheckConstraint(one_of("role", Role), name="ck_messages_role"),
    CheckConstraint("seq >= 1", name="ck_messages_seq"),
    *is_json_object("messages"),
    index("uq_messages_idempotency_key", "session_key", "idempotency_key", unique=True, only="idempotency_key"),
    # Clustered by session: a read of the newest 50 touches neighbouring pages, and took 0.55 of the time that a
    # rowid table took (measured once).
    sqlite_with_rowid=False,
    sqlite_strict=True,
)

labels = Table(
    "labels",
    metadata,
    Column("label", Text, nullable=False),
    Column("session_key", Key, nullable=False),
    Column("assigned_ms", Int64, nullable=False),
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
    Column("archived_ms", Int64, nullable=False),
    PrimaryKeyConstraint("session_key", "seq", name="pk_archived_messages"),
    ForeignKeyConstraint(
        ["session_key"], ["sessions.key"], name="fk_archived_messages_session_key", ondelete="CASCADE"
    ),
    sqlite_with_rowid=False,
    sqlite_strict=True,
)

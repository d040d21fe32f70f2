"""The tables, with their constraints and indexes.

Revision ID: 0001
Revises:
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# STRICT tables on SQLite know INTEGER (64 bits) and TEXT only.
INT64 = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
# Keys sort by their bytes, whatever the database's own collation is.
KEY = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
# JSON, not JSONB: the text is kept as written, key order included.
JSON = sa.Text().with_variant(sa.JSON(), "postgresql")


def upgrade() -> None:
    """Create the tables, each after those that it refers to."""
    create_sessions()
    create_messages()
    create_labels()
    create_archive()
    create_log()
    create_transcripts()


def downgrade() -> None:
    """Drop the tables, and everything in them."""
    if op.get_context().dialect.name == "sqlite":
        op.drop_table("event_actor")
        op.drop_table("message_removals")
    else:
        op.drop_table("event_numbers")
    for table in (
        "sealed_transcripts",
        "message_digests",
        "event_seals",
        "event_digests",
        "log_policy",
        "session_events",
        "archived_messages",
        "labels",
        "messages",
        "sessions",
    ):
        op.drop_table(table)


def identity_checks() -> list[sa.CheckConstraint]:
    # On Postgres the trigger `sessions_insert` holds rows to them.
    if op.get_context().dialect.name == "postgresql":
        return []
    return [
        sa.CheckConstraint("agent_id <> '' AND agent_id NOT LIKE '%:%'", name="ck_sessions_agent_id"),
        sa.CheckConstraint(
            "CASE kind WHEN 'main' THEN key = 'agent:' || agent_id || ':' || kind "
            "ELSE substr(key, 1, length(agent_id) + length(kind) + 8) = 'agent:' || agent_id || ':' || kind || ':' END",
            name="ck_sessions_key",
        ),
        sa.CheckConstraint("(kind IN ('main', 'conversation')) = (run_id IS NULL)", name="ck_sessions_run_id"),
        sa.CheckConstraint(
            "forked_at_seq IS NULL OR forked_at_seq >= 0 AND parent_key IS NOT NULL", name="ck_sessions_forked_at_seq"
        ),
    ]


def metadata_is_object(table: str) -> sa.CheckConstraint:
    condition = {
        "sqlite": "metadata IS NULL OR json_valid(metadata) AND json_type(metadata) = 'object'",
        "postgresql": "json_typeof(metadata) = 'object'",
    }
    return sa.CheckConstraint(condition[op.get_context().dialect.name], name=f"ck_{table}_metadata")


def create_sessions() -> None:
    op.create_table(
        "sessions",
        sa.Column("key", KEY, nullable=False),
        sa.Column("agent_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("label", sa.Text()),
        sa.Column("task", sa.Text()),
        sa.Column("run_id", sa.Text()),
        sa.Column("parent_key", KEY),
        sa.Column("forked_at_seq", INT64),
        sa.Column("created_ms", INT64, nullable=False),
        sa.Column("finished_ms", INT64),
        sa.Column("end_reason", sa.Text()),
        sa.Column("metadata", JSON),
        sa.Column("message_cap", sa.Integer(), nullable=False, server_default=sa.text("100")),
        sa.Column("last_seq", INT64, nullable=False, server_default=sa.text("0")),
        sa.Column("last_activity_ms", INT64, nullable=False),
        sa.Column("archive_trimmed", sa.Integer(), nullable=False, server_default=sa.text("0")),
        sa.Column("unsealed", sa.Integer(), nullable=False, server_default=sa.text("1")),
        sa.PrimaryKeyConstraint("key", name="pk_sessions"),
        sa.UniqueConstraint("run_id", name="uq_sessions_run_id"),
        *identity_checks(),
        sa.CheckConstraint("kind IN ('main', 'subagent', 'cron', 'conversation')", name="ck_sessions_kind"),
        sa.CheckConstraint(
            "status IN ('active', 'completed', 'error', 'timeout', 'stopped')", name="ck_sessions_status"
        ),
        sa.CheckConstraint("label <> ''", name="ck_sessions_label"),
        sa.CheckConstraint("(status = 'active') = (finished_ms IS NULL)", name="ck_sessions_finished_ms"),
        sa.CheckConstraint("status <> 'active' OR end_reason IS NULL", name="ck_sessions_end_reason"),
        sa.CheckConstraint("message_cap >= 1", name="ck_sessions_message_cap"),
        sa.CheckConstraint("last_seq >= 0", name="ck_sessions_last_seq"),
        sa.CheckConstraint("archive_trimmed IN (0, 1)", name="ck_sessions_archive_trimmed"),
        sa.CheckConstraint("unsealed IN (0, 1)", name="ck_sessions_unsealed"),
        metadata_is_object("sessions"),
        sqlite_with_rowid=False,
        sqlite_strict=True,
        # Room on each page for the next version of a row, so that updates stay HOT.
        postgresql_with={"fillfactor": 80},
    )
    op.create_index("ix_sessions_created", "sessions", ["created_ms", "key"])
    op.create_index("ix_sessions_agent_created", "sessions", ["agent_id", "created_ms", "key"])
    op.create_index("ix_sessions_kind_created", "sessions", ["kind", "created_ms", "key"])
    op.create_index("ix_sessions_status_created", "sessions", ["status", "created_ms", "key"])
    has_parent, is_finished = sa.text("parent_key IS NOT NULL"), sa.text("finished_ms IS NOT NULL")
    op.create_index(
        "ix_sessions_parent_created",
        "sessions",
        ["parent_key", "created_ms", "key"],
        sqlite_where=has_parent,
        postgresql_where=has_parent,
    )
    op.create_index(
        "ix_sessions_finished",
        "sessions",
        ["finished_ms", "key"],
        sqlite_where=is_finished,
        postgresql_where=is_finished,
    )
    is_unsealed = sa.text("unsealed = 1")
    op.create_index("ix_sessions_unsealed", "sessions", ["key"], sqlite_where=is_unsealed, postgresql_where=is_unsealed)


def create_messages() -> None:
    op.create_table(
        "messages",
        sa.Column("session_key", KEY, nullable=False),
        sa.Column("seq", INT64, nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("tool_name", sa.Text()),
        sa.Column("metadata", JSON),
        sa.Column("timestamp_ms", INT64, nullable=False),
        sa.Column("idempotency_key", sa.Text()),
        sa.PrimaryKeyConstraint("session_key", "seq", name="pk_messages"),
        sa.ForeignKeyConstraint(["session_key"], ["sessions.key"], name="fk_messages_session_key", ondelete="CASCADE"),
        sa.CheckConstraint("role IN ('user', 'assistant', 'system', 'tool')", name="ck_messages_role"),
        sa.CheckConstraint("seq >= 1", name="ck_messages_seq"),
        metadata_is_object("messages"),
        sqlite_with_rowid=False,
        sqlite_strict=True,
    )
    has_key = sa.text("idempotency_key IS NOT NULL")
    op.create_index(
        "uq_messages_idempotency_key",
        "messages",
        ["session_key", "idempotency_key"],
        unique=True,
        sqlite_where=has_key,
        postgresql_where=has_key,
    )


def create_labels() -> None:
    op.create_table(
        "labels",
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("session_key", KEY, nullable=False),
        sa.Column("assigned_ms", INT64, nullable=False),
        sa.PrimaryKeyConstraint("label", name="pk_labels"),
        sa.CheckConstraint("label <> ''", name="ck_labels_label"),
        sa.ForeignKeyConstraint(["session_key"], ["sessions.key"], name="fk_labels_session_key", ondelete="CASCADE"),
        sqlite_with_rowid=False,
        sqlite_strict=True,
    )
    op.create_index("ix_labels_session_key", "labels", ["session_key"])


def create_archive() -> None:
    op.create_table(
        "archived_messages",
        sa.Column("session_key", KEY, nullable=False),
        sa.Column("seq", INT64, nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("tool_name", sa.Text()),
        sa.Column("metadata", JSON),
        sa.Column("timestamp_ms", INT64, nullable=False),
        sa.Column("idempotency_key", sa.Text()),
        sa.Column("archived_ms", INT64, nullable=False),
        sa.PrimaryKeyConstraint("session_key", "seq", name="pk_archived_messages"),
        sa.ForeignKeyConstraint(
            ["session_key"], ["sessions.key"], name="fk_archived_messages_session_key", ondelete="CASCADE"
        ),
        sqlite_with_rowid=False,
        sqlite_strict=True,
    )


def create_log() -> None:
    op.create_table(
        "session_events",
        sa.Column("id", INT64, autoincrement=True, nullable=False),
        sa.Column("at_ms", INT64, nullable=False),
        sa.Column("actor", sa.Text()),
        sa.Column("db_user", sa.Text()),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("session_key", KEY),
        sa.Column("from_status", sa.Text()),
        sa.Column("to_status", sa.Text()),
        sa.Column("reason", sa.Text()),
        sa.Column("label", sa.Text()),
        sa.Column("from_session_key", KEY),
        sa.Column("parent_key", KEY),
        sa.Column("message_count", INT64),
        sa.Column("first_seq", INT64),
        sa.Column("last_seq", INT64),
        sa.PrimaryKeyConstraint("id", name="pk_session_events"),
        sa.CheckConstraint("id >= 1", name="ck_session_events_id"),
        sa.CheckConstraint(
            "event IN ('created', 'status_changed', 'end_changed', 'session_updated', 'label_assigned', 'label_moved', "
            "'label_removed', 'deleted', 'messages_removed', 'message_redacted', 'retention_changed')",
            name="ck_session_events_event",
        ),
        sa.CheckConstraint(
            "(event = 'retention_changed') = (session_key IS NULL)", name="ck_session_events_session_key"
        ),
        sqlite_autoincrement=True,
        sqlite_strict=True,
    )
    op.create_index("ix_session_events_session", "session_events", ["session_key", "id"])
    op.create_index("ix_session_events_at", "session_events", ["at_ms"])
    op.create_table(
        "log_policy",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("retention_days", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_log_policy"),
        sa.CheckConstraint("id = 1", name="ck_log_policy_id"),
        sa.CheckConstraint("retention_days BETWEEN 1 AND 36500", name="ck_log_policy_retention_days"),
        sqlite_strict=True,
    )
    op.execute("INSERT INTO log_policy (id, retention_days) VALUES (1, 180)")
    op.create_table(
        "event_digests",
        sa.Column("event_id", INT64, autoincrement=False, nullable=False),
        sa.Column("at_ms", INT64, nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("event_id", name="pk_event_digests"),
        sqlite_strict=True,
    )
    op.create_table(
        "event_seals",
        sa.Column("id", INT64, autoincrement=False, nullable=False),
        sa.Column("sealed_ms", INT64, nullable=False),
        sa.Column("actor", sa.Text()),
        sa.Column("through_event_id", INT64, nullable=False),
        sa.Column("event_count", INT64, nullable=False),
        sa.Column("previous_digest", sa.Text(), nullable=False),
        sa.Column("events_digest", sa.Text(), nullable=False),
        sa.Column("transcript_count", INT64, nullable=False),
        sa.Column("transcripts_digest", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_event_seals"),
        sa.UniqueConstraint("previous_digest", name="uq_event_seals_previous_digest"),
        sqlite_strict=True,
    )
    # Postgres needs no table for this: a setting local to the transaction names the actor.
    if op.get_context().dialect.name == "sqlite":
        op.create_table(
            "event_actor",
            sa.Column("name", sa.Text(), nullable=False),
            sa.PrimaryKeyConstraint("name", name="pk_event_actor"),
            sqlite_strict=True,
        )
        op.create_table(
            "message_removals",
            sa.Column("session_key", KEY, nullable=False),
            sa.Column("first_seq", INT64, nullable=False),
            sa.Column("last_seq", INT64, nullable=False),
            sa.PrimaryKeyConstraint("session_key", name="pk_message_removals"),
            sqlite_strict=True,
        )
    else:
        op.create_table(
            "event_numbers",
            sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
            sa.Column("ahead", INT64, nullable=False),
            sa.PrimaryKeyConstraint("id", name="pk_event_numbers"),
            sa.CheckConstraint("id = 1", name="ck_event_numbers_id"),
        )


def create_transcripts() -> None:
    op.create_table(
        "message_digests",
        sa.Column("session_key", KEY, nullable=False),
        sa.Column("seq", INT64, nullable=False),
        sa.Column("transcript", INT64, nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("session_key", "seq", name="pk_message_digests"),
        sa.ForeignKeyConstraint(
            ["session_key"], ["sessions.key"], name="fk_message_digests_session_key", ondelete="CASCADE"
        ),
        sqlite_with_rowid=False,
        sqlite_strict=True,
    )
    op.create_table(
        "sealed_transcripts",
        sa.Column("session_key", KEY, nullable=False),
        sa.Column("number", INT64, nullable=False),
        sa.Column("seal_id", INT64, nullable=False),
        sa.Column("after_seq", INT64, nullable=False),
        sa.Column("first_seq", INT64, nullable=False),
        sa.Column("last_seq", INT64, nullable=False),
        sa.Column("message_count", INT64, nullable=False),
        sa.Column("previous_digest", sa.Text(), nullable=False),
        sa.Column("messages_digest", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("session_key", "number", name="pk_sealed_transcripts"),
        sqlite_with_rowid=False,
        sqlite_strict=True,
    )
    op.create_index("ix_sealed_transcripts_seal", "sealed_transcripts", ["seal_id", "session_key", "number"])

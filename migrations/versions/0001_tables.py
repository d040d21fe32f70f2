"""The tables: sessions, their messages, and the labels that point to sessions.

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
# Keys sort by their bytes, whatever the database's own order of text is.
KEY = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
# JSON, not JSONB: the text is kept as written, key order included.
JSON = sa.Text().with_variant(sa.JSON(), "postgresql")


def upgrade() -> None:
    """Create the tables, their constraints and indexes."""
    on_sqlite = op.get_context().dialect.name == "sqlite"
    is_object = (
        "metadata IS NULL OR json_valid(metadata) AND json_type(metadata) = 'object'"
        if on_sqlite
        else ("json_typeof(metadata) = 'object'")
    )
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
        sa.Column("created_ms", INT64, nullable=False),
        sa.Column("finished_ms", INT64),
        sa.Column("end_reason", sa.Text()),
        sa.Column("metadata", JSON),
        sa.Column("message_cap", sa.Integer(), nullable=False, server_default=sa.text("100")),
        sa.Column("last_seq", INT64, nullable=False, server_default=sa.text("0")),
        sa.Column("last_activity_ms", INT64, nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_sessions"),
        sa.UniqueConstraint("run_id", name="uq_sessions_run_id"),
        sa.CheckConstraint("kind IN ('main', 'subagent', 'cron')", name="ck_sessions_kind"),
        sa.CheckConstraint(
            "status IN ('active', 'completed', 'error', 'timeout', 'stopped')", name="ck_sessions_status"
        ),
        sa.CheckConstraint("agent_id <> '' AND agent_id NOT LIKE '%:%'", name="ck_sessions_agent_id"),
        sa.CheckConstraint(
            "CASE kind WHEN 'main' THEN key = 'agent:' || agent_id || ':' || kind "
            "ELSE substr(key, 1, length(agent_id) + length(kind) + 8) = 'agent:' || agent_id || ':' || kind || ':' END",
            name="ck_sessions_key",
        ),
        sa.CheckConstraint("(kind = 'main') = (run_id IS NULL)", name="ck_sessions_run_id"),
        sa.CheckConstraint("(status = 'active') = (finished_ms IS NULL)", name="ck_sessions_finished_ms"),
        sa.CheckConstraint("status <> 'active' OR end_reason IS NULL", name="ck_sessions_end_reason"),
        sa.CheckConstraint("message_cap >= 1", name="ck_sessions_message_cap"),
        sa.CheckConstraint("last_seq >= 0", name="ck_sessions_last_seq"),
        sa.CheckConstraint(is_object, name="ck_sessions_metadata"),
        sqlite_with_rowid=False,
        sqlite_strict=True,
        postgresql_with={"fillfactor": 80},
    )
    op.create_index("ix_sessions_created", "sessions", ["created_ms", "key"])
    op.create_index("ix_sessions_agent_created", "sessions", ["agent_id", "created_ms", "key"])
    op.create_index("ix_sessions_kind_created", "sessions", ["kind", "created_ms", "key"])
    op.create_index("ix_sessions_status_created", "sessions", ["status", "created_ms", "key"])
    op.create_index("ix_sessions_parent_created", "sessions", ["parent_key", "created_ms", "key"])
    op.create_index("ix_sessions_finished", "sessions", ["finished_ms", "key"])

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
        sa.CheckConstraint(is_object, name="ck_messages_metadata"),
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

    op.create_table(
        "labels",
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("session_key", KEY, nullable=False),
        sa.Column("assigned_ms", INT64, nullable=False),
        sa.PrimaryKeyConstraint("label", name="pk_labels"),
        sa.ForeignKeyConstraint(["session_key"], ["sessions.key"], name="fk_labels_session_key", ondelete="CASCADE"),
        sqlite_with_rowid=False,
        sqlite_strict=True,
    )
    op.create_index("ix_labels_session_key", "labels", ["session_key"])


def downgrade() -> None:
    """Drop everything."""
    op.drop_table("labels")
    op.drop_table("messages")
    op.drop_table("sessions")

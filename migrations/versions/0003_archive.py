"""The archive: where a session says so, messages that are trimmed are moved and not deleted.

Revision ID: 0003
Revises: 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

INT64 = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
# Keys sort by their bytes, whatever the database's own order of text is.
KEY = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
JSON = sa.Text().with_variant(sa.JSON(), "postgresql")

MESSAGE = "session_key, seq, role, content, tool_name, metadata, timestamp_ms, idempotency_key"

# Milliseconds since the epoch by the database's clock.
SQLITE_NOW = "CAST(round((julianday('now') - 2440587.5) * 86400000) AS INTEGER)"
POSTGRESQL_NOW = "floor(extract(epoch FROM clock_timestamp()) * 1000)"

SQLITE = {
    "messages_append": f"""\
CREATE TRIGGER messages_append AFTER INSERT ON messages
BEGIN
  SELECT RAISE(ABORT, 'messages_append: seq must be the last_seq of an existing session, plus 1')
  WHERE NOT EXISTS (SELECT 1 FROM sessions WHERE key = NEW.session_key AND last_seq = NEW.seq - 1);
  UPDATE sessions
  SET last_seq = NEW.seq, last_activity_ms = max(last_activity_ms, NEW.timestamp_ms)
  WHERE key = NEW.session_key;
  INSERT INTO archived_messages ({MESSAGE}, archived_ms)
  SELECT {MESSAGE}, {SQLITE_NOW} FROM messages
  WHERE session_key = NEW.session_key
    AND seq <= NEW.seq - (SELECT message_cap FROM sessions WHERE key = NEW.session_key AND archive_trimmed = 1);
  DELETE FROM messages
  WHERE session_key = NEW.session_key
    AND seq <= NEW.seq - (SELECT message_cap FROM sessions WHERE key = NEW.session_key);
END""",
    "sessions_message_cap": f"""\
CREATE TRIGGER sessions_message_cap AFTER UPDATE OF message_cap ON sessions
WHEN NEW.message_cap < OLD.message_cap
BEGIN
  INSERT INTO archived_messages ({MESSAGE}, archived_ms)
  SELECT {MESSAGE}, {SQLITE_NOW} FROM messages
  WHERE NEW.archive_trimmed = 1 AND session_key = NEW.key AND seq <= NEW.last_seq - NEW.message_cap;
  DELETE FROM messages WHERE session_key = NEW.key AND seq <= NEW.last_seq - NEW.message_cap;
END""",
    "sessions_delete": """\
CREATE TRIGGER sessions_delete AFTER DELETE ON sessions
BEGIN
  DELETE FROM messages WHERE session_key = OLD.key;
  DELETE FROM archived_messages WHERE session_key = OLD.key;
  DELETE FROM labels WHERE session_key = OLD.key;
END""",
}

SQLITE_BEFORE = {
    "messages_append": """\
CREATE TRIGGER messages_append AFTER INSERT ON messages
BEGIN
  SELECT RAISE(ABORT, 'messages_append: seq must be the last_seq of an existing session, plus 1')
  WHERE NOT EXISTS (SELECT 1 FROM sessions WHERE key = NEW.session_key AND last_seq = NEW.seq - 1);
  UPDATE sessions
  SET last_seq = NEW.seq, last_activity_ms = max(last_activity_ms, NEW.timestamp_ms)
  WHERE key = NEW.session_key;
  DELETE FROM messages
  WHERE session_key = NEW.session_key
    AND seq <= NEW.seq - (SELECT message_cap FROM sessions WHERE key = NEW.session_key);
END""",
    "sessions_message_cap": """\
CREATE TRIGGER sessions_message_cap AFTER UPDATE OF message_cap ON sessions
WHEN NEW.message_cap < OLD.message_cap
BEGIN
  DELETE FROM messages WHERE session_key = NEW.key AND seq <= NEW.last_seq - NEW.message_cap;
END""",
    "sessions_delete": """\
CREATE TRIGGER sessions_delete AFTER DELETE ON sessions
BEGIN
  DELETE FROM messages WHERE session_key = OLD.key;
  DELETE FROM labels WHERE session_key = OLD.key;
END""",
}

POSTGRESQL = {
    "messages_append": f"""\
CREATE OR REPLACE FUNCTION messages_append() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  batch record;
  session record;
BEGIN
  FOR batch IN
    SELECT session_key, min(seq) AS first_seq, max(seq) AS last_seq, count(*) AS size, max(timestamp_ms) AS newest_ms
    FROM appended GROUP BY session_key ORDER BY session_key
  LOOP
    UPDATE sessions
    SET last_seq = batch.last_seq, last_activity_ms = greatest(last_activity_ms, batch.newest_ms)
    WHERE key = batch.session_key
      AND last_seq = batch.first_seq - 1
      AND batch.last_seq - batch.first_seq + 1 = batch.size
    RETURNING message_cap, archive_trimmed INTO session;
    IF NOT FOUND THEN
      RAISE EXCEPTION 'messages_append: seq must go on from the last_seq of an existing session'
        USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    IF session.archive_trimmed = 1 THEN
      INSERT INTO archived_messages ({MESSAGE}, archived_ms)
      SELECT {MESSAGE}, {POSTGRESQL_NOW} FROM messages
      WHERE session_key = batch.session_key AND seq <= batch.last_seq - session.message_cap;
    END IF;
    DELETE FROM messages WHERE session_key = batch.session_key AND seq <= batch.last_seq - session.message_cap;
  END LOOP;
  RETURN NULL;
END
$$""",
    "sessions_message_cap": f"""\
CREATE OR REPLACE FUNCTION sessions_message_cap() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.archive_trimmed = 1 THEN
    INSERT INTO archived_messages ({MESSAGE}, archived_ms)
    SELECT {MESSAGE}, {POSTGRESQL_NOW} FROM messages
    WHERE session_key = NEW.key AND seq <= NEW.last_seq - NEW.message_cap;
  END IF;
  DELETE FROM messages WHERE session_key = NEW.key AND seq <= NEW.last_seq - NEW.message_cap;
  RETURN NULL;
END
$$""",
}

POSTGRESQL_BEFORE = {
    "messages_append": """\
CREATE OR REPLACE FUNCTION messages_append() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  batch record;
  cap integer;
BEGIN
  FOR batch IN
    SELECT session_key, min(seq) AS first_seq, max(seq) AS last_seq, count(*) AS size, max(timestamp_ms) AS newest_ms
    FROM appended GROUP BY session_key ORDER BY session_key
  LOOP
    UPDATE sessions
    SET last_seq = batch.last_seq, last_activity_ms = greatest(last_activity_ms, batch.newest_ms)
    WHERE key = batch.session_key
      AND last_seq = batch.first_seq - 1
      AND batch.last_seq - batch.first_seq + 1 = batch.size
    RETURNING message_cap INTO cap;
    IF NOT FOUND THEN
      RAISE EXCEPTION 'messages_append: seq must go on from the last_seq of an existing session'
        USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    DELETE FROM messages WHERE session_key = batch.session_key AND seq <= batch.last_seq - cap;
  END LOOP;
  RETURN NULL;
END
$$""",
    "sessions_message_cap": """\
CREATE OR REPLACE FUNCTION sessions_message_cap() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  DELETE FROM messages WHERE session_key = NEW.key AND seq <= NEW.last_seq - NEW.message_cap;
  RETURN NULL;
END
$$""",
}


def upgrade() -> None:
    """Add the column and the table, then have the triggers move what they trim."""
    on_sqlite = op.get_context().dialect.name == "sqlite"
    # In so many words: Alembic would copy the table on SQLite, without its triggers.
    op.execute(
        "ALTER TABLE sessions ADD COLUMN archive_trimmed INTEGER DEFAULT 0 NOT NULL "
        "CONSTRAINT ck_sessions_archive_trimmed CHECK (archive_trimmed IN (0, 1))"
    )
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
    replace(SQLITE if on_sqlite else POSTGRESQL)


def downgrade() -> None:
    """Forget the archive and what is in it."""
    replace(SQLITE_BEFORE if op.get_context().dialect.name == "sqlite" else POSTGRESQL_BEFORE)
    op.drop_table("archived_messages")
    op.execute("ALTER TABLE sessions DROP COLUMN archive_trimmed")


def replace(triggers: dict[str, str]) -> None:
    """Put these triggers, or on Postgres their functions, in the place of those of the same name."""
    for name, statement in triggers.items():
        if op.get_context().dialect.name == "sqlite":
            op.execute(f"DROP TRIGGER {name}")
        op.execute(statement)
        if op.get_context().dialect.name == "postgresql":
            op.execute(
                f"""\
DO $$
BEGIN
  EXECUTE format('ALTER FUNCTION {name}() SET search_path = %I, pg_temp', current_schema());
END
$$"""
            )

"""The triggers that keep transcripts as they were, on SQLite."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Table

from sessions_db.schema.tables import archived_messages, messages

# Milliseconds since the epoch by the database's clock.
NOW: Final = "CAST(round((julianday('now') - 2440587.5) * 86400000) AS INTEGER)"

ACTOR: Final = "(SELECT name FROM event_actor)"

MESSAGE: Final = ", ".join(messages.columns.keys())

_LOGGED: Final = "at_ms, actor, event, session_key, reason, message_count, first_seq, last_seq"


def _kept(table: Table) -> list[str]:
    return [column.name for column in table.columns if column.name not in ("content", "tool_name", "metadata")]


def _is_marked(row: str) -> str:
    return (
        f"({row}.content = '[redacted]' AND {row}.metadata IS NOT NULL"
        f" AND json_type({row}.metadata, '$.redacted') IS 'text'\n"
        f"      AND (SELECT count(*) FROM json_each({row}.metadata)) = 1)"
    )


def _redacted(table: str, kept: list[str]) -> str:
    name = f"{table}_redacted"
    changed = "\n    OR ".join(f"NEW.{column} IS NOT OLD.{column}" for column in kept)
    return f"""\
CREATE TRIGGER {name} AFTER UPDATE ON {table}
BEGIN
  SELECT RAISE(ABORT, '{name}: a message is only redacted, and that once')
  WHERE {changed}
    OR NEW.tool_name IS NOT (CASE WHEN OLD.tool_name IS NOT NULL THEN '[redacted]' END)
    OR NOT {_is_marked("NEW")}
    OR json_extract(NEW.metadata, '$.redacted') = ''
    OR {_is_marked("OLD")};
  INSERT INTO session_events ({_LOGGED})
  SELECT {NOW}, {ACTOR},
    'message_redacted', NEW.session_key, json_extract(NEW.metadata, '$.redacted'), NULL,
    NEW.seq, NEW.seq;
END"""


TRIGGERS: Final = {
    "messages_redacted": _redacted("messages", _kept(messages)),
    "archived_messages_redacted": _redacted("archived_messages", _kept(archived_messages)),
    # Not for the trim query, which has moved last_seq before, and not for messages that go with their session.
    "messages_removed": f"""\
CREATE TRIGGER messages_removed AFTER DELETE ON messages
WHEN OLD.seq > (SELECT last_seq - message_cap FROM sessions WHERE key = OLD.session_key)
  AND NOT EXISTS (SELECT 1 FROM message_removals WHERE session_key = OLD.session_key)
BEGIN
  INSERT INTO session_events ({_LOGGED})
  SELECT {NOW}, {ACTOR},
    'messages_removed', OLD.session_key, NULL, 1, OLD.seq, OLD.seq;
END""",
    "archived_messages_removed": f"""\
CREATE TRIGGER archived_messages_removed AFTER DELETE ON archived_messages
WHEN EXISTS (SELECT 1 FROM sessions WHERE key = OLD.session_key)
BEGIN
  INSERT INTO session_events ({_LOGGED})
  SELECT {NOW}, {ACTOR},
    'messages_removed', OLD.session_key, 'removed from the archive', 1, OLD.seq, OLD.seq;
END""",
    # An event for each run of numbers: what is in its range is gone, and nothing else explains a gap.
    "message_removals_insert": f"""\
CREATE TRIGGER message_removals_insert AFTER INSERT ON message_removals
BEGIN
  INSERT INTO session_events ({_LOGGED})
  SELECT {NOW}, {ACTOR},
    'messages_removed', NEW.session_key, NULL, count(*), min(number), max(number)
  FROM (
    SELECT seq AS number, seq - row_number() OVER (ORDER BY seq) AS run FROM messages
    WHERE session_key = NEW.session_key AND seq BETWEEN NEW.first_seq AND NEW.last_seq
  ) AS numbered
  GROUP BY run ORDER BY min(number);
  INSERT INTO archived_messages ({MESSAGE}, archived_ms)
  SELECT {MESSAGE}, {NOW} FROM messages
  WHERE session_key = NEW.session_key AND seq BETWEEN NEW.first_seq AND NEW.last_seq
    AND EXISTS (SELECT 1 FROM sessions WHERE key = NEW.session_key AND archive_trimmed = 1);
  DELETE FROM messages WHERE session_key = NEW.session_key AND seq BETWEEN NEW.first_seq AND NEW.last_seq;
  INSERT INTO session_events ({_LOGGED})
  SELECT {NOW}, {ACTOR},
    'messages_removed', key, 'never stored here', 0, last_seq + 1, NEW.last_seq
  FROM sessions WHERE key = NEW.session_key AND last_seq < NEW.last_seq;
  UPDATE sessions SET last_seq = NEW.last_seq WHERE key = NEW.session_key AND last_seq < NEW.last_seq;
  DELETE FROM message_removals WHERE session_key = NEW.session_key;
END""",
    # A number that was given is never given again. Numbers that are passed over are logged: nothing was removed here,
    # but there is a gap. A step by one is taken for an append: to look for its message would cost every append.
    "sessions_last_seq": f"""\
CREATE TRIGGER sessions_last_seq AFTER UPDATE OF last_seq ON sessions
WHEN NEW.last_seq <> OLD.last_seq + 1
BEGIN
  SELECT RAISE(ABORT, 'sessions_last_seq: the number of the last message does not go back')
  WHERE NEW.last_seq < OLD.last_seq;
  INSERT INTO session_events ({_LOGGED})
  SELECT {NOW}, {ACTOR},
    'messages_removed', NEW.key, 'never stored here', 0, OLD.last_seq + 1, NEW.last_seq
  WHERE NEW.last_seq > OLD.last_seq AND NOT EXISTS (SELECT 1 FROM message_removals WHERE session_key = NEW.key);
END""",
    # A lowered cap takes effect at once. A raised one leaves what was trimmed before.
    "sessions_message_cap": f"""\
CREATE TRIGGER sessions_message_cap AFTER UPDATE OF message_cap ON sessions
WHEN NEW.message_cap <> OLD.message_cap
BEGIN
  INSERT INTO session_events ({_LOGGED})
  SELECT {NOW}, {ACTOR},
    'messages_removed', NEW.key,
    'trimmed before message_cap went from ' || OLD.message_cap || ' to ' || NEW.message_cap,
    0, 1, NEW.last_seq - OLD.message_cap
  WHERE NEW.message_cap > OLD.message_cap AND NEW.last_seq > OLD.message_cap;
  INSERT INTO session_events ({_LOGGED})
  SELECT {NOW}, {ACTOR},
    'messages_removed', NEW.key,
    'trimmed as message_cap went from ' || OLD.message_cap || ' to ' || NEW.message_cap,
    count(*), min(seq), max(seq)
  FROM messages WHERE session_key = NEW.key AND seq <= NEW.last_seq - NEW.message_cap
  HAVING count(*) > 0;
  INSERT INTO archived_messages ({MESSAGE}, archived_ms)
  SELECT {MESSAGE}, {NOW} FROM messages
  WHERE NEW.archive_trimmed = 1 AND session_key = NEW.key AND seq <= NEW.last_seq - NEW.message_cap;
  DELETE FROM messages WHERE session_key = NEW.key AND seq <= NEW.last_seq - NEW.message_cap;
END""",
    # How long the log is kept.
    "log_policy_update": f"""\
CREATE TRIGGER log_policy_update AFTER UPDATE ON log_policy
WHEN NEW.retention_days <> OLD.retention_days
BEGIN
  INSERT INTO session_events (at_ms, actor, event, reason)
  SELECT {NOW}, {ACTOR},
    'retention_changed', OLD.retention_days || ' -> ' || NEW.retention_days || ' days';
END""",
    "log_policy_delete": """\
CREATE TRIGGER log_policy_delete BEFORE DELETE ON log_policy
BEGIN
  SELECT RAISE(ABORT, 'log_policy_delete: the policy is changed, not deleted');
END""",
}
"""Further triggers, by name."""

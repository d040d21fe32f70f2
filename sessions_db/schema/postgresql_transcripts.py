"""What keeps transcripts as they were, on Postgres: triggers, and functions through which a service changes them."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Table

from sessions_db.schema.postgresql_functions import ACTOR, MESSAGE, NOW, in_its_schema, owners_only, refusal
from sessions_db.schema.tables import archived_messages, messages

_LOGGED: Final = "at_ms, actor, db_user, event, session_key, reason, message_count, first_seq, last_seq"
_WHO: Final = f"{NOW}, {ACTOR}, session_user"


def _kept(table: Table) -> list[str]:
    return [column.name for column in table.columns if column.name not in ("content", "tool_name", "metadata")]


def _is_marked(row: str) -> str:
    return (
        f"coalesce({row}.content = '[redacted]' AND json_typeof({row}.metadata -> 'redacted') = 'string'\n"
        f"      AND (SELECT count(*) FROM json_object_keys({row}.metadata)) = 1, false)"
    )


def _redacted(table: str, kept: list[str]) -> str:
    name = f"{table}_redacted"
    new, old = (", ".join(f"{row}.{column}" for column in kept) for row in ("NEW", "OLD"))
    return f"""\
CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
  IF ({new})
      IS DISTINCT FROM ({old})
    OR NEW.tool_name IS DISTINCT FROM (CASE WHEN OLD.tool_name IS NOT NULL THEN '[redacted]' END)
    OR NOT {_is_marked("NEW")}
    OR NEW.metadata ->> 'redacted' = ''
    OR {_is_marked("OLD")} THEN
    RAISE EXCEPTION '{name}: a message is only redacted, and that once'
      USING ERRCODE = 'integrity_constraint_violation';
  END IF;
  INSERT INTO session_events ({_LOGGED})
  VALUES ({_WHO},
    'message_redacted', NEW.session_key, NEW.metadata ->> 'redacted', NULL, NEW.seq, NEW.seq);
  RETURN NULL;
END
$$;
CREATE TRIGGER {name} AFTER UPDATE ON {table}
FOR EACH ROW EXECUTE FUNCTION {name}();
{in_its_schema(name)};
{owners_only(name)}"""


def _removed(table: str, reason: str) -> str:
    # The trim query runs within a trigger, and so does the deletion of a session's messages. An event for each run of
    # numbers: what is in its range is gone, and nothing else explains a gap.
    name = f"{table}_removed"
    return f"""\
CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
  keys text[];
  counts bigint[];
  first_seqs bigint[];
  last_seqs bigint[];
BEGIN
  SELECT array_agg(session_key), array_agg(size), array_agg(first_seq), array_agg(last_seq)
  INTO keys, counts, first_seqs, last_seqs
  FROM (
    SELECT session_key, count(*) AS size, min(seq) AS first_seq, max(seq) AS last_seq
    FROM (
      SELECT session_key, seq, seq - row_number() OVER (PARTITION BY session_key ORDER BY seq) AS run FROM removed
    ) AS numbered
    GROUP BY session_key, run
  ) AS runs;
  INSERT INTO session_events ({_LOGGED})
  SELECT {_WHO},
    'messages_removed', key, {reason}, size, first, last
  FROM unnest(keys, counts, first_seqs, last_seqs) AS run(session_key, size, first, last)
  JOIN sessions ON key = session_key
  ORDER BY key, first;
  RETURN NULL;
END
$$;
CREATE TRIGGER {name} AFTER DELETE ON {table}
REFERENCING OLD TABLE AS removed FOR EACH STATEMENT WHEN (pg_trigger_depth() = 0)
EXECUTE FUNCTION {name}();
{in_its_schema(name)};
{owners_only(name)}"""


TRIGGERS: Final = {
    "messages_redacted": _redacted("messages", _kept(messages)),
    "archived_messages_redacted": _redacted("archived_messages", _kept(archived_messages)),
    "messages_removed": _removed("messages", "NULL"),
    "archived_messages_removed": _removed("archived_messages", "'removed from the archive'"),
    # A number that was given is never given again. Numbers that are passed over are logged: nothing was removed here,
    # but there is a gap. Not within the append's trigger; each append reads the condition, so it is short.
    "sessions_last_seq": f"""\
CREATE FUNCTION sessions_last_seq() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
  IF NEW.last_seq < OLD.last_seq THEN
    RAISE EXCEPTION 'sessions_last_seq: the number of the last message does not go back'
      USING ERRCODE = 'integrity_constraint_violation';
  END IF;
  INSERT INTO session_events ({_LOGGED})
  SELECT {_WHO},
    'messages_removed', NEW.key, 'never stored here', 0, OLD.last_seq + 1, NEW.last_seq
  WHERE NEW.last_seq > OLD.last_seq;
  RETURN NULL;
END
$$;
CREATE TRIGGER sessions_last_seq AFTER UPDATE OF last_seq ON sessions
FOR EACH ROW WHEN (pg_trigger_depth() = 0) EXECUTE FUNCTION sessions_last_seq();
{in_its_schema("sessions_last_seq")};
{owners_only("sessions_last_seq")}""",
    # A lowered cap takes effect at once. A raised one leaves what was trimmed before.
    "sessions_message_cap": f"""\
CREATE FUNCTION sessions_message_cap() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
  IF NEW.message_cap > OLD.message_cap THEN
    INSERT INTO session_events ({_LOGGED})
    SELECT {_WHO},
      'messages_removed', NEW.key,
      format('trimmed before message_cap went from %s to %s', OLD.message_cap, NEW.message_cap),
      0, 1, NEW.last_seq - OLD.message_cap
    WHERE NEW.last_seq > OLD.message_cap;
    RETURN NULL;
  END IF;
  INSERT INTO session_events ({_LOGGED})
  SELECT {_WHO},
      'messages_removed', NEW.key,
    format('trimmed as message_cap went from %s to %s', OLD.message_cap, NEW.message_cap),
    count(*), min(seq), max(seq)
  FROM messages WHERE session_key = NEW.key AND seq <= NEW.last_seq - NEW.message_cap
  HAVING count(*) > 0;
  IF NEW.archive_trimmed = 1 THEN
    INSERT INTO archived_messages ({MESSAGE}, archived_ms)
    SELECT {MESSAGE}, {NOW} FROM messages
    WHERE session_key = NEW.key AND seq <= NEW.last_seq - NEW.message_cap;
  END IF;
  DELETE FROM messages WHERE session_key = NEW.key AND seq <= NEW.last_seq - NEW.message_cap;
  RETURN NULL;
END
$$;
CREATE TRIGGER sessions_message_cap AFTER UPDATE OF message_cap ON sessions
FOR EACH ROW WHEN (NEW.message_cap <> OLD.message_cap) EXECUTE FUNCTION sessions_message_cap();
{in_its_schema("sessions_message_cap")};
{owners_only("sessions_message_cap")}""",
    # How long the log is kept.
    "log_policy_change": f"""\
CREATE FUNCTION log_policy_change() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
  IF TG_OP = 'DELETE' THEN
    RAISE EXCEPTION 'log_policy_change: the policy is changed, not deleted'
      USING ERRCODE = 'integrity_constraint_violation';
  END IF;
  INSERT INTO session_events (at_ms, actor, db_user, event, reason)
  VALUES ({_WHO},
    'retention_changed', format('%s -> %s days', OLD.retention_days, NEW.retention_days));
  RETURN NULL;
END
$$;
CREATE TRIGGER log_policy_change AFTER DELETE ON log_policy
FOR EACH ROW EXECUTE FUNCTION log_policy_change();
CREATE TRIGGER log_policy_change_update AFTER UPDATE ON log_policy
FOR EACH ROW WHEN (NEW.retention_days <> OLD.retention_days) EXECUTE FUNCTION log_policy_change();
{in_its_schema("log_policy_change")};
{owners_only("log_policy_change")}""",
    "log_policy_truncate": refusal(
        "log_policy_truncate", "TRUNCATE ON log_policy", "the policy is not deleted", "STATEMENT"
    ),
}
"""Further triggers, each with its function, by the function's name."""


def _function(name: str, arguments: str, returns: str, body: str) -> str:
    types = ", ".join(argument.split()[-1] for argument in arguments.split(", "))
    signature = f"{name}({types})"
    return f"""\
CREATE FUNCTION {name}({arguments}) RETURNS {returns}
LANGUAGE plpgsql SECURITY DEFINER AS $$
{body}
$$;
{in_its_schema(signature)};
{owners_only(signature)}"""


# Within a trigger, `messages_removed` and `sessions_last_seq` log nothing, and anybody can make one.
def _not_within_a_trigger(function: str) -> str:
    return f"""\
  IF pg_trigger_depth() > 0 THEN
    RAISE EXCEPTION '{function}: not within a trigger'
      USING ERRCODE = 'integrity_constraint_violation';
  END IF;"""


# A row that this transaction can see and that is still in progress is its own. A savepoint has a number of its own,
# which is higher; `xmin` has the lower 32 bits.
_IN_ITS_FIRST_TRANSACTION: Final = """coalesce((
    SELECT pg_xact_status((current_xid + (xmin::text::bigint - current_xid + 2147483648 & 4294967295) - 2147483648)
      ::text::xid8) = 'in progress'
    FROM session_events, (SELECT pg_current_xact_id()::text::bigint AS current_xid) AS here
    WHERE session_key = session AND event = 'created' ORDER BY id DESC LIMIT 1
  ), false)"""

FUNCTIONS: Final = {
    "messages_redact": _function(
        "messages_redact",
        "session text, number bigint, mark json",
        "void",
        f"""\
BEGIN
  UPDATE messages AS m
  SET content = '[redacted]', metadata = mark,
    tool_name = CASE WHEN tool_name IS NOT NULL THEN '[redacted]' END
  WHERE session_key = session AND seq = number
    AND NOT {_is_marked("m")};
  UPDATE archived_messages AS m
  SET content = '[redacted]', metadata = mark,
    tool_name = CASE WHEN tool_name IS NOT NULL THEN '[redacted]' END
  WHERE session_key = session AND seq = number
    AND NOT {_is_marked("m")};
END""",
    ),
    # Archived where the session archives. The trigger of `messages` logs it.
    "messages_remove": _function(
        "messages_remove",
        "session text, first bigint, last bigint",
        "void",
        f"""\
BEGIN
{_not_within_a_trigger("messages_remove")}
  INSERT INTO archived_messages ({MESSAGE}, archived_ms)
  SELECT {MESSAGE}, {NOW} FROM messages
  WHERE session_key = session AND seq BETWEEN first AND last
    AND EXISTS (SELECT 1 FROM sessions WHERE key = session AND archive_trimmed = 1);
  DELETE FROM messages WHERE session_key = session AND seq BETWEEN first AND last;
END""",
    ),
    # The two are for imports. What came before a session was there is nobody's to add later.
    "messages_skip": _function(
        "messages_skip",
        "session text, last bigint",
        "void",
        f"""\
BEGIN
{_not_within_a_trigger("messages_skip")}
  IF NOT {_IN_ITS_FIRST_TRANSACTION} THEN
    RAISE EXCEPTION 'messages_skip: only in the transaction that creates the session'
      USING ERRCODE = 'integrity_constraint_violation';
  END IF;
  UPDATE sessions SET last_seq = last WHERE key = session AND last_seq < last;
END""",
    ),
    "messages_archive": _function(
        "messages_archive",
        "session text, archived json",
        "void",
        f"""\
BEGIN
  IF NOT {_IN_ITS_FIRST_TRANSACTION} THEN
    RAISE EXCEPTION 'messages_archive: only in the transaction that creates the session'
      USING ERRCODE = 'integrity_constraint_violation';
  END IF;
  INSERT INTO archived_messages ({MESSAGE}, archived_ms)
  SELECT session, (value ->> 'seq')::bigint, value ->> 'role', value ->> 'content', value ->> 'tool_name',
    (value ->> 'metadata')::json, (value ->> 'timestamp_ms')::bigint, value ->> 'idempotency_key',
    (value ->> 'archived_ms')::bigint
  FROM json_array_elements(archived);
  -- Whoever made the session may have called it sealed.
  UPDATE sessions SET unsealed = 1 WHERE key = session AND unsealed = 0;
END""",
    ),
}
"""The statements that create each function that a service may execute, by its name."""

"""The triggers on Postgres, each with its function."""

from __future__ import annotations

from typing import Final

from sessions_db.limits import EVENT_RETENTION
from sessions_db.schema.tables import messages

# Milliseconds since the epoch by the database's clock.
_NOW: Final = "floor(extract(epoch FROM clock_timestamp()) * 1000)"

# The name that the manager gave, or else the user who logged in: within SECURITY DEFINER `current_user` is the owner.
_ACTOR: Final = "coalesce(nullif(current_setting('sessions_db.actor', true), ''), session_user)"

_MESSAGE: Final = ", ".join(messages.columns.keys())

_DAYS: Final = EVENT_RETENTION.days


def _in_its_schema(function: str) -> str:
    # A function finds the tables of its own schema, whatever the writer's search_path or temporary tables.
    return f"""\
DO $$
BEGIN
  EXECUTE format('ALTER FUNCTION {function}() SET search_path = %I, pg_temp', current_schema());
END
$$"""


def _owners_only(function: str) -> str:
    # The function writes the log as its owner. Anyone allowed to execute it could attach it to a temporary table as a
    # trigger, and so log what never happened. Existing triggers fire without this privilege.
    return f"REVOKE EXECUTE ON FUNCTION {function}() FROM PUBLIC"


def _refusal(trigger: str, when: str, reason: str, each: str = "ROW", condition: str = "") -> str:
    return f"""\
CREATE FUNCTION {trigger}() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION '{trigger}: {reason}' USING ERRCODE = 'integrity_constraint_violation';
END
$$;
CREATE TRIGGER {trigger} BEFORE {when}
FOR EACH {each}{condition} EXECUTE FUNCTION {trigger}()"""


TRIGGERS: Final = {
    # One counter update and one delete for each session in the statement, however many messages it adds. The loop goes
    # by key, so that two statements over the same sessions lock them in the same order. Each statement of a function
    # takes a new snapshot: a writer that waited behind a large batch trims that batch too.
    "messages_append": f"""\
CREATE FUNCTION messages_append() RETURNS trigger LANGUAGE plpgsql AS $$
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
      INSERT INTO archived_messages ({_MESSAGE}, archived_ms)
      SELECT {_MESSAGE}, {_NOW} FROM messages
      WHERE session_key = batch.session_key AND seq <= batch.last_seq - session.message_cap;
    END IF;
    DELETE FROM messages WHERE session_key = batch.session_key AND seq <= batch.last_seq - session.message_cap;
  END LOOP;
  RETURN NULL;
END
$$;
CREATE TRIGGER messages_append AFTER INSERT ON messages
REFERENCING NEW TABLE AS appended FOR EACH STATEMENT EXECUTE FUNCTION messages_append();
{_in_its_schema("messages_append")}""",
    # A lowered cap takes effect at once.
    "sessions_message_cap": f"""\
CREATE FUNCTION sessions_message_cap() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.archive_trimmed = 1 THEN
    INSERT INTO archived_messages ({_MESSAGE}, archived_ms)
    SELECT {_MESSAGE}, {_NOW} FROM messages
    WHERE session_key = NEW.key AND seq <= NEW.last_seq - NEW.message_cap;
  END IF;
  DELETE FROM messages WHERE session_key = NEW.key AND seq <= NEW.last_seq - NEW.message_cap;
  RETURN NULL;
END
$$;
CREATE TRIGGER sessions_message_cap AFTER UPDATE OF message_cap ON sessions
FOR EACH ROW WHEN (NEW.message_cap < OLD.message_cap) EXECUTE FUNCTION sessions_message_cap();
{_in_its_schema("sessions_message_cap")}""",
    "messages_place": _refusal(
        "messages_place",
        "UPDATE OF session_key, seq ON messages",
        "a message keeps its session and its number",
    ),
    "sessions_identity": _refusal(
        "sessions_identity",
        "UPDATE OF key, agent_id, kind, run_id, parent_key, created_ms ON sessions",
        "a session keeps its key, agent, kind, run, parent and time of creation",
        condition="""
WHEN ((NEW.key, NEW.agent_id, NEW.kind, NEW.run_id, NEW.parent_key, NEW.created_ms)
  IS DISTINCT FROM (OLD.key, OLD.agent_id, OLD.kind, OLD.run_id, OLD.parent_key, OLD.created_ms))""",
    ),
    # The log. Its functions run as their owner, so a writer needs no right on the log itself.
    "sessions_log": f"""\
CREATE FUNCTION sessions_log() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
  IF TG_OP = 'INSERT' THEN
    INSERT INTO session_events
      (at_ms, actor, db_user, event, session_key, to_status, reason, parent_key, message_count)
    VALUES ({_NOW}, {_ACTOR}, session_user,
      'created', NEW.key, NEW.status, NEW.end_reason, NEW.parent_key, NEW.last_seq);
  ELSIF TG_OP = 'UPDATE' THEN
    INSERT INTO session_events
      (at_ms, actor, db_user, event, session_key, from_status, to_status, reason, message_count)
    VALUES ({_NOW}, {_ACTOR}, session_user,
      CASE WHEN NEW.status = OLD.status THEN 'end_changed' ELSE 'status_changed' END,
      NEW.key, OLD.status, NEW.status, NEW.end_reason, NEW.last_seq);
  ELSE
    INSERT INTO session_events
      (at_ms, actor, db_user, event, session_key, from_status, reason, parent_key, message_count)
    VALUES ({_NOW}, {_ACTOR}, session_user,
      'deleted', OLD.key, OLD.status, OLD.end_reason, OLD.parent_key, OLD.last_seq);
  END IF;
  RETURN NULL;
END
$$;
CREATE TRIGGER sessions_log AFTER INSERT OR DELETE ON sessions
FOR EACH ROW EXECUTE FUNCTION sessions_log();
CREATE TRIGGER sessions_log_update AFTER UPDATE OF status, finished_ms, end_reason ON sessions
FOR EACH ROW WHEN ((NEW.status, NEW.finished_ms, NEW.end_reason)
  IS DISTINCT FROM (OLD.status, OLD.finished_ms, OLD.end_reason)) EXECUTE FUNCTION sessions_log();
{_in_its_schema("sessions_log")};
{_owners_only("sessions_log")}""",
    "labels_log": f"""\
CREATE FUNCTION labels_log() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
  IF TG_OP = 'UPDATE' AND NEW.label = OLD.label THEN
    INSERT INTO session_events (at_ms, actor, db_user, event, session_key, label, from_session_key)
    VALUES ({_NOW}, {_ACTOR}, session_user,
      'label_moved', NEW.session_key, NEW.label, OLD.session_key);
    RETURN NULL;
  END IF;
  IF TG_OP <> 'INSERT' THEN
    INSERT INTO session_events (at_ms, actor, db_user, event, session_key, label)
    VALUES ({_NOW}, {_ACTOR}, session_user, 'label_removed', OLD.session_key, OLD.label);
  END IF;
  IF TG_OP <> 'DELETE' THEN
    INSERT INTO session_events (at_ms, actor, db_user, event, session_key, label)
    VALUES ({_NOW}, {_ACTOR}, session_user, 'label_assigned', NEW.session_key, NEW.label);
  END IF;
  RETURN NULL;
END
$$;
CREATE TRIGGER labels_log AFTER INSERT OR DELETE ON labels
FOR EACH ROW EXECUTE FUNCTION labels_log();
CREATE TRIGGER labels_log_update AFTER UPDATE OF label, session_key ON labels
FOR EACH ROW WHEN ((NEW.label, NEW.session_key) IS DISTINCT FROM (OLD.label, OLD.session_key))
EXECUTE FUNCTION labels_log();
{_in_its_schema("labels_log")};
{_owners_only("labels_log")}""",
    # The log is append-only.
    "session_events_update": _refusal("session_events_update", "UPDATE ON session_events", "an event is not changed"),
    "session_events_delete": _refusal(
        "session_events_delete",
        "DELETE ON session_events",
        f"an event is kept for {_DAYS} days",
        condition=f" WHEN (OLD.at_ms > {_NOW} - {_DAYS}::bigint * 24 * 60 * 60 * 1000)",
    ),
    "session_events_truncate": _refusal(
        "session_events_truncate", "TRUNCATE ON session_events", f"an event is kept for {_DAYS} days", "STATEMENT"
    ),
    # TRUNCATE fires no row triggers, so nothing would be logged.
    **{
        f"{table}_truncate": _refusal(
            f"{table}_truncate", f"TRUNCATE ON {table}", "rows are deleted, so that each is logged", "STATEMENT"
        )
        for table in ("sessions", "labels")
    },
} | {
    f"{table}_{name}": _refusal(f"{table}_{name}", f"{when} ON {table}", "what is sealed is not changed", each)
    for table in ("event_digests", "event_seals")
    for name, when, each in (("change", "UPDATE OR DELETE", "ROW"), ("truncate", "TRUNCATE", "STATEMENT"))
}
"""The statements that create each trigger and its function, by the function's name."""

STORED: Final = """\
SELECT t.tgname, CASE WHEN t.tgenabled IN ('O', 'A') THEN '' ELSE 'disabled' END, p.prosrc
FROM pg_trigger AS t JOIN pg_proc AS p ON p.oid = t.tgfoid
WHERE NOT t.tgisinternal AND pg_table_is_visible(t.tgrelid)"""
"""The query for the triggers that a database has: name, what disables it, text."""


def stored_text(statements: str) -> str:
    """The text that the database keeps of the function in an entry of `TRIGGERS`."""
    return statements.split("$$")[1]

"""The triggers on Postgres, each with its function."""

from __future__ import annotations

import re
from collections.abc import Iterator
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


# The digests of a session's messages are deleted with it, so `message_digests_delete` has a condition.
_SEALED: Final = dict.fromkeys(("event_digests", "event_seals", "sealed_transcripts"), "DELETE OR UPDATE") | {
    "message_digests": "UPDATE"
}

TRIGGERS: Final = {
    # One statement each for the counters, the archive and the trim query, however many sessions and messages there are.
    # For a single session they are simpler: those over many took a sixth longer for one message, and 64 single ones
    # 3.5 times as long as one over 64 sessions (measured once).
    # Each statement of a function takes a new snapshot: a writer that waited behind a large batch trims that batch too.
    # The settings keep the planner from ever reading the whole table of messages: it reuses plans, and then does not
    # know how few rows `appended` has.
    "messages_append": f"""\
CREATE FUNCTION messages_append() RETURNS trigger LANGUAGE plpgsql
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off AS $$
DECLARE
  added record;
  session record;
  counted bigint;
BEGIN
  SELECT min(session_key) AS key, max(session_key) AS last_key, min(seq) AS first_seq, max(seq) AS last_seq,
    count(*) AS size, max(timestamp_ms) AS newest_ms
  INTO added FROM appended;
  IF added.key = added.last_key THEN
    UPDATE sessions
    SET last_seq = added.last_seq, last_activity_ms = greatest(last_activity_ms, added.newest_ms), unsealed = 1
    WHERE key = added.key
      AND last_seq = added.first_seq - 1
      AND added.last_seq - added.first_seq + 1 = added.size
    RETURNING message_cap, archive_trimmed INTO session;
    IF NOT FOUND THEN
      RAISE EXCEPTION 'messages_append: seq must go on from the last_seq of an existing session'
        USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    IF session.archive_trimmed = 1 THEN
      INSERT INTO archived_messages ({_MESSAGE}, archived_ms)
      SELECT {_MESSAGE}, {_NOW} FROM messages
      WHERE session_key = added.key AND seq <= added.last_seq - session.message_cap;
    END IF;
    DELETE FROM messages WHERE session_key = added.key AND seq <= added.last_seq - session.message_cap;
    RETURN NULL;
  END IF;
  UPDATE sessions
  SET last_seq = batch.last_seq, last_activity_ms = greatest(last_activity_ms, batch.newest_ms), unsealed = 1
  FROM (
    SELECT session_key, min(seq) AS first_seq, max(seq) AS last_seq, count(*) AS size, max(timestamp_ms) AS newest_ms
    FROM appended GROUP BY session_key
  ) AS batch
  WHERE key = batch.session_key
    AND sessions.last_seq = batch.first_seq - 1
    AND batch.last_seq - batch.first_seq + 1 = batch.size;
  GET DIAGNOSTICS counted = ROW_COUNT;
  IF counted <> (SELECT count(DISTINCT session_key) FROM appended) THEN
    RAISE EXCEPTION 'messages_append: seq must go on from the last_seq of an existing session'
      USING ERRCODE = 'integrity_constraint_violation';
  END IF;
  IF EXISTS (
    SELECT 1 FROM sessions WHERE archive_trimmed = 1 AND key IN (SELECT session_key FROM appended)
  ) THEN
    INSERT INTO archived_messages ({_MESSAGE}, archived_ms)
    SELECT {_MESSAGE}, {_NOW} FROM messages JOIN (
      SELECT key, last_seq - message_cap AS trimmed FROM sessions
      WHERE archive_trimmed = 1 AND key IN (SELECT session_key FROM appended)
    ) AS archiving ON session_key = key AND seq <= trimmed;
  END IF;
  DELETE FROM messages USING sessions
  WHERE key IN (SELECT session_key FROM appended) AND session_key = key AND seq <= last_seq - message_cap;
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
WHEN (NEW.key IS DISTINCT FROM OLD.key OR NEW.agent_id IS DISTINCT FROM OLD.agent_id
  OR NEW.kind IS DISTINCT FROM OLD.kind OR NEW.run_id IS DISTINCT FROM OLD.run_id
  OR NEW.parent_key IS DISTINCT FROM OLD.parent_key OR NEW.created_ms IS DISTINCT FROM OLD.created_ms)""",
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
FOR EACH ROW WHEN (NEW.status IS DISTINCT FROM OLD.status OR NEW.finished_ms IS DISTINCT FROM OLD.finished_ms
  OR NEW.end_reason IS DISTINCT FROM OLD.end_reason) EXECUTE FUNCTION sessions_log();
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
FOR EACH ROW WHEN (NEW.label IS DISTINCT FROM OLD.label OR NEW.session_key IS DISTINCT FROM OLD.session_key)
EXECUTE FUNCTION labels_log();
{_in_its_schema("labels_log")};
{_owners_only("labels_log")}""",
    # The log is append-only.
    "session_events_update": _refusal("session_events_update", "UPDATE ON session_events", "an event is not changed"),
    "session_events_delete": f"""\
CREATE FUNCTION session_events_delete() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF OLD.at_ms > {_NOW} - {_DAYS}::bigint * 24 * 60 * 60 * 1000 THEN
    RAISE EXCEPTION 'session_events_delete: an event is kept for {_DAYS} days'
      USING ERRCODE = 'integrity_constraint_violation';
  END IF;
  RETURN OLD;
END
$$;
CREATE TRIGGER session_events_delete BEFORE DELETE ON session_events
FOR EACH ROW EXECUTE FUNCTION session_events_delete()""",
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
    "message_digests_delete": f"""\
CREATE FUNCTION message_digests_delete() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF EXISTS (SELECT 1 FROM sessions WHERE key = OLD.session_key) THEN
    RAISE EXCEPTION 'message_digests_delete: a digest goes with its session only'
      USING ERRCODE = 'integrity_constraint_violation';
  END IF;
  RETURN OLD;
END
$$;
CREATE TRIGGER message_digests_delete BEFORE DELETE ON message_digests
FOR EACH ROW EXECUTE FUNCTION message_digests_delete();
{_in_its_schema("message_digests_delete")}""",
} | {
    f"{table}_{name}": _refusal(f"{table}_{name}", f"{when} ON {table}", "what is sealed is not changed", each)
    for table, when in _SEALED.items()
    for name, when, each in (("change", when, "ROW"), ("truncate", "TRUNCATE", "STATEMENT"))
}
"""The statements that create each trigger and its function, by the function's name."""

STORED: Final = """\
SELECT t.tgname, c.relname, CASE WHEN t.tgenabled IN ('O', 'A') THEN '' ELSE 'disabled' END,
  concat_ws(
    ' ',
    replace(pg_get_triggerdef(t.oid), ' ON ' || quote_ident(n.nspname) || '.', ' ON '),
    CASE WHEN p.pronamespace <> c.relnamespace THEN 'of another schema' END,
    'LANGUAGE ' || l.lanname,
    CASE WHEN p.prosecdef THEN 'SECURITY DEFINER' END,
    'SET ' || replace(
      array_to_string(p.proconfig, ' SET '), 'search_path=' || quote_ident(n.nspname) || ', pg_temp', 'search_path'
    )
  ),
  p.prosrc
FROM pg_trigger AS t
JOIN pg_class AS c ON c.oid = t.tgrelid
JOIN pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_proc AS p ON p.oid = t.tgfoid
JOIN pg_language AS l ON l.oid = p.prolang
WHERE NOT t.tgisinternal AND pg_table_is_visible(t.tgrelid)
UNION ALL
SELECT r.rulename, c.relname, '', pg_get_ruledef(r.oid), ''
FROM pg_rewrite AS r JOIN pg_class AS c ON c.oid = r.ev_class
WHERE c.relkind IN ('r', 'p') AND pg_table_is_visible(c.oid)"""
"""The query for the triggers that a database has: name, table, what disables it, definition, text of its function.

And for the rules of tables, of which this release has none.
"""


def stored(statements: str) -> Iterator[tuple[str, str, str, str]]:
    """What `STORED` gives for each trigger in an entry of `TRIGGERS`: name, table, definition, text of the function.

    But for parentheses, spaces and capitals: Postgres writes a condition anew. So a condition must be one that has no
    other meaning with other parentheses.
    """
    create_function, text, create_triggers = statements.split("$$", 2)
    settings = [f"SET {name}={value}" for name, value in re.findall(r"SET (\w+) = (\w+)", create_function)]
    function = [
        option
        for option in ("LANGUAGE plpgsql", "SECURITY DEFINER", *settings, "SET search_path")
        if option in create_function + create_triggers or option in settings
    ]
    for definition, name, table in re.findall(
        r"(CREATE TRIGGER (\w+) .*? ON (\w+).*?\sEXECUTE FUNCTION \w+\(\))", create_triggers, re.DOTALL
    ):
        yield name, table, " ".join([definition, *function]), text

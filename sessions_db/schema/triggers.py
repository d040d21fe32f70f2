"""The triggers, as SQL for each database.

They run inside the statement that fires them, so what they keep true holds in every committed state and for
every writer, a `psql` or `sqlite3` shell too.
"""

from __future__ import annotations

from typing import Final

# SQLite has row triggers only and ignores foreign keys unless a connection turns them on, so `sessions_delete`,
# `labels_insert` and `labels_update` repeat what the foreign keys promise.
_SQLITE: Final = {
    # The rest of an append: take the next number, move the counters, run the trim query.
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
    # A cap that is lowered holds at once.
    "sessions_message_cap": """\
CREATE TRIGGER sessions_message_cap AFTER UPDATE OF message_cap ON sessions
WHEN NEW.message_cap < OLD.message_cap
BEGIN
  DELETE FROM messages WHERE session_key = NEW.key AND seq <= NEW.last_seq - NEW.message_cap;
END""",
    # A message keeps its place.
    "messages_place": """\
CREATE TRIGGER messages_place BEFORE UPDATE OF session_key, seq ON messages
BEGIN
  SELECT RAISE(ABORT, 'messages_place: a message keeps its session and its number');
END""",
    "sessions_delete": """\
CREATE TRIGGER sessions_delete AFTER DELETE ON sessions
BEGIN
  DELETE FROM messages WHERE session_key = OLD.key;
  DELETE FROM labels WHERE session_key = OLD.key;
END""",
    "labels_insert": """\
CREATE TRIGGER labels_insert BEFORE INSERT ON labels
WHEN NOT EXISTS (SELECT 1 FROM sessions WHERE key = NEW.session_key)
BEGIN
  SELECT RAISE(ABORT, 'labels_insert: a label must point to an existing session');
END""",
    "labels_update": """\
CREATE TRIGGER labels_update BEFORE UPDATE OF session_key ON labels
WHEN NOT EXISTS (SELECT 1 FROM sessions WHERE key = NEW.session_key)
BEGIN
  SELECT RAISE(ABORT, 'labels_update: a label must point to an existing session');
END""",
}

_POSTGRESQL: Final = {
    # One counter update and one delete for each session in the statement, however many messages it adds.
    # The loop goes by key, so that two statements over the same sessions lock them in one order. Each statement
    # of a function takes a new snapshot: a writer that waited behind a large batch trims that batch too.
    # The tables that a function means are those beside it, whatever the writer's search_path or temporary tables.
    "messages_append": """\
CREATE FUNCTION messages_append() RETURNS trigger LANGUAGE plpgsql AS $$
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
$$;
CREATE TRIGGER messages_append AFTER INSERT ON messages
REFERENCING NEW TABLE AS appended FOR EACH STATEMENT EXECUTE FUNCTION messages_append();
DO $$
BEGIN
  EXECUTE format('ALTER FUNCTION messages_append() SET search_path = %I, pg_temp', current_schema());
END
$$""",
    # A cap that is lowered holds at once.
    "sessions_message_cap": """\
CREATE FUNCTION sessions_message_cap() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  DELETE FROM messages WHERE session_key = NEW.key AND seq <= NEW.last_seq - NEW.message_cap;
  RETURN NULL;
END
$$;
CREATE TRIGGER sessions_message_cap AFTER UPDATE OF message_cap ON sessions
FOR EACH ROW WHEN (NEW.message_cap < OLD.message_cap) EXECUTE FUNCTION sessions_message_cap();
DO $$
BEGIN
  EXECUTE format('ALTER FUNCTION sessions_message_cap() SET search_path = %I, pg_temp', current_schema());
END
$$""",
    # A message keeps its place.
    "messages_place": """\
CREATE FUNCTION messages_place() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'messages_place: a message keeps its session and its number'
    USING ERRCODE = 'integrity_constraint_violation';
END
$$;
CREATE TRIGGER messages_place BEFORE UPDATE OF session_key, seq ON messages
FOR EACH ROW EXECUTE FUNCTION messages_place()""",
}

TRIGGERS: Final = {"sqlite": _SQLITE, "postgresql": _POSTGRESQL}
"""The statements that create each trigger, by database and by the trigger's name."""

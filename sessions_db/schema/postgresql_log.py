"""What writes and keeps the log, on Postgres."""

from __future__ import annotations

from typing import Final

from sessions_db.limits import DEFAULT_LOG_DAYS
from sessions_db.schema.postgresql_functions import ACTOR, NOW, in_its_schema, owners_only, refusal

TRIGGERS: Final = {
    # The log. Its functions run as their owner, so a writer needs no right on the log itself.
    "sessions_log": f"""\
CREATE FUNCTION sessions_log() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
  IF TG_OP = 'INSERT' THEN
    INSERT INTO session_events
      (at_ms, actor, db_user, event, session_key, to_status, reason, parent_key, message_count)
    VALUES ({NOW}, {ACTOR}, session_user,
      'created', NEW.key, NEW.status, NEW.end_reason, NEW.parent_key, NEW.last_seq);
  ELSIF TG_OP = 'UPDATE' THEN
    INSERT INTO session_events
      (at_ms, actor, db_user, event, session_key, from_status, to_status, reason, message_count)
    VALUES ({NOW}, {ACTOR}, session_user,
      CASE WHEN NEW.status = OLD.status THEN 'end_changed' ELSE 'status_changed' END,
      NEW.key, OLD.status, NEW.status, NEW.end_reason, NEW.last_seq);
  ELSE
    INSERT INTO session_events
      (at_ms, actor, db_user, event, session_key, from_status, reason, parent_key, message_count)
    VALUES ({NOW}, {ACTOR}, session_user,
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
{in_its_schema("sessions_log")};
{owners_only("sessions_log")}""",
    "sessions_log_fields": f"""\
CREATE FUNCTION sessions_log_fields() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
  INSERT INTO session_events (at_ms, actor, db_user, event, session_key, from_status, to_status, reason, message_count)
  VALUES ({NOW}, {ACTOR}, session_user, 'session_updated', NEW.key, OLD.status, NEW.status,
    concat_ws(', ', CASE WHEN NEW.label IS DISTINCT FROM OLD.label THEN 'label' END,
      CASE WHEN NEW.task IS DISTINCT FROM OLD.task THEN 'task' END,
      CASE WHEN NEW.metadata::text IS DISTINCT FROM OLD.metadata::text THEN 'metadata' END), NEW.last_seq);
  RETURN NULL;
END
$$;
CREATE TRIGGER sessions_log_fields AFTER UPDATE OF label, task, metadata ON sessions
FOR EACH ROW WHEN (NEW.label IS DISTINCT FROM OLD.label OR NEW.task IS DISTINCT FROM OLD.task
  OR NEW.metadata::text IS DISTINCT FROM OLD.metadata::text) EXECUTE FUNCTION sessions_log_fields();
{in_its_schema("sessions_log_fields")};
{owners_only("sessions_log_fields")}""",
    "labels_log": f"""\
CREATE FUNCTION labels_log() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
  IF TG_OP = 'UPDATE' AND NEW.label = OLD.label THEN
    INSERT INTO session_events (at_ms, actor, db_user, event, session_key, label, from_session_key)
    VALUES ({NOW}, {ACTOR}, session_user,
      'label_moved', NEW.session_key, NEW.label, OLD.session_key);
    RETURN NULL;
  END IF;
  IF TG_OP <> 'INSERT' THEN
    INSERT INTO session_events (at_ms, actor, db_user, event, session_key, label)
    VALUES ({NOW}, {ACTOR}, session_user, 'label_removed', OLD.session_key, OLD.label);
  END IF;
  IF TG_OP <> 'DELETE' THEN
    INSERT INTO session_events (at_ms, actor, db_user, event, session_key, label)
    VALUES ({NOW}, {ACTOR}, session_user, 'label_assigned', NEW.session_key, NEW.label);
  END IF;
  RETURN NULL;
END
$$;
CREATE TRIGGER labels_log AFTER INSERT OR DELETE ON labels
FOR EACH ROW EXECUTE FUNCTION labels_log();
CREATE TRIGGER labels_log_update AFTER UPDATE OF label, session_key ON labels
FOR EACH ROW WHEN (NEW.label IS DISTINCT FROM OLD.label OR NEW.session_key IS DISTINCT FROM OLD.session_key)
EXECUTE FUNCTION labels_log();
{in_its_schema("labels_log")};
{owners_only("labels_log")}""",
    # The log is append-only.
    "session_events_update": refusal("session_events_update", "UPDATE ON session_events", "an event is not changed"),
    "session_events_delete": f"""\
CREATE FUNCTION session_events_delete() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  days bigint := (SELECT retention_days FROM log_policy);
BEGIN
  IF OLD.at_ms > {NOW} - coalesce(days, {DEFAULT_LOG_DAYS}) * 24 * 60 * 60 * 1000 THEN
    RAISE EXCEPTION 'session_events_delete: an event is kept as many days as log_policy says'
      USING ERRCODE = 'integrity_constraint_violation';
  END IF;
  IF (OLD.event IN ('messages_removed', 'message_redacted') OR OLD.event = 'created' AND OLD.message_count > 0)
    AND EXISTS (SELECT 1 FROM sessions WHERE key = OLD.session_key) THEN
    RAISE EXCEPTION 'session_events_delete: an event that explains a transcript is kept as long as the session'
      USING ERRCODE = 'integrity_constraint_violation';
  END IF;
  RETURN OLD;
END
$$;
CREATE TRIGGER session_events_delete BEFORE DELETE ON session_events
FOR EACH ROW EXECUTE FUNCTION session_events_delete();
{in_its_schema("session_events_delete")}""",
    # On Citus each node takes the default from a range of its own, so that after a move new ids would lie below those
    # that are there, or 2^48 above. Elsewhere the condition is false, and costs nothing that could be measured. All
    # that is locked is a row that only the first events after a move lock.
    "session_events_number": f"""\
CREATE FUNCTION session_events_number() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  newest bigint;
  shift bigint;
BEGIN
  -- NEW.id was taken before the newest was read, so another event may have got past it meanwhile: try a second one.
  FOR attempt IN 1..3 LOOP
    IF attempt = 3 THEN
      INSERT INTO event_numbers (id, ahead) VALUES (1, 0) ON CONFLICT DO NOTHING;
      PERFORM 1 FROM event_numbers WHERE id = 1 FOR UPDATE;
    END IF;
    SELECT coalesce(max(e.id), 0), coalesce((SELECT n.ahead FROM event_numbers AS n WHERE n.id = 1), 0)
    INTO newest, shift FROM session_events AS e;
    IF attempt > 1 THEN
      NEW.id := nextval('session_events_id_seq');
    END IF;
    IF NEW.id + shift - newest BETWEEN 1 AND 140737488355328 THEN
      NEW.id := NEW.id + shift;
      RETURN NEW;
    END IF;
  END LOOP;
  -- Not by a few only: another event may just get the number after the newest with the old shift.
  shift := newest + CASE WHEN NEW.id + shift BETWEEN newest - 1000 AND newest THEN 1001 ELSE 1 END - NEW.id;
  UPDATE event_numbers SET ahead = shift WHERE id = 1;
  NEW.id := NEW.id + shift;
  RETURN NEW;
END
$$;
CREATE TRIGGER session_events_number BEFORE INSERT ON session_events
FOR EACH ROW WHEN (current_setting('citus.version'::text, true) IS NOT NULL) EXECUTE FUNCTION session_events_number();
{in_its_schema("session_events_number")}""",
    "session_events_truncate": refusal(
        "session_events_truncate",
        "TRUNCATE ON session_events",
        "events are kept as long as log_policy says",
        "STATEMENT",
    ),
}
"""The statements that create each trigger and its function, by the function's name."""

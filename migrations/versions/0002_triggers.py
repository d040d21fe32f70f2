"""The triggers: what an append does besides, what is trimmed and archived, what is logged, and what is refused.

Revision ID: 0002
Revises: 0001
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

NEW_SESSION = (
    "key",
    "agent_id",
    "kind",
    "status",
    "label",
    "task",
    "run_id",
    "parent_key",
    "forked_at_seq",
    "created_ms",
    "metadata",
    "message_cap",
    "last_activity_ms",
    "archive_trimmed",
)

MESSAGE = "session_key, seq, role, content, tool_name, metadata, timestamp_ms, idempotency_key"

# Milliseconds since the epoch by the database's clock.
SQLITE_NOW = "CAST(round((julianday('now') - 2440587.5) * 86400000) AS INTEGER)"
POSTGRESQL_NOW = "floor(extract(epoch FROM clock_timestamp()) * 1000)"

SQLITE_ACTOR = "(SELECT name FROM event_actor)"
# Inside a SECURITY DEFINER function `current_user` is its owner.
POSTGRESQL_ACTOR = "coalesce(nullif(current_setting('sessions_db.actor', true), ''), session_user)"


def not_replaced(table: str, event: str, keys: tuple[str, ...]) -> str:
    # OR REPLACE deletes the row that is in the way without firing a trigger: nothing logs, archives or refuses that,
    # and an AFTER trigger comes too late. A BEFORE trigger also fires where ON CONFLICT would avoid the conflict, so
    # the library's statements look first.
    trigger = f"{table}_unique_{event}"
    columns = ", ".join(sorted({column for key in keys for column in key.split(", ")}))
    when = "INSERT" if event == "insert" else f"UPDATE OF {columns}"
    checks = []
    for key in keys:
        names = key.split(", ")
        new, old = (", ".join(f"{row}.{name}" for name in names) for row in ("NEW", "OLD"))
        same = " AND ".join(f"{name} = NEW.{name}" for name in names)
        moved = f"({new}) IS NOT ({old}) AND " if event == "update" else ""
        full = ", ".join(f"{table}.{name}" for name in names)
        checks.append(f"""\
  SELECT RAISE(ABORT, '{trigger}: a row is not replaced: {full}')
  WHERE {moved}EXISTS (SELECT 1 FROM {table} WHERE {same});
""")
    return f"CREATE TRIGGER {trigger} BEFORE {when} ON {table}\nBEGIN\n{''.join(checks)}END"


# By trigger, the statement that creates it.
SQLITE = (
    {
        "messages_append": """\
CREATE TRIGGER messages_append AFTER INSERT ON messages
BEGIN
  UPDATE sessions
  SET last_seq = NEW.seq, last_activity_ms = max(last_activity_ms, NEW.timestamp_ms)
  WHERE key = NEW.session_key AND last_seq = NEW.seq - 1;
  SELECT RAISE(ABORT, 'messages_append: seq must be the last_seq of an existing session, plus 1')
  WHERE changes() = 0;
  DELETE FROM messages
  WHERE session_key = NEW.session_key
    AND seq = NEW.seq - (SELECT message_cap FROM sessions WHERE key = NEW.session_key);
END""",
        "sessions_append": f"""\
CREATE TRIGGER sessions_append AFTER UPDATE OF last_seq ON sessions
WHEN NEW.last_seq = OLD.last_seq + 1
  AND (NEW.archive_trimmed = 1 OR NEW.unsealed = 0
    OR EXISTS (SELECT 1 FROM messages WHERE session_key = NEW.key AND seq < NEW.last_seq - NEW.message_cap))
  AND EXISTS (SELECT 1 FROM messages WHERE session_key = NEW.key AND seq = NEW.last_seq)
BEGIN
  UPDATE sessions SET unsealed = 1 WHERE key = NEW.key AND unsealed = 0;
  INSERT INTO archived_messages ({MESSAGE}, archived_ms)
  SELECT {MESSAGE}, {SQLITE_NOW} FROM messages
  WHERE NEW.archive_trimmed = 1 AND session_key = NEW.key AND seq <= NEW.last_seq - NEW.message_cap;
  DELETE FROM messages WHERE session_key = NEW.key AND seq <= NEW.last_seq - NEW.message_cap;
END""",
        "messages_place": """\
CREATE TRIGGER messages_place BEFORE UPDATE OF session_key, seq ON messages
BEGIN
  SELECT RAISE(ABORT, 'messages_place: a message keeps its session and its number');
END""",
        "sessions_identity": """\
CREATE TRIGGER sessions_identity
BEFORE UPDATE OF key, agent_id, kind, run_id, parent_key, forked_at_seq, created_ms ON sessions
WHEN NEW.key <> OLD.key OR NEW.agent_id <> OLD.agent_id OR NEW.kind <> OLD.kind OR NEW.run_id IS NOT OLD.run_id
  OR NEW.parent_key IS NOT OLD.parent_key OR NEW.forked_at_seq IS NOT OLD.forked_at_seq
  OR NEW.created_ms <> OLD.created_ms
BEGIN
  SELECT RAISE(ABORT, 'sessions_identity: a session keeps its key, agent, kind, run, origin and time of creation');
END""",
        "sessions_delete": """\
CREATE TRIGGER sessions_delete AFTER DELETE ON sessions
BEGIN
  DELETE FROM messages WHERE session_key = OLD.key;
  DELETE FROM archived_messages WHERE session_key = OLD.key;
  DELETE FROM labels WHERE session_key = OLD.key;
  DELETE FROM message_digests WHERE session_key = OLD.key;
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
        "labelled_sessions_insert": f"""\
CREATE TRIGGER labelled_sessions_insert INSTEAD OF INSERT ON labelled_sessions
BEGIN
  INSERT INTO sessions ({", ".join(NEW_SESSION)})
  VALUES ({", ".join(f"NEW.{name}" for name in NEW_SESSION)});
  UPDATE labels SET session_key = NEW.key, assigned_ms = NEW.created_ms WHERE label = NEW.label;
  INSERT INTO labels (label, session_key, assigned_ms)
  SELECT NEW.label, NEW.key, NEW.created_ms WHERE NOT EXISTS (SELECT 1 FROM labels WHERE label = NEW.label);
END""",
        "sessions_log_insert": f"""\
CREATE TRIGGER sessions_log_insert AFTER INSERT ON sessions
BEGIN
  INSERT INTO session_events (at_ms, actor, event, session_key, to_status, reason, parent_key, message_count)
  SELECT {SQLITE_NOW}, {SQLITE_ACTOR},
    'created', NEW.key, NEW.status, NEW.end_reason, NEW.parent_key, NEW.last_seq;
END""",
        "sessions_log_update": f"""\
CREATE TRIGGER sessions_log_update AFTER UPDATE OF status, finished_ms, end_reason ON sessions
WHEN NEW.status <> OLD.status OR NEW.finished_ms IS NOT OLD.finished_ms OR NEW.end_reason IS NOT OLD.end_reason
BEGIN
  INSERT INTO session_events (at_ms, actor, event, session_key, from_status, to_status, reason, message_count)
  SELECT {SQLITE_NOW}, {SQLITE_ACTOR},
    CASE WHEN NEW.status = OLD.status THEN 'end_changed' ELSE 'status_changed' END,
    NEW.key, OLD.status, NEW.status, NEW.end_reason, NEW.last_seq;
END""",
        "sessions_log_fields": f"""\
CREATE TRIGGER sessions_log_fields AFTER UPDATE OF label, task, metadata ON sessions
WHEN NEW.label IS NOT OLD.label OR NEW.task IS NOT OLD.task OR NEW.metadata IS NOT OLD.metadata
BEGIN
  INSERT INTO session_events (at_ms, actor, event, session_key, from_status, to_status, reason, message_count)
  SELECT {SQLITE_NOW}, {SQLITE_ACTOR},
    'session_updated', NEW.key, OLD.status, NEW.status,
    substr(CASE WHEN NEW.label IS NOT OLD.label THEN ', label' ELSE '' END
      || CASE WHEN NEW.task IS NOT OLD.task THEN ', task' ELSE '' END
      || CASE WHEN NEW.metadata IS NOT OLD.metadata THEN ', metadata' ELSE '' END, 3),
    NEW.last_seq;
END""",
        "sessions_log_delete": f"""\
CREATE TRIGGER sessions_log_delete BEFORE DELETE ON sessions
BEGIN
  INSERT INTO session_events (at_ms, actor, event, session_key, from_status, reason, parent_key, message_count)
  SELECT {SQLITE_NOW}, {SQLITE_ACTOR},
    'deleted', OLD.key, OLD.status, OLD.end_reason, OLD.parent_key, OLD.last_seq;
END""",
        "labels_log_insert": f"""\
CREATE TRIGGER labels_log_insert AFTER INSERT ON labels
BEGIN
  INSERT INTO session_events (at_ms, actor, event, session_key, label)
  SELECT {SQLITE_NOW}, {SQLITE_ACTOR}, 'label_assigned', NEW.session_key, NEW.label;
END""",
        "labels_log_update": f"""\
CREATE TRIGGER labels_log_update AFTER UPDATE OF label, session_key ON labels
WHEN NEW.label <> OLD.label OR NEW.session_key <> OLD.session_key
BEGIN
  INSERT INTO session_events (at_ms, actor, event, session_key, label)
  SELECT {SQLITE_NOW}, {SQLITE_ACTOR}, 'label_removed', OLD.session_key, OLD.label
  WHERE NEW.label <> OLD.label;
  INSERT INTO session_events (at_ms, actor, event, session_key, label, from_session_key)
  SELECT {SQLITE_NOW}, {SQLITE_ACTOR},
    CASE WHEN NEW.label = OLD.label THEN 'label_moved' ELSE 'label_assigned' END,
    NEW.session_key, NEW.label, CASE WHEN NEW.label = OLD.label THEN OLD.session_key END;
END""",
        "labels_log_delete": f"""\
CREATE TRIGGER labels_log_delete AFTER DELETE ON labels
BEGIN
  INSERT INTO session_events (at_ms, actor, event, session_key, label)
  SELECT {SQLITE_NOW}, {SQLITE_ACTOR}, 'label_removed', OLD.session_key, OLD.label;
END""",
        "session_events_insert": """\
CREATE TRIGGER session_events_insert BEFORE INSERT ON session_events
WHEN NEW.id >= 1
BEGIN
  SELECT RAISE(ABORT, 'session_events_insert: an event gets the next number, it is not given one');
END""",
        "session_events_update": """\
CREATE TRIGGER session_events_update BEFORE UPDATE ON session_events
BEGIN
  SELECT RAISE(ABORT, 'session_events_update: an event is not changed');
END""",
        "session_events_delete": """\
CREATE TRIGGER session_events_delete BEFORE DELETE ON session_events
BEGIN
  SELECT RAISE(ABORT, 'session_events_delete: an event is kept as many days as log_policy says')
  WHERE OLD.at_ms > CAST(round((julianday('now') - 2440587.5) * 86400000) AS INTEGER)
    - coalesce((SELECT retention_days FROM log_policy), 180) * 24 * 60 * 60 * 1000;
  SELECT RAISE(ABORT, 'session_events_delete: an event that explains a transcript is kept as long as the session')
  WHERE (OLD.event IN ('messages_removed', 'message_redacted') OR OLD.event = 'created' AND OLD.message_count > 0)
    AND EXISTS (SELECT 1 FROM sessions WHERE key = OLD.session_key);
END""",
    }
    | {
        f"{table}_{event}": f"""\
CREATE TRIGGER {table}_{event} BEFORE {event.upper()} ON {table}
BEGIN
  SELECT RAISE(ABORT, '{table}_{event}: what is sealed is not changed');
END"""
        for table in ("event_digests", "event_seals", "message_digests", "sealed_transcripts")
        for event in ("update", "delete")
        if (table, event) != ("message_digests", "delete")
    }
    | {
        "message_digests_delete": """\
CREATE TRIGGER message_digests_delete BEFORE DELETE ON message_digests
WHEN EXISTS (SELECT 1 FROM sessions WHERE key = OLD.session_key)
BEGIN
  SELECT RAISE(ABORT, 'message_digests_delete: a digest goes with its session only');
END"""
    }
    | {
        f"{table}_unique_{event}": not_replaced(table, event, keys)
        for table, event, keys in (
            ("sessions", "insert", ("key", "run_id")),
            ("messages", "insert", ("session_key, idempotency_key",)),
            ("messages", "update", ("session_key, idempotency_key",)),
            ("labels", "insert", ("label",)),
            ("labels", "update", ("label",)),
            ("archived_messages", "insert", ("session_key, seq",)),
            ("archived_messages", "update", ("session_key, seq",)),
            ("event_digests", "insert", ("event_id",)),
            ("event_seals", "insert", ("id", "previous_digest")),
            ("log_policy", "insert", ("id",)),
            ("message_removals", "insert", ("session_key",)),
            ("message_digests", "insert", ("session_key, seq",)),
            ("sealed_transcripts", "insert", ("session_key, number",)),
        )
    }
)


def in_its_schema(function: str) -> str:
    # The tables that a function means are those beside it, whatever the writer's search_path or temporary tables.
    return f"""\
DO $$
BEGIN
  EXECUTE format('ALTER FUNCTION {function}() SET search_path = %I, pg_temp', current_schema());
END
$$"""


def owners_only(function: str) -> str:
    # The function writes the log as its owner. Anybody allowed to execute it could make it the trigger of a temporary
    # table and log what never happened. Existing triggers fire without this right.
    return f"REVOKE EXECUTE ON FUNCTION {function}() FROM PUBLIC"


def refusal(trigger: str, when: str, reason: str, each: str = "ROW", condition: str = "") -> tuple[str, str]:
    return (
        f"""\
CREATE FUNCTION {trigger}() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION '{trigger}: {reason}' USING ERRCODE = 'integrity_constraint_violation';
END
$$""",
        f"""\
CREATE TRIGGER {trigger} BEFORE {when}
FOR EACH {each}{condition} EXECUTE FUNCTION {trigger}()""",
    )


# By function, the statements that create it and its triggers. Each is sent by itself: neither a prepared statement nor
# a command that Citus distributes may hold several.
# The digests of a session's messages are deleted with it, so `message_digests_delete` has a condition.
SEALED = dict.fromkeys(("event_digests", "event_seals", "sealed_transcripts"), "DELETE OR UPDATE") | {
    "message_digests": "UPDATE"
}

POSTGRESQL = {
    "messages_append": (
        f"""\
CREATE FUNCTION messages_append() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off AS $$
DECLARE
  added record;
  session record;
  keys text[];
  first_seqs bigint[];
  last_seqs bigint[];
  sizes bigint[];
  newest bigint[];
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
      INSERT INTO archived_messages ({MESSAGE}, archived_ms)
      SELECT {MESSAGE}, {POSTGRESQL_NOW} FROM messages
      WHERE session_key = added.key AND seq <= added.last_seq - session.message_cap;
    END IF;
    DELETE FROM messages WHERE session_key = added.key AND seq <= added.last_seq - session.message_cap;
    RETURN NULL;
  END IF;
  SELECT array_agg(session_key), array_agg(first_seq), array_agg(last_seq), array_agg(size), array_agg(newest_ms)
  INTO keys, first_seqs, last_seqs, sizes, newest
  FROM (
    SELECT session_key, min(seq) AS first_seq, max(seq) AS last_seq, count(*) AS size, max(timestamp_ms) AS newest_ms
    FROM appended GROUP BY session_key
  ) AS batch;
  UPDATE sessions
  SET last_seq = batch.last_seq, last_activity_ms = greatest(last_activity_ms, batch.newest_ms), unsealed = 1
  FROM unnest(keys, first_seqs, last_seqs, sizes, newest) AS batch(session_key, first_seq, last_seq, size, newest_ms)
  WHERE key = batch.session_key
    AND sessions.last_seq = batch.first_seq - 1
    AND batch.last_seq - batch.first_seq + 1 = batch.size;
  GET DIAGNOSTICS counted = ROW_COUNT;
  IF counted <> cardinality(keys) THEN
    RAISE EXCEPTION 'messages_append: seq must go on from the last_seq of an existing session'
      USING ERRCODE = 'integrity_constraint_violation';
  END IF;
  IF EXISTS (SELECT 1 FROM sessions WHERE archive_trimmed = 1 AND key = ANY (keys)) THEN
    INSERT INTO archived_messages ({MESSAGE}, archived_ms)
    SELECT {MESSAGE}, {POSTGRESQL_NOW} FROM messages JOIN (
      SELECT key, last_seq - message_cap AS trimmed FROM sessions
      WHERE archive_trimmed = 1 AND key = ANY (keys)
    ) AS archiving ON session_key = key AND seq <= trimmed;
  END IF;
  DELETE FROM messages USING sessions
  WHERE key = ANY (keys) AND session_key = key AND seq <= last_seq - message_cap;
  RETURN NULL;
END
$$""",
        """\
CREATE TRIGGER messages_append AFTER INSERT ON messages
REFERENCING NEW TABLE AS appended FOR EACH STATEMENT EXECUTE FUNCTION messages_append()""",
        in_its_schema("messages_append"),
        owners_only("messages_append"),
    ),
    "messages_place": refusal(
        "messages_place",
        "UPDATE OF session_key, seq ON messages",
        "a message keeps its session and its number",
    ),
    "sessions_identity": refusal(
        "sessions_identity",
        "UPDATE OF key, agent_id, kind, run_id, parent_key, forked_at_seq, created_ms ON sessions",
        "a session keeps its key, agent, kind, run, origin and time of creation",
        condition="""
WHEN (NEW.key IS DISTINCT FROM OLD.key OR NEW.agent_id IS DISTINCT FROM OLD.agent_id
  OR NEW.kind IS DISTINCT FROM OLD.kind OR NEW.run_id IS DISTINCT FROM OLD.run_id
  OR NEW.parent_key IS DISTINCT FROM OLD.parent_key OR NEW.forked_at_seq IS DISTINCT FROM OLD.forked_at_seq
  OR NEW.created_ms IS DISTINCT FROM OLD.created_ms)""",
    ),
    "sessions_insert": (
        """\
CREATE FUNCTION sessions_insert() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  broken text := CASE
    WHEN NOT (NEW.agent_id <> '' AND NEW.agent_id NOT LIKE '%:%') THEN 'ck_sessions_agent_id'
    WHEN NOT (CASE NEW.kind WHEN 'main' THEN NEW.key = 'agent:' || NEW.agent_id || ':' || NEW.kind
      ELSE substr(NEW.key, 1, length(NEW.agent_id) + length(NEW.kind) + 8)
        = 'agent:' || NEW.agent_id || ':' || NEW.kind || ':' END) THEN 'ck_sessions_key'
    WHEN NOT ((NEW.kind IN ('main', 'conversation')) = (NEW.run_id IS NULL)) THEN 'ck_sessions_run_id'
    WHEN NOT (NEW.forked_at_seq IS NULL OR NEW.forked_at_seq >= 0 AND NEW.parent_key IS NOT NULL)
      THEN 'ck_sessions_forked_at_seq'
  END;
BEGIN
  IF broken IS NOT NULL THEN
    RAISE EXCEPTION 'sessions_insert: the session is refused by %', broken
      USING ERRCODE = 'check_violation', TABLE = 'sessions', CONSTRAINT = broken;
  END IF;
  RETURN NULL;
END
$$""",
        """\
CREATE TRIGGER sessions_insert AFTER INSERT ON sessions
FOR EACH ROW EXECUTE FUNCTION sessions_insert()""",
        in_its_schema("sessions_insert"),
    ),
    "sessions_log": (
        f"""\
CREATE FUNCTION sessions_log() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
  IF TG_OP = 'INSERT' THEN
    INSERT INTO session_events
      (at_ms, actor, db_user, event, session_key, to_status, reason, parent_key, message_count)
    VALUES ({POSTGRESQL_NOW}, {POSTGRESQL_ACTOR}, session_user,
      'created', NEW.key, NEW.status, NEW.end_reason, NEW.parent_key, NEW.last_seq);
  ELSIF TG_OP = 'UPDATE' THEN
    INSERT INTO session_events
      (at_ms, actor, db_user, event, session_key, from_status, to_status, reason, message_count)
    VALUES ({POSTGRESQL_NOW}, {POSTGRESQL_ACTOR}, session_user,
      CASE WHEN NEW.status = OLD.status THEN 'end_changed' ELSE 'status_changed' END,
      NEW.key, OLD.status, NEW.status, NEW.end_reason, NEW.last_seq);
  ELSE
    INSERT INTO session_events
      (at_ms, actor, db_user, event, session_key, from_status, reason, parent_key, message_count)
    VALUES ({POSTGRESQL_NOW}, {POSTGRESQL_ACTOR}, session_user,
      'deleted', OLD.key, OLD.status, OLD.end_reason, OLD.parent_key, OLD.last_seq);
  END IF;
  RETURN NULL;
END
$$""",
        """\
CREATE TRIGGER sessions_log AFTER INSERT OR DELETE ON sessions
FOR EACH ROW EXECUTE FUNCTION sessions_log()""",
        """\
CREATE TRIGGER sessions_log_update AFTER UPDATE OF status, finished_ms, end_reason ON sessions
FOR EACH ROW WHEN (NEW.status IS DISTINCT FROM OLD.status OR NEW.finished_ms IS DISTINCT FROM OLD.finished_ms
  OR NEW.end_reason IS DISTINCT FROM OLD.end_reason) EXECUTE FUNCTION sessions_log()""",
        in_its_schema("sessions_log"),
        owners_only("sessions_log"),
    ),
    "sessions_log_fields": (
        f"""\
CREATE FUNCTION sessions_log_fields() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
  INSERT INTO session_events (at_ms, actor, db_user, event, session_key, from_status, to_status, reason, message_count)
  VALUES ({POSTGRESQL_NOW}, {POSTGRESQL_ACTOR}, session_user, 'session_updated', NEW.key, OLD.status, NEW.status,
    concat_ws(', ', CASE WHEN NEW.label IS DISTINCT FROM OLD.label THEN 'label' END,
      CASE WHEN NEW.task IS DISTINCT FROM OLD.task THEN 'task' END,
      CASE WHEN NEW.metadata::text IS DISTINCT FROM OLD.metadata::text THEN 'metadata' END), NEW.last_seq);
  RETURN NULL;
END
$$""",
        """\
CREATE TRIGGER sessions_log_fields AFTER UPDATE OF label, task, metadata ON sessions
FOR EACH ROW WHEN (NEW.label IS DISTINCT FROM OLD.label OR NEW.task IS DISTINCT FROM OLD.task
  OR NEW.metadata::text IS DISTINCT FROM OLD.metadata::text) EXECUTE FUNCTION sessions_log_fields()""",
        in_its_schema("sessions_log_fields"),
        owners_only("sessions_log_fields"),
    ),
    "labels_log": (
        f"""\
CREATE FUNCTION labels_log() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
  IF TG_OP = 'UPDATE' AND NEW.label = OLD.label THEN
    INSERT INTO session_events (at_ms, actor, db_user, event, session_key, label, from_session_key)
    VALUES ({POSTGRESQL_NOW}, {POSTGRESQL_ACTOR}, session_user,
      'label_moved', NEW.session_key, NEW.label, OLD.session_key);
    RETURN NULL;
  END IF;
  IF TG_OP <> 'INSERT' THEN
    INSERT INTO session_events (at_ms, actor, db_user, event, session_key, label)
    VALUES ({POSTGRESQL_NOW}, {POSTGRESQL_ACTOR}, session_user, 'label_removed', OLD.session_key, OLD.label);
  END IF;
  IF TG_OP <> 'DELETE' THEN
    INSERT INTO session_events (at_ms, actor, db_user, event, session_key, label)
    VALUES ({POSTGRESQL_NOW}, {POSTGRESQL_ACTOR}, session_user, 'label_assigned', NEW.session_key, NEW.label);
  END IF;
  RETURN NULL;
END
$$""",
        """\
CREATE TRIGGER labels_log AFTER INSERT OR DELETE ON labels
FOR EACH ROW EXECUTE FUNCTION labels_log()""",
        """\
CREATE TRIGGER labels_log_update AFTER UPDATE OF label, session_key ON labels
FOR EACH ROW WHEN (NEW.label IS DISTINCT FROM OLD.label OR NEW.session_key IS DISTINCT FROM OLD.session_key)
EXECUTE FUNCTION labels_log()""",
        in_its_schema("labels_log"),
        owners_only("labels_log"),
    ),
    "session_events_update": refusal("session_events_update", "UPDATE ON session_events", "an event is not changed"),
    "session_events_delete": (
        """\
CREATE FUNCTION session_events_delete() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  days bigint := (SELECT retention_days FROM log_policy);
BEGIN
  IF OLD.at_ms > floor(extract(epoch FROM clock_timestamp()) * 1000) - coalesce(days, 180) * 24 * 60 * 60 * 1000 THEN
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
$$""",
        """\
CREATE TRIGGER session_events_delete BEFORE DELETE ON session_events
FOR EACH ROW EXECUTE FUNCTION session_events_delete()""",
        """\
DO $$
BEGIN
  EXECUTE format('ALTER FUNCTION session_events_delete() SET search_path = %I, pg_temp', current_schema());
END
$$""",
    ),
    # On Citus each node takes the default from a range of its own.
    "session_events_number": (
        """\
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
$$""",
        """\
CREATE TRIGGER session_events_number BEFORE INSERT ON session_events
FOR EACH ROW WHEN (current_setting('citus.version'::text, true) IS NOT NULL)
EXECUTE FUNCTION session_events_number()""",
        in_its_schema("session_events_number"),
    ),
    "session_events_truncate": refusal(
        "session_events_truncate",
        "TRUNCATE ON session_events",
        "events are kept as long as log_policy says",
        "STATEMENT",
    ),
    **{
        f"{table}_truncate": refusal(
            f"{table}_truncate", f"TRUNCATE ON {table}", "rows are deleted, so that each is logged", "STATEMENT"
        )
        for table in ("sessions", "labels", "messages", "archived_messages")
    },
    "message_digests_delete": (
        """\
CREATE FUNCTION message_digests_delete() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF EXISTS (SELECT 1 FROM sessions WHERE key = OLD.session_key) THEN
    RAISE EXCEPTION 'message_digests_delete: a digest goes with its session only'
      USING ERRCODE = 'integrity_constraint_violation';
  END IF;
  RETURN OLD;
END
$$""",
        """\
CREATE TRIGGER message_digests_delete BEFORE DELETE ON message_digests
FOR EACH ROW EXECUTE FUNCTION message_digests_delete()""",
        in_its_schema("message_digests_delete"),
    ),
} | {
    f"{table}_{name}": refusal(f"{table}_{name}", f"{when} ON {table}", "what is sealed is not changed", each)
    for table, when in SEALED.items()
    for name, when, each in (("change", when, "ROW"), ("truncate", "TRUNCATE", "STATEMENT"))
}


# What keeps transcripts: further triggers on SQLite.
SQLITE_TRANSCRIPTS = {
    "messages_redacted": f"""\
CREATE TRIGGER messages_redacted AFTER UPDATE ON messages
BEGIN
  SELECT RAISE(ABORT, 'messages_redacted: a message is only redacted, and that once')
  WHERE NEW.session_key IS NOT OLD.session_key
    OR NEW.seq IS NOT OLD.seq
    OR NEW.role IS NOT OLD.role
    OR NEW.timestamp_ms IS NOT OLD.timestamp_ms
    OR NEW.idempotency_key IS NOT OLD.idempotency_key
    OR NEW.tool_name IS NOT (CASE WHEN OLD.tool_name IS NOT NULL THEN '[redacted]' END)
    OR NOT (NEW.content = '[redacted]' AND NEW.metadata IS NOT NULL AND json_type(NEW.metadata, '$.redacted') IS 'text'
      AND (SELECT count(*) FROM json_each(NEW.metadata)) = 1)
    OR json_extract(NEW.metadata, '$.redacted') = ''
    OR (OLD.content = '[redacted]' AND OLD.metadata IS NOT NULL AND json_type(OLD.metadata, '$.redacted') IS 'text'
      AND (SELECT count(*) FROM json_each(OLD.metadata)) = 1);
  INSERT INTO session_events (at_ms, actor, event, session_key, reason, message_count, first_seq, last_seq)
  SELECT {SQLITE_NOW}, {SQLITE_ACTOR},
    'message_redacted', NEW.session_key, json_extract(NEW.metadata, '$.redacted'), NULL,
    NEW.seq, NEW.seq;
END""",
    "archived_messages_redacted": f"""\
CREATE TRIGGER archived_messages_redacted AFTER UPDATE ON archived_messages
BEGIN
  SELECT RAISE(ABORT, 'archived_messages_redacted: a message is only redacted, and that once')
  WHERE NEW.session_key IS NOT OLD.session_key
    OR NEW.seq IS NOT OLD.seq
    OR NEW.role IS NOT OLD.role
    OR NEW.timestamp_ms IS NOT OLD.timestamp_ms
    OR NEW.idempotency_key IS NOT OLD.idempotency_key
    OR NEW.archived_ms IS NOT OLD.archived_ms
    OR NEW.tool_name IS NOT (CASE WHEN OLD.tool_name IS NOT NULL THEN '[redacted]' END)
    OR NOT (NEW.content = '[redacted]' AND NEW.metadata IS NOT NULL AND json_type(NEW.metadata, '$.redacted') IS 'text'
      AND (SELECT count(*) FROM json_each(NEW.metadata)) = 1)
    OR json_extract(NEW.metadata, '$.redacted') = ''
    OR (OLD.content = '[redacted]' AND OLD.metadata IS NOT NULL AND json_type(OLD.metadata, '$.redacted') IS 'text'
      AND (SELECT count(*) FROM json_each(OLD.metadata)) = 1);
  INSERT INTO session_events (at_ms, actor, event, session_key, reason, message_count, first_seq, last_seq)
  SELECT {SQLITE_NOW}, {SQLITE_ACTOR},
    'message_redacted', NEW.session_key, json_extract(NEW.metadata, '$.redacted'), NULL,
    NEW.seq, NEW.seq;
END""",
    "messages_removed": f"""\
CREATE TRIGGER messages_removed AFTER DELETE ON messages
WHEN OLD.seq > (SELECT last_seq - message_cap FROM sessions WHERE key = OLD.session_key)
  AND NOT EXISTS (SELECT 1 FROM message_removals WHERE session_key = OLD.session_key)
BEGIN
  INSERT INTO session_events (at_ms, actor, event, session_key, reason, message_count, first_seq, last_seq)
  SELECT {SQLITE_NOW}, {SQLITE_ACTOR},
    'messages_removed', OLD.session_key, NULL, 1, OLD.seq, OLD.seq;
END""",
    "archived_messages_removed": f"""\
CREATE TRIGGER archived_messages_removed AFTER DELETE ON archived_messages
WHEN EXISTS (SELECT 1 FROM sessions WHERE key = OLD.session_key)
BEGIN
  INSERT INTO session_events (at_ms, actor, event, session_key, reason, message_count, first_seq, last_seq)
  SELECT {SQLITE_NOW}, {SQLITE_ACTOR},
    'messages_removed', OLD.session_key, 'removed from the archive', 1, OLD.seq, OLD.seq;
END""",
    "message_removals_insert": f"""\
CREATE TRIGGER message_removals_insert AFTER INSERT ON message_removals
BEGIN
  INSERT INTO session_events (at_ms, actor, event, session_key, reason, message_count, first_seq, last_seq)
  SELECT {SQLITE_NOW}, {SQLITE_ACTOR},
    'messages_removed', NEW.session_key, NULL, count(*), min(number), max(number)
  FROM (
    SELECT seq AS number, seq - row_number() OVER (ORDER BY seq) AS run FROM messages
    WHERE session_key = NEW.session_key AND seq BETWEEN NEW.first_seq AND NEW.last_seq
  ) AS numbered
  GROUP BY run ORDER BY min(number);
  INSERT INTO archived_messages ({MESSAGE}, archived_ms)
  SELECT {MESSAGE}, {SQLITE_NOW} FROM messages
  WHERE session_key = NEW.session_key AND seq BETWEEN NEW.first_seq AND NEW.last_seq
    AND EXISTS (SELECT 1 FROM sessions WHERE key = NEW.session_key AND archive_trimmed = 1);
  DELETE FROM messages WHERE session_key = NEW.session_key AND seq BETWEEN NEW.first_seq AND NEW.last_seq;
  INSERT INTO session_events (at_ms, actor, event, session_key, reason, message_count, first_seq, last_seq)
  SELECT {SQLITE_NOW}, {SQLITE_ACTOR},
    'messages_removed', key, 'never stored here', 0, last_seq + 1, NEW.last_seq
  FROM sessions WHERE key = NEW.session_key AND last_seq < NEW.last_seq;
  UPDATE sessions SET last_seq = NEW.last_seq WHERE key = NEW.session_key AND last_seq < NEW.last_seq;
  DELETE FROM message_removals WHERE session_key = NEW.session_key;
END""",
    "sessions_last_seq": f"""\
CREATE TRIGGER sessions_last_seq AFTER UPDATE OF last_seq ON sessions
WHEN NEW.last_seq <> OLD.last_seq + 1
BEGIN
  SELECT RAISE(ABORT, 'sessions_last_seq: the number of the last message does not go back')
  WHERE NEW.last_seq < OLD.last_seq;
  INSERT INTO session_events (at_ms, actor, event, session_key, reason, message_count, first_seq, last_seq)
  SELECT {SQLITE_NOW}, {SQLITE_ACTOR},
    'messages_removed', NEW.key, 'never stored here', 0, OLD.last_seq + 1, NEW.last_seq
  WHERE NEW.last_seq > OLD.last_seq AND NOT EXISTS (SELECT 1 FROM message_removals WHERE session_key = NEW.key);
END""",
    "sessions_message_cap": f"""\
CREATE TRIGGER sessions_message_cap AFTER UPDATE OF message_cap ON sessions
WHEN NEW.message_cap <> OLD.message_cap
BEGIN
  INSERT INTO session_events (at_ms, actor, event, session_key, reason, message_count, first_seq, last_seq)
  SELECT {SQLITE_NOW}, {SQLITE_ACTOR},
    'messages_removed', NEW.key,
    'trimmed before message_cap went from ' || OLD.message_cap || ' to ' || NEW.message_cap,
    0, 1, NEW.last_seq - OLD.message_cap
  WHERE NEW.message_cap > OLD.message_cap AND NEW.last_seq > OLD.message_cap;
  INSERT INTO session_events (at_ms, actor, event, session_key, reason, message_count, first_seq, last_seq)
  SELECT {SQLITE_NOW}, {SQLITE_ACTOR},
    'messages_removed', NEW.key,
    'trimmed as message_cap went from ' || OLD.message_cap || ' to ' || NEW.message_cap,
    count(*), min(seq), max(seq)
  FROM messages WHERE session_key = NEW.key AND seq <= NEW.last_seq - NEW.message_cap
  HAVING count(*) > 0;
  INSERT INTO archived_messages ({MESSAGE}, archived_ms)
  SELECT {MESSAGE}, {SQLITE_NOW} FROM messages
  WHERE NEW.archive_trimmed = 1 AND session_key = NEW.key AND seq <= NEW.last_seq - NEW.message_cap;
  DELETE FROM messages WHERE session_key = NEW.key AND seq <= NEW.last_seq - NEW.message_cap;
END""",
    "log_policy_update": f"""\
CREATE TRIGGER log_policy_update AFTER UPDATE ON log_policy
WHEN NEW.retention_days <> OLD.retention_days
BEGIN
  INSERT INTO session_events (at_ms, actor, event, reason)
  SELECT {SQLITE_NOW}, {SQLITE_ACTOR},
    'retention_changed', OLD.retention_days || ' -> ' || NEW.retention_days || ' days';
END""",
    "log_policy_delete": """\
CREATE TRIGGER log_policy_delete BEFORE DELETE ON log_policy
BEGIN
  SELECT RAISE(ABORT, 'log_policy_delete: the policy is changed, not deleted');
END""",
}

# Further triggers on Postgres, each with its function.
POSTGRESQL_TRANSCRIPTS = {
    "messages_redacted": (
        f"""\
CREATE FUNCTION messages_redacted() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
  IF (NEW.session_key, NEW.seq, NEW.role, NEW.timestamp_ms, NEW.idempotency_key)
      IS DISTINCT FROM (OLD.session_key, OLD.seq, OLD.role, OLD.timestamp_ms, OLD.idempotency_key)
    OR NEW.tool_name IS DISTINCT FROM (CASE WHEN OLD.tool_name IS NOT NULL THEN '[redacted]' END)
    OR NOT coalesce(NEW.content = '[redacted]' AND json_typeof(NEW.metadata -> 'redacted') = 'string'
      AND (SELECT count(*) FROM json_object_keys(NEW.metadata)) = 1, false)
    OR NEW.metadata ->> 'redacted' = ''
    OR coalesce(OLD.content = '[redacted]' AND json_typeof(OLD.metadata -> 'redacted') = 'string'
      AND (SELECT count(*) FROM json_object_keys(OLD.metadata)) = 1, false) THEN
    RAISE EXCEPTION 'messages_redacted: a message is only redacted, and that once'
      USING ERRCODE = 'integrity_constraint_violation';
  END IF;
  INSERT INTO session_events (at_ms, actor, db_user, event, session_key, reason, message_count, first_seq, last_seq)
  VALUES ({POSTGRESQL_NOW}, {POSTGRESQL_ACTOR}, session_user,
    'message_redacted', NEW.session_key, NEW.metadata ->> 'redacted', NULL, NEW.seq, NEW.seq);
  RETURN NULL;
END
$$""",
        """\
CREATE TRIGGER messages_redacted AFTER UPDATE ON messages
FOR EACH ROW EXECUTE FUNCTION messages_redacted()""",
        """\
DO $$
BEGIN
  EXECUTE format(
    'ALTER FUNCTION messages_redacted() SET search_path = %I, pg_temp', current_schema()
  );
END
$$""",
        """\
REVOKE EXECUTE ON FUNCTION messages_redacted() FROM PUBLIC""",
    ),
    "archived_messages_redacted": (
        f"""\
CREATE FUNCTION archived_messages_redacted() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
  IF (NEW.session_key, NEW.seq, NEW.role, NEW.timestamp_ms, NEW.idempotency_key, NEW.archived_ms)
      IS DISTINCT FROM (OLD.session_key, OLD.seq, OLD.role, OLD.timestamp_ms, OLD.idempotency_key, OLD.archived_ms)
    OR NEW.tool_name IS DISTINCT FROM (CASE WHEN OLD.tool_name IS NOT NULL THEN '[redacted]' END)
    OR NOT coalesce(NEW.content = '[redacted]' AND json_typeof(NEW.metadata -> 'redacted') = 'string'
      AND (SELECT count(*) FROM json_object_keys(NEW.metadata)) = 1, false)
    OR NEW.metadata ->> 'redacted' = ''
    OR coalesce(OLD.content = '[redacted]' AND json_typeof(OLD.metadata -> 'redacted') = 'string'
      AND (SELECT count(*) FROM json_object_keys(OLD.metadata)) = 1, false) THEN
    RAISE EXCEPTION 'archived_messages_redacted: a message is only redacted, and that once'
      USING ERRCODE = 'integrity_constraint_violation';
  END IF;
  INSERT INTO session_events (at_ms, actor, db_user, event, session_key, reason, message_count, first_seq, last_seq)
  VALUES ({POSTGRESQL_NOW}, {POSTGRESQL_ACTOR}, session_user,
    'message_redacted', NEW.session_key, NEW.metadata ->> 'redacted', NULL, NEW.seq, NEW.seq);
  RETURN NULL;
END
$$""",
        """\
CREATE TRIGGER archived_messages_redacted AFTER UPDATE ON archived_messages
FOR EACH ROW EXECUTE FUNCTION archived_messages_redacted()""",
        """\
DO $$
BEGIN
  EXECUTE format(
    'ALTER FUNCTION archived_messages_redacted() SET search_path = %I, pg_temp', current_schema()
  );
END
$$""",
        """\
REVOKE EXECUTE ON FUNCTION archived_messages_redacted() FROM PUBLIC""",
    ),
    "messages_removed": (
        f"""\
CREATE FUNCTION messages_removed() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
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
  INSERT INTO session_events (at_ms, actor, db_user, event, session_key, reason, message_count, first_seq, last_seq)
  SELECT {POSTGRESQL_NOW}, {POSTGRESQL_ACTOR}, session_user,
    'messages_removed', key, NULL, size, first, last
  FROM unnest(keys, counts, first_seqs, last_seqs) AS run(session_key, size, first, last)
  JOIN sessions ON key = session_key
  ORDER BY key, first;
  RETURN NULL;
END
$$""",
        """\
CREATE TRIGGER messages_removed AFTER DELETE ON messages
REFERENCING OLD TABLE AS removed FOR EACH STATEMENT WHEN (pg_trigger_depth() = 0)
EXECUTE FUNCTION messages_removed()""",
        """\
DO $$
BEGIN
  EXECUTE format(
    'ALTER FUNCTION messages_removed() SET search_path = %I, pg_temp', current_schema()
  );
END
$$""",
        """\
REVOKE EXECUTE ON FUNCTION messages_removed() FROM PUBLIC""",
    ),
    "archived_messages_removed": (
        f"""\
CREATE FUNCTION archived_messages_removed() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
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
  INSERT INTO session_events (at_ms, actor, db_user, event, session_key, reason, message_count, first_seq, last_seq)
  SELECT {POSTGRESQL_NOW}, {POSTGRESQL_ACTOR}, session_user,
    'messages_removed', key, 'removed from the archive', size, first, last
  FROM unnest(keys, counts, first_seqs, last_seqs) AS run(session_key, size, first, last)
  JOIN sessions ON key = session_key
  ORDER BY key, first;
  RETURN NULL;
END
$$""",
        """\
CREATE TRIGGER archived_messages_removed AFTER DELETE ON archived_messages
REFERENCING OLD TABLE AS removed FOR EACH STATEMENT WHEN (pg_trigger_depth() = 0)
EXECUTE FUNCTION archived_messages_removed()""",
        """\
DO $$
BEGIN
  EXECUTE format(
    'ALTER FUNCTION archived_messages_removed() SET search_path = %I, pg_temp', current_schema()
  );
END
$$""",
        """\
REVOKE EXECUTE ON FUNCTION archived_messages_removed() FROM PUBLIC""",
    ),
    "sessions_last_seq": (
        f"""\
CREATE FUNCTION sessions_last_seq() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
  IF NEW.last_seq < OLD.last_seq THEN
    RAISE EXCEPTION 'sessions_last_seq: the number of the last message does not go back'
      USING ERRCODE = 'integrity_constraint_violation';
  END IF;
  INSERT INTO session_events (at_ms, actor, db_user, event, session_key, reason, message_count, first_seq, last_seq)
  SELECT {POSTGRESQL_NOW}, {POSTGRESQL_ACTOR}, session_user,
    'messages_removed', NEW.key, 'never stored here', 0, OLD.last_seq + 1, NEW.last_seq
  WHERE NEW.last_seq > OLD.last_seq;
  RETURN NULL;
END
$$""",
        """\
CREATE TRIGGER sessions_last_seq AFTER UPDATE OF last_seq ON sessions
FOR EACH ROW WHEN (pg_trigger_depth() = 0) EXECUTE FUNCTION sessions_last_seq()""",
        """\
DO $$
BEGIN
  EXECUTE format(
    'ALTER FUNCTION sessions_last_seq() SET search_path = %I, pg_temp', current_schema()
  );
END
$$""",
        """\
REVOKE EXECUTE ON FUNCTION sessions_last_seq() FROM PUBLIC""",
    ),
    "sessions_message_cap": (
        f"""\
CREATE FUNCTION sessions_message_cap() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
  IF NEW.message_cap > OLD.message_cap THEN
    INSERT INTO session_events (at_ms, actor, db_user, event, session_key, reason, message_count, first_seq, last_seq)
    SELECT {POSTGRESQL_NOW}, {POSTGRESQL_ACTOR}, session_user,
      'messages_removed', NEW.key,
      format('trimmed before message_cap went from %s to %s', OLD.message_cap, NEW.message_cap),
      0, 1, NEW.last_seq - OLD.message_cap
    WHERE NEW.last_seq > OLD.message_cap;
    RETURN NULL;
  END IF;
  INSERT INTO session_events (at_ms, actor, db_user, event, session_key, reason, message_count, first_seq, last_seq)
  SELECT {POSTGRESQL_NOW}, {POSTGRESQL_ACTOR}, session_user,
      'messages_removed', NEW.key,
    format('trimmed as message_cap went from %s to %s', OLD.message_cap, NEW.message_cap),
    count(*), min(seq), max(seq)
  FROM messages WHERE session_key = NEW.key AND seq <= NEW.last_seq - NEW.message_cap
  HAVING count(*) > 0;
  IF NEW.archive_trimmed = 1 THEN
    INSERT INTO archived_messages ({MESSAGE}, archived_ms)
    SELECT {MESSAGE}, {POSTGRESQL_NOW} FROM messages
    WHERE session_key = NEW.key AND seq <= NEW.last_seq - NEW.message_cap;
  END IF;
  DELETE FROM messages WHERE session_key = NEW.key AND seq <= NEW.last_seq - NEW.message_cap;
  RETURN NULL;
END
$$""",
        """\
CREATE TRIGGER sessions_message_cap AFTER UPDATE OF message_cap ON sessions
FOR EACH ROW WHEN (NEW.message_cap <> OLD.message_cap) EXECUTE FUNCTION sessions_message_cap()""",
        """\
DO $$
BEGIN
  EXECUTE format(
    'ALTER FUNCTION sessions_message_cap() SET search_path = %I, pg_temp', current_schema()
  );
END
$$""",
        """\
REVOKE EXECUTE ON FUNCTION sessions_message_cap() FROM PUBLIC""",
    ),
    "log_policy_change": (
        f"""\
CREATE FUNCTION log_policy_change() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
  IF TG_OP = 'DELETE' THEN
    RAISE EXCEPTION 'log_policy_change: the policy is changed, not deleted'
      USING ERRCODE = 'integrity_constraint_violation';
  END IF;
  INSERT INTO session_events (at_ms, actor, db_user, event, reason)
  VALUES ({POSTGRESQL_NOW}, {POSTGRESQL_ACTOR}, session_user,
    'retention_changed', format('%s -> %s days', OLD.retention_days, NEW.retention_days));
  RETURN NULL;
END
$$""",
        """\
CREATE TRIGGER log_policy_change AFTER DELETE ON log_policy
FOR EACH ROW EXECUTE FUNCTION log_policy_change()""",
        """\
CREATE TRIGGER log_policy_change_update AFTER UPDATE ON log_policy
FOR EACH ROW WHEN (NEW.retention_days <> OLD.retention_days) EXECUTE FUNCTION log_policy_change()""",
        """\
DO $$
BEGIN
  EXECUTE format(
    'ALTER FUNCTION log_policy_change() SET search_path = %I, pg_temp', current_schema()
  );
END
$$""",
        """\
REVOKE EXECUTE ON FUNCTION log_policy_change() FROM PUBLIC""",
    ),
    "log_policy_truncate": (
        """\
CREATE FUNCTION log_policy_truncate() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'log_policy_truncate: the policy is not deleted' USING ERRCODE = 'integrity_constraint_violation';
END
$$""",
        """\
CREATE TRIGGER log_policy_truncate BEFORE TRUNCATE ON log_policy
FOR EACH STATEMENT EXECUTE FUNCTION log_policy_truncate()""",
    ),
}

# Functions that a service may execute, by their signature.
POSTGRESQL_FUNCTIONS = {
    "messages_redact(text, bigint, json)": (
        """\
CREATE FUNCTION messages_redact(session text, number bigint, mark json) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
  UPDATE messages AS m
  SET content = '[redacted]', metadata = mark,
    tool_name = CASE WHEN tool_name IS NOT NULL THEN '[redacted]' END
  WHERE session_key = session AND seq = number
    AND NOT coalesce(m.content = '[redacted]' AND json_typeof(m.metadata -> 'redacted') = 'string'
      AND (SELECT count(*) FROM json_object_keys(m.metadata)) = 1, false);
  UPDATE archived_messages AS m
  SET content = '[redacted]', metadata = mark,
    tool_name = CASE WHEN tool_name IS NOT NULL THEN '[redacted]' END
  WHERE session_key = session AND seq = number
    AND NOT coalesce(m.content = '[redacted]' AND json_typeof(m.metadata -> 'redacted') = 'string'
      AND (SELECT count(*) FROM json_object_keys(m.metadata)) = 1, false);
END
$$""",
        """\
DO $$
BEGIN
  EXECUTE format(
    'ALTER FUNCTION messages_redact(text, bigint, json) SET search_path = %I, pg_temp', current_schema()
  );
END
$$""",
        """\
REVOKE EXECUTE ON FUNCTION messages_redact(text, bigint, json) FROM PUBLIC""",
    ),
    "messages_remove(text, bigint, bigint)": (
        f"""\
CREATE FUNCTION messages_remove(session text, first bigint, last bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
  IF pg_trigger_depth() > 0 THEN
    RAISE EXCEPTION 'messages_remove: not within a trigger'
      USING ERRCODE = 'integrity_constraint_violation';
  END IF;
  INSERT INTO archived_messages ({MESSAGE}, archived_ms)
  SELECT {MESSAGE}, {POSTGRESQL_NOW} FROM messages
  WHERE session_key = session AND seq BETWEEN first AND last
    AND EXISTS (SELECT 1 FROM sessions WHERE key = session AND archive_trimmed = 1);
  DELETE FROM messages WHERE session_key = session AND seq BETWEEN first AND last;
END
$$""",
        """\
DO $$
BEGIN
  EXECUTE format(
    'ALTER FUNCTION messages_remove(text, bigint, bigint) SET search_path = %I, pg_temp', current_schema()
  );
END
$$""",
        """\
REVOKE EXECUTE ON FUNCTION messages_remove(text, bigint, bigint) FROM PUBLIC""",
    ),
    "messages_skip(text, bigint)": (
        """\
CREATE FUNCTION messages_skip(session text, last bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
  IF pg_trigger_depth() > 0 THEN
    RAISE EXCEPTION 'messages_skip: not within a trigger'
      USING ERRCODE = 'integrity_constraint_violation';
  END IF;
  IF NOT coalesce((
    SELECT pg_xact_status((current_xid + (xmin::text::bigint - current_xid + 2147483648 & 4294967295) - 2147483648)
      ::text::xid8) = 'in progress'
    FROM session_events, (SELECT pg_current_xact_id()::text::bigint AS current_xid) AS here
    WHERE session_key = session AND event = 'created' ORDER BY id DESC LIMIT 1
  ), false) THEN
    RAISE EXCEPTION 'messages_skip: only in the transaction that creates the session'
      USING ERRCODE = 'integrity_constraint_violation';
  END IF;
  UPDATE sessions SET last_seq = last WHERE key = session AND last_seq < last;
END
$$""",
        """\
DO $$
BEGIN
  EXECUTE format(
    'ALTER FUNCTION messages_skip(text, bigint) SET search_path = %I, pg_temp', current_schema()
  );
END
$$""",
        """\
REVOKE EXECUTE ON FUNCTION messages_skip(text, bigint) FROM PUBLIC""",
    ),
    "messages_archive(text, json)": (
        f"""\
CREATE FUNCTION messages_archive(session text, archived json) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
  IF NOT coalesce((
    SELECT pg_xact_status((current_xid + (xmin::text::bigint - current_xid + 2147483648 & 4294967295) - 2147483648)
      ::text::xid8) = 'in progress'
    FROM session_events, (SELECT pg_current_xact_id()::text::bigint AS current_xid) AS here
    WHERE session_key = session AND event = 'created' ORDER BY id DESC LIMIT 1
  ), false) THEN
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
END
$$""",
        """\
DO $$
BEGIN
  EXECUTE format(
    'ALTER FUNCTION messages_archive(text, json) SET search_path = %I, pg_temp', current_schema()
  );
END
$$""",
        """\
REVOKE EXECUTE ON FUNCTION messages_archive(text, json) FROM PUBLIC""",
    ),
}


def upgrade() -> None:
    """Create the triggers, and on Postgres their functions."""
    if op.get_context().dialect.name == "sqlite":
        op.execute(f"CREATE VIEW labelled_sessions AS SELECT {', '.join(NEW_SESSION)} FROM sessions")
        for statement in (SQLITE | SQLITE_TRANSCRIPTS).values():
            op.execute(statement)
    else:
        for statements in (POSTGRESQL | POSTGRESQL_TRANSCRIPTS | POSTGRESQL_FUNCTIONS).values():
            for statement in statements:
                op.execute(statement)


def downgrade() -> None:
    """Drop the triggers."""
    if op.get_context().dialect.name == "sqlite":
        for name in SQLITE | SQLITE_TRANSCRIPTS:
            op.execute(f"DROP TRIGGER {name}")
        op.execute("DROP VIEW labelled_sessions")
    else:
        # The triggers go with their function.
        for name in POSTGRESQL | POSTGRESQL_TRANSCRIPTS:
            op.execute(f"DROP FUNCTION {name}() CASCADE")
        for signature in POSTGRESQL_FUNCTIONS:
            op.execute(f"DROP FUNCTION {signature}")

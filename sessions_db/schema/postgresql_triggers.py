"""The triggers on Postgres, each with its function."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from sessions_db.schema import postgresql_log, postgresql_transcripts
from sessions_db.schema.postgresql_functions import MESSAGE, NOW, in_its_schema, owners_only, refusal
from sessions_db.schema.tables import identity_rules

# The digests of a session's messages are deleted with it, so `message_digests_delete` has a condition.
_SEALED: Final = dict.fromkeys(("event_digests", "event_seals", "sealed_transcripts"), "DELETE OR UPDATE") | {
    "message_digests": "UPDATE"
}

_BROKEN_RULES: Final = "\n".join(
    f"    WHEN NOT ({rule}) THEN '{name}'" for name, rule in identity_rules("NEW.").items()
)

TRIGGERS: Final = (
    {
        # One statement each for the counters, the archive and the trim query, however many sessions and messages there
        # are. For a single session they are simpler: those over many took a sixth longer for one message, and 64
        # single ones 3.5 times as long as one over 64 sessions (measured once).
        # Those over many read the transition table into arrays first: Citus plans no statement over it and a table.
        # Each statement of a function takes a new snapshot: a writer that waited behind a large batch trims that batch
        # too. The settings keep the planner from ever reading the whole table of messages, as it would while it thinks
        # that the table is small: without any one of them, 256 sessions took at least 6 times as long in a table that
        # had grown since ANALYZE (PostgreSQL 15 and 18, measured once). It runs as its owner: a writer needs no right
        # to delete.
        "messages_append": f"""\
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
      SELECT {MESSAGE}, {NOW} FROM messages
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
    SELECT {MESSAGE}, {NOW} FROM messages JOIN (
      SELECT key, last_seq - message_cap AS trimmed FROM sessions
      WHERE archive_trimmed = 1 AND key = ANY (keys)
    ) AS archiving ON session_key = key AND seq <= trimmed;
  END IF;
  DELETE FROM messages USING sessions
  WHERE key = ANY (keys) AND session_key = key AND seq <= last_seq - message_cap;
  RETURN NULL;
END
$$;
CREATE TRIGGER messages_append AFTER INSERT ON messages
REFERENCING NEW TABLE AS appended FOR EACH STATEMENT EXECUTE FUNCTION messages_append();
{in_its_schema("messages_append")};
{owners_only("messages_append")}""",
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
        # After the row is stored: whatever other triggers have made of it.
        "sessions_insert": f"""\
CREATE FUNCTION sessions_insert() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  broken text := CASE
{_BROKEN_RULES}
  END;
BEGIN
  IF broken IS NOT NULL THEN
    RAISE EXCEPTION 'sessions_insert: the session is refused by %', broken
      USING ERRCODE = 'check_violation', TABLE = 'sessions', CONSTRAINT = broken;
  END IF;
  RETURN NULL;
END
$$;
CREATE TRIGGER sessions_insert AFTER INSERT ON sessions
FOR EACH ROW EXECUTE FUNCTION sessions_insert();
{in_its_schema("sessions_insert")}""",
        # TRUNCATE fires no row triggers, so nothing would be logged.
        **{
            f"{table}_truncate": refusal(
                f"{table}_truncate", f"TRUNCATE ON {table}", "rows are deleted, so that each is logged", "STATEMENT"
            )
            for table in ("sessions", "labels", "messages", "archived_messages")
        },
    }
    | {
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
{in_its_schema("message_digests_delete")}""",
    }
    | {
        f"{table}_{name}": refusal(f"{table}_{name}", f"{when} ON {table}", "what is sealed is not changed", each)
        for table, when in _SEALED.items()
        for name, when, each in (("change", when, "ROW"), ("truncate", "TRUNCATE", "STATEMENT"))
    }
    | postgresql_log.TRIGGERS
    | postgresql_transcripts.TRIGGERS
)
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

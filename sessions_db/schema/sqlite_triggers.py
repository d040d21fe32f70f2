"""The triggers on SQLite.

SQLite has row triggers only, and ignores foreign keys unless a connection turns them on. So `sessions_delete`,
`labels_insert` and `labels_update` do what the foreign keys promise.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from sessions_db.limits import DEFAULT_LOG_DAYS
from sessions_db.schema import sqlite_transcripts
from sessions_db.schema.sqlite_transcripts import ACTOR, MESSAGE, NOW
from sessions_db.schema.tables import labelled_sessions


def _not_replaced(table: str, event: str, keys: tuple[str, ...]) -> str:
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


_NEW_SESSION: Final = tuple(labelled_sessions.c.keys())

LABELLED_SESSIONS: Final = f"CREATE VIEW labelled_sessions AS SELECT {', '.join(_NEW_SESSION)} FROM sessions"
"""The view through which a session is created together with its label."""

TRIGGERS: Final = (
    {
        # The rest of an append: move the counters, check the number, run the trim query. SQLite deletes one row, found
        # by its key, at once; several it would first collect in a temporary table, which takes a tenth of the time of
        # an append in a group (measured once).
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
        # What few appends need, and what would cost each of them a fifth of its time in the trigger above (measured
        # once): those to a session that archives, was sealed, or has several messages to trim, because numbers were
        # passed over. To pass over a number trims nothing.
        "sessions_append": f"""\
CREATE TRIGGER sessions_append AFTER UPDATE OF last_seq ON sessions
WHEN NEW.last_seq = OLD.last_seq + 1
  AND (NEW.archive_trimmed = 1 OR NEW.unsealed = 0
    OR EXISTS (SELECT 1 FROM messages WHERE session_key = NEW.key AND seq < NEW.last_seq - NEW.message_cap))
  AND EXISTS (SELECT 1 FROM messages WHERE session_key = NEW.key AND seq = NEW.last_seq)
BEGIN
  UPDATE sessions SET unsealed = 1 WHERE key = NEW.key AND unsealed = 0;
  INSERT INTO archived_messages ({MESSAGE}, archived_ms)
  SELECT {MESSAGE}, {NOW} FROM messages
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
        # One statement needs no transaction around it, within which SQLite would copy each page that a statement
        # changes: a spawn with a label took 1.5 times as long (measured once).
        "labelled_sessions_insert": f"""\
CREATE TRIGGER labelled_sessions_insert INSTEAD OF INSERT ON labelled_sessions
BEGIN
  INSERT INTO sessions ({", ".join(_NEW_SESSION)})
  VALUES ({", ".join(f"NEW.{name}" for name in _NEW_SESSION)});
  UPDATE labels SET session_key = NEW.key, assigned_ms = NEW.created_ms WHERE label = NEW.label;
  INSERT INTO labels (label, session_key, assigned_ms)
  SELECT NEW.label, NEW.key, NEW.created_ms WHERE NOT EXISTS (SELECT 1 FROM labels WHERE label = NEW.label);
END""",
        # The log. A deletion is logged before foreign keys or a trigger delete the labels.
        "sessions_log_insert": f"""\
CREATE TRIGGER sessions_log_insert AFTER INSERT ON sessions
BEGIN
  INSERT INTO session_events (at_ms, actor, event, session_key, to_status, reason, parent_key, message_count)
  SELECT {NOW}, {ACTOR},
    'created', NEW.key, NEW.status, NEW.end_reason, NEW.parent_key, NEW.last_seq;
END""",
        "sessions_log_update": f"""\
CREATE TRIGGER sessions_log_update AFTER UPDATE OF status, finished_ms, end_reason ON sessions
WHEN NEW.status <> OLD.status OR NEW.finished_ms IS NOT OLD.finished_ms OR NEW.end_reason IS NOT OLD.end_reason
BEGIN
  INSERT INTO session_events (at_ms, actor, event, session_key, from_status, to_status, reason, message_count)
  SELECT {NOW}, {ACTOR},
    CASE WHEN NEW.status = OLD.status THEN 'end_changed' ELSE 'status_changed' END,
    NEW.key, OLD.status, NEW.status, NEW.end_reason, NEW.last_seq;
END""",
        "sessions_log_fields": f"""\
CREATE TRIGGER sessions_log_fields AFTER UPDATE OF label, task, metadata ON sessions
WHEN NEW.label IS NOT OLD.label OR NEW.task IS NOT OLD.task OR NEW.metadata IS NOT OLD.metadata
BEGIN
  INSERT INTO session_events (at_ms, actor, event, session_key, from_status, to_status, reason, message_count)
  SELECT {NOW}, {ACTOR},
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
  SELECT {NOW}, {ACTOR},
    'deleted', OLD.key, OLD.status, OLD.end_reason, OLD.parent_key, OLD.last_seq;
END""",
        "labels_log_insert": f"""\
CREATE TRIGGER labels_log_insert AFTER INSERT ON labels
BEGIN
  INSERT INTO session_events (at_ms, actor, event, session_key, label)
  SELECT {NOW}, {ACTOR}, 'label_assigned', NEW.session_key, NEW.label;
END""",
        "labels_log_update": f"""\
CREATE TRIGGER labels_log_update AFTER UPDATE OF label, session_key ON labels
WHEN NEW.label <> OLD.label OR NEW.session_key <> OLD.session_key
BEGIN
  INSERT INTO session_events (at_ms, actor, event, session_key, label)
  SELECT {NOW}, {ACTOR}, 'label_removed', OLD.session_key, OLD.label
  WHERE NEW.label <> OLD.label;
  INSERT INTO session_events (at_ms, actor, event, session_key, label, from_session_key)
  SELECT {NOW}, {ACTOR},
    CASE WHEN NEW.label = OLD.label THEN 'label_moved' ELSE 'label_assigned' END,
    NEW.session_key, NEW.label, CASE WHEN NEW.label = OLD.label THEN OLD.session_key END;
END""",
        "labels_log_delete": f"""\
CREATE TRIGGER labels_log_delete AFTER DELETE ON labels
BEGIN
  INSERT INTO session_events (at_ms, actor, event, session_key, label)
  SELECT {NOW}, {ACTOR}, 'label_removed', OLD.session_key, OLD.label;
END""",
        # The log is append-only. An event with the largest number of all would leave none for those that come after it.
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
        "session_events_delete": f"""\
CREATE TRIGGER session_events_delete BEFORE DELETE ON session_events
BEGIN
  SELECT RAISE(ABORT, 'session_events_delete: an event is kept as many days as log_policy says')
  WHERE OLD.at_ms > {NOW}
    - coalesce((SELECT retention_days FROM log_policy), {DEFAULT_LOG_DAYS}) * 24 * 60 * 60 * 1000;
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
        f"{table}_unique_{event}": _not_replaced(table, event, keys)
        for table, event, keys in (
            ("sessions", "insert", ("key", "run_id")),
            # messages_append refuses a number that is there already.
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
    | sqlite_transcripts.TRIGGERS
)
"""The statement that creates each trigger, by its name."""

STORED: Final = "SELECT name, tbl_name, '', '', sql FROM sqlite_master WHERE type = 'trigger'"
"""The query for the triggers that a database has: name, table, what disables it, nothing, statement."""


def stored(statement: str) -> Iterator[tuple[str, str, str, str]]:
    """What `STORED` gives for the trigger in an entry of `TRIGGERS`: name, table, nothing, statement."""
    for name, table in re.findall(r"^CREATE TRIGGER (\w+)\s.*? ON (\w+)", statement, re.DOTALL):
        yield name, table, "", statement

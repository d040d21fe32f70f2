"""An auditor's queries, which find whatever should not be in a database."""

from __future__ import annotations

import sqlite3
from typing import Final

from tests.support.client import PlainClient

# The newest event of each session, and of each label.
_OF_SESSIONS: Final = """(SELECT e.id, e.session_key, e.event, e.to_status FROM session_events AS e JOIN (
        SELECT max(id) AS id FROM session_events WHERE label IS NULL GROUP BY session_key) AS newest ON newest.id = e.id
    ) AS e"""
_OF_LABELS: Final = """(SELECT e.id, e.label, e.event, e.session_key FROM session_events AS e JOIN (
        SELECT max(id) AS id FROM session_events WHERE label IS NOT NULL GROUP BY label) AS newest ON newest.id = e.id
    ) AS e"""

FAULTS: Final = {
    "a session's message numbers have gaps": """
        SELECT session_key, min(seq), max(seq), count(*) FROM messages
        GROUP BY session_key HAVING max(seq) - min(seq) + 1 <> count(*)""",
    "a session retains more messages than its cap": """
        SELECT s.key, s.message_cap, count(*) FROM sessions AS s JOIN messages AS m ON m.session_key = s.key
        GROUP BY s.key, s.message_cap HAVING count(*) > s.message_cap""",
    "a session retains fewer messages than its cap allows": """
        SELECT s.key, s.message_cap, s.last_seq, count(m.seq)
        FROM sessions AS s LEFT JOIN messages AS m ON m.session_key = s.key
        GROUP BY s.key, s.message_cap, s.last_seq HAVING count(m.seq) < s.message_cap AND count(m.seq) < s.last_seq""",
    "last_seq is not the number of the newest message": """
        SELECT s.key, s.last_seq, max(m.seq) FROM sessions AS s LEFT JOIN messages AS m ON m.session_key = s.key
        GROUP BY s.key, s.last_seq HAVING s.last_seq <> coalesce(max(m.seq), 0)""",
    "last_activity_ms is before a message": """
        SELECT s.key, s.last_activity_ms, max(m.timestamp_ms)
        FROM sessions AS s JOIN messages AS m ON m.session_key = s.key
        GROUP BY s.key, s.last_activity_ms HAVING s.last_activity_ms < max(m.timestamp_ms)""",
    "last_activity_ms is before the session was made": """
        SELECT key, last_activity_ms, created_ms FROM sessions WHERE last_activity_ms < created_ms""",
    "a message belongs to no session": """
        SELECT m.session_key, m.seq FROM messages AS m LEFT JOIN sessions AS s ON s.key = m.session_key
        WHERE s.key IS NULL""",
    "a session retains an idempotency key twice": """
        SELECT session_key, idempotency_key, count(*) FROM messages WHERE idempotency_key IS NOT NULL
        GROUP BY session_key, idempotency_key HAVING count(*) > 1""",
    "a label points to no session": """
        SELECT l.label, l.session_key FROM labels AS l LEFT JOIN sessions AS s ON s.key = l.session_key
        WHERE s.key IS NULL""",
    "a label points to a session that was not spawned with it": """
        SELECT l.label, s.key, s.label FROM labels AS l JOIN sessions AS s ON s.key = l.session_key
        WHERE s.label IS NULL OR s.label <> l.label""",
    "an active session has an end, or an ended one has none": """
        SELECT key, status, finished_ms, end_reason FROM sessions
        WHERE (status = 'active') <> (finished_ms IS NULL) OR status = 'active' AND end_reason IS NOT NULL""",
    "an archived message belongs to no session": """
        SELECT a.session_key, a.seq FROM archived_messages AS a LEFT JOIN sessions AS s ON s.key = a.session_key
        WHERE s.key IS NULL""",
    "a message is both retained and archived": """
        SELECT m.session_key, m.seq FROM messages AS m JOIN archived_messages AS a
        ON a.session_key = m.session_key AND a.seq = m.seq""",
    "an archive has gaps": """
        SELECT s.key, s.last_seq, count(a.seq) FROM sessions AS s
        LEFT JOIN archived_messages AS a ON a.session_key = s.key WHERE s.archive_trimmed = 1
        GROUP BY s.key, s.last_seq, s.message_cap
        HAVING count(a.seq) <> CASE WHEN s.last_seq > s.message_cap THEN s.last_seq - s.message_cap ELSE 0 END""",
    "a session has another status than the log says": f"""
        SELECT s.key, s.status, e.event, e.to_status
        FROM sessions AS s LEFT JOIN {_OF_SESSIONS} ON e.session_key = s.key
        WHERE e.id IS NULL OR e.to_status IS NULL OR e.to_status <> s.status""",
    "a session is gone and the log does not say so": f"""
        SELECT e.session_key, e.event FROM {_OF_SESSIONS} LEFT JOIN sessions AS s ON s.key = e.session_key
        WHERE s.key IS NULL AND e.event <> 'deleted'""",
    "the log skips a status": """
        SELECT session_key, id, from_status, previous FROM (
            SELECT session_key, id, from_status,
                lag(to_status) OVER (PARTITION BY session_key ORDER BY id) AS previous
            FROM session_events WHERE label IS NULL
        ) AS steps WHERE from_status <> previous""",
    "a label belongs to another session than the log says": f"""
        SELECT l.label, l.session_key, e.event, e.session_key
        FROM labels AS l LEFT JOIN {_OF_LABELS} ON e.label = l.label
        WHERE e.id IS NULL OR e.event = 'label_removed' OR e.session_key <> l.session_key""",
    "a label is gone and the log does not say so": f"""
        SELECT e.label, e.event FROM {_OF_LABELS} LEFT JOIN labels AS l ON l.label = e.label
        WHERE l.label IS NULL AND e.event <> 'label_removed'""",
    "an agent has several main sessions": """
        SELECT agent_id, count(*) FROM sessions WHERE kind = 'main' GROUP BY agent_id HAVING count(*) > 1""",
}
"""Each possible fault, and the query whose rows are its places. `test_soundness.py` causes each fault once."""

# The primary keys: an index must hold the same as its table.
_KEYS: Final = {
    "sessions": "key",
    "messages": "session_key, seq",
    "labels": "label",
    "archived_messages": "session_key, seq",
    "session_events": "id",
}

_SHOWN = 5


def faults(url: str) -> list[str]:
    """Everything that is wrong with the database, in one snapshot; empty if it is sound.

    It can be called while others write: every committed state must keep the promises.
    """
    client = PlainClient(url)
    try:
        client("BEGIN" if client.backend == "sqlite" else "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        found = [f"{fault}: {row}" for fault, query in FAULTS.items() for row in client(f"{query} LIMIT {_SHOWN}")]
        return found + (_faults_of_file(client) if client.backend == "sqlite" else _faults_of_indexes(client))
    except sqlite3.DatabaseError as error:
        return [f"the file can't be read: {error}"]
    finally:
        client.close()


def _faults_of_file(client: PlainClient) -> list[str]:
    found = [text for (text,) in client("PRAGMA integrity_check")]
    # An actor is named only until its transaction ends.
    left = [f"a name was left to act under: {name}" for (name,) in client("SELECT name FROM event_actor")]
    return [f"the file is damaged: {text}" for text in found if text != "ok"] + left


def _faults_of_indexes(client: PlainClient) -> list[str]:
    found = []
    for table, columns in _KEYS.items():
        client("SET LOCAL enable_indexscan = off")
        client("SET LOCAL enable_indexonlyscan = off")
        client("SET LOCAL enable_bitmapscan = off")
        client("SET LOCAL enable_seqscan = on")
        held = client(f"SELECT {columns} FROM {table}")
        client("SET LOCAL enable_indexscan = on")
        client("SET LOCAL enable_indexonlyscan = on")
        client("SET LOCAL enable_seqscan = off")
        client("SET LOCAL enable_sort = off")
        indexed = client(f"SELECT {columns} FROM {table} ORDER BY {columns}")
        found += [f"the index of {table} lacks a row: {row}" for row in sorted({*held} - {*indexed})[:_SHOWN]]
        found += [f"the index of {table} has a row too many: {row}" for row in sorted({*indexed} - {*held})[:_SHOWN]]
    return found

"""The views for auditors.

Revision ID: 0003
Revises: 0002
"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

NOW_MS = {
    "sqlite": "CAST(round((julianday('now') - 2440587.5) * 86400000) AS INTEGER)",
    "postgresql": "CAST(floor(extract(epoch FROM now()) * 1000) AS bigint)",
}


def utc(dialect: str, ms: str) -> str:
    text = {
        "sqlite": f"strftime('%Y-%m-%dT%H:%M:%fZ', {ms} / 1000.0, 'unixepoch')",
        # Not to_timestamp, whose double precision loses a millisecond now and then before 1970 and after 2242.
        "postgresql": f"""to_char(timestamp '1970-01-01' + make_interval(secs => {ms} / 1000)
    + {ms} % 1000 * interval '1 millisecond', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')""",
    }
    # The years 1 to 9999: beyond them the databases have no text for it, or different ones.
    return f"CASE WHEN {ms} BETWEEN -62135596800000 AND 253402300799999 THEN {text[dialect]} END"


def sessions(dialect: str) -> str:
    now_ms = NOW_MS[dialect]
    return f"""\
CREATE VIEW audit_sessions AS
SELECT
  s.key AS session_key,
  s.agent_id,
  s.kind,
  s.status,
  s.end_reason,
  s.label,
  CASE WHEN l.label IS NULL THEN 0 ELSE 1 END AS owns_label,
  s.task,
  s.run_id,
  s.parent_key,
  s.forked_at_seq,
  {utc(dialect, "s.created_ms")} AS created_at,
  {utc(dialect, "s.finished_ms")} AS finished_at,
  {utc(dialect, "s.last_activity_ms")} AS last_activity_at,
  s.created_ms,
  s.finished_ms,
  s.last_activity_ms,
  CASE WHEN coalesce(s.finished_ms, {now_ms}) < s.created_ms THEN 0
    ELSE (coalesce(s.finished_ms, {now_ms}) - s.created_ms) / 1000 END AS runtime_seconds,
  CASE WHEN s.finished_ms IS NOT NULL THEN NULL
    WHEN {now_ms} < s.last_activity_ms THEN 0
    ELSE ({now_ms} - s.last_activity_ms) / 1000 END AS idle_seconds,
  s.last_seq AS message_count,
  (SELECT count(*) FROM messages AS m WHERE m.session_key = s.key) AS retained_count,
  s.last_seq - (SELECT count(*) FROM messages AS m WHERE m.session_key = s.key)
    - CAST(coalesce((SELECT sum(e.message_count) FROM session_events AS e
    WHERE e.session_key = s.key AND e.event = 'messages_removed' AND e.reason IS NULL), 0) AS bigint) AS trimmed_count,
  CAST(coalesce((SELECT sum(e.message_count) FROM session_events AS e
    WHERE e.session_key = s.key AND e.event = 'messages_removed' AND e.reason IS NULL), 0) AS bigint) AS removed_count,
  (SELECT count(*) FROM archived_messages AS a WHERE a.session_key = s.key) AS archived_count,
  s.message_cap,
  s.archive_trimmed,
  CAST(s.metadata AS text) AS metadata
FROM sessions AS s
LEFT JOIN labels AS l ON l.label = s.label AND l.session_key = s.key"""


def messages(dialect: str) -> str:
    is_marked = {
        "sqlite": "json_type(m.metadata, '$.redacted') = 'text'",
        "postgresql": "json_typeof(m.metadata -> 'redacted') = 'string'",
    }[dialect]
    columns = f"""\
  m.session_key,
  m.seq,
  m.role,
  m.tool_name,
  m.content,
  CAST(m.metadata AS text) AS metadata,
  m.idempotency_key,
  CASE WHEN m.content = '[redacted]' AND {is_marked} THEN 1 ELSE 0 END AS redacted,
  {utc(dialect, "m.timestamp_ms")} AS sent_at,
  m.timestamp_ms"""
    sealed = "CASE WHEN d.digest IS NULL THEN 0 ELSE 1 END"
    digests = "LEFT JOIN message_digests AS d ON d.session_key = m.session_key AND d.seq = m.seq"
    return f"""\
CREATE VIEW audit_messages AS
SELECT
  'live' AS stored,
{columns},
  NULL AS archived_at,
  {sealed} AS sealed
FROM messages AS m {digests}
UNION ALL
SELECT
  'archived',
{columns},
  {utc(dialect, "m.archived_ms")},
  {sealed}
FROM archived_messages AS m {digests}"""


def events(dialect: str) -> str:
    # A key is agent:<agent_id>:<kind>, with :<uuid> for all but main sessions.
    after_agent = "substr(substr(e.session_key, 7), instr(substr(e.session_key, 7), ':') + 1)"
    agent_id, kind = {
        "sqlite": (
            "substr(e.session_key, 7, instr(substr(e.session_key, 7), ':') - 1)",
            f"substr({after_agent}, 1, instr({after_agent} || ':', ':') - 1)",
        ),
        "postgresql": ("split_part(e.session_key, ':', 2)", "split_part(e.session_key, ':', 3)"),
    }[dialect]
    return f"""\
CREATE VIEW audit_events AS
SELECT
  e.id,
  {utc(dialect, "e.at_ms")} AS at,
  e.at_ms,
  e.actor,
  e.db_user,
  e.event,
  e.session_key,
  {agent_id} AS agent_id,
  {kind} AS kind,
  e.from_status,
  e.to_status,
  e.reason,
  e.label,
  e.from_session_key,
  e.parent_key,
  e.message_count,
  e.first_seq,
  e.last_seq,
  CASE WHEN d.event_id IS NULL THEN 0 ELSE 1 END AS sealed
FROM session_events AS e
LEFT JOIN event_digests AS d ON d.event_id = e.id"""


def seals(dialect: str) -> str:
    return f"""\
CREATE VIEW audit_seals AS
SELECT
  id,
  {utc(dialect, "sealed_ms")} AS sealed_at,
  sealed_ms,
  actor,
  through_event_id,
  event_count,
  digest,
  previous_digest,
  events_digest,
  transcript_count,
  transcripts_digest
FROM event_seals"""


def transcripts(dialect: str) -> str:
    return f"""\
CREATE VIEW audit_transcripts AS
SELECT
  t.session_key,
  t.number,
  t.seal_id,
  {utc(dialect, "s.sealed_ms")} AS sealed_at,
  t.after_seq,
  t.first_seq,
  t.last_seq,
  t.message_count,
  t.digest,
  t.previous_digest,
  t.messages_digest
FROM sealed_transcripts AS t
LEFT JOIN event_seals AS s ON s.id = t.seal_id"""


# From the roots down, so a cycle, which has none, is never walked: what is in one or below one comes without a root.
# A session whose parent is gone is a root.
LINEAGE = """\
CREATE VIEW audit_lineage AS
WITH RECURSIVE tree(session_key, parent_key, root_key, depth, path) AS (
  SELECT s.key, s.parent_key, s.key, 0, s.key
  FROM sessions AS s
  WHERE s.parent_key IS NULL OR NOT EXISTS (SELECT 1 FROM sessions AS p WHERE p.key = s.parent_key)
  UNION ALL
  SELECT s.key, s.parent_key, t.root_key, t.depth + 1, t.path || ' > ' || s.key
  FROM tree AS t JOIN sessions AS s ON s.parent_key = t.session_key
)
SELECT session_key, parent_key, root_key, depth, path FROM tree
UNION ALL
SELECT s.key, s.parent_key, NULL, NULL, NULL
FROM sessions AS s LEFT JOIN tree AS t ON t.session_key = s.key
WHERE t.session_key IS NULL"""


def views(dialect: str) -> dict[str, str]:
    return {
        "audit_sessions": sessions(dialect),
        "audit_messages": messages(dialect),
        "audit_events": events(dialect),
        "audit_seals": seals(dialect),
        "audit_transcripts": transcripts(dialect),
        "audit_lineage": LINEAGE,
    }


def upgrade() -> None:
    """Create the views."""
    for statement in views(op.get_context().dialect.name).values():
        op.execute(statement)


def downgrade() -> None:
    """Drop the views."""
    for name in views(op.get_context().dialect.name):
        op.execute(f"DROP VIEW {name}")

"""Looks for problems in a database. It only reads: nothing is repaired.

The checks are independent: if one fails to run, the others still do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sqlalchemy import URL, Connection, Engine, exc, inspect

from sessions_db import schema as at_head
from sessions_db import validation
from sessions_db.database import BACKENDS, EngineOptions, backend_of, migrate
from sessions_db.database.engine import open_engine
from sessions_db.database.translation import translate
from sessions_db.database.urls import file_of
from sessions_db.enums import Severity
from sessions_db.errors import SchemaMismatch, SessionsError


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one check found, in one line."""

    check: str
    outcome: Severity
    detail: str


_Result = tuple[Severity, str]


def examine(
    url: str | URL, *, schema: str | None = None, quick: bool = False, retry_budget_s: float = 5.0
) -> Iterator[Finding]:
    """A finding for each check, yielded as soon as it is made; `quick` skips the checks that read every message.

    For a lock, and for a server that does not answer, a check waits `retry_budget_s` seconds.

    Raises:
        InvalidInput: the URL can't be read, or there can be no schema of this name.
    """
    file = file_of(url)
    if file is not None and not file.exists():
        detail = f"{file} does not exist: `sessions-db upgrade` creates it"
        yield Finding(check="connection", outcome=Severity.FAILURE, detail=detail)
        return
    named = validation.optional_schema_name(schema)
    engine = open_engine(url, EngineOptions(retry_budget_s=retry_budget_s, pool_size=1, read_only=True, schema=named))
    try:
        connected = _finding("connection", engine, _connection)
        yield connected
        if connected.outcome is Severity.FAILURE:
            return
        revision = _finding("revision", engine, _revision)
        yield revision
        if revision.outcome is Severity.FAILURE:
            # Another release's tables are not to be compared with this one's.
            return
        checks = {"tables": _tables, "triggers": _triggers, "views": _views}
        checks |= BACKENDS[engine.dialect.name].checks
        if not quick:
            checks |= _CONTENT
        for name, check in checks.items():
            yield _finding(name, engine, check)
    finally:
        engine.dispose()


def _finding(name: str, engine: Engine, check: Callable[[Connection], _Result]) -> Finding:
    try:
        with engine.connect() as conn:
            outcome, detail = check(conn)
    except exc.SQLAlchemyError as error:
        translated = translate(error, BACKENDS[engine.dialect.name], waited_s=0.0, password=engine.url.password)
        outcome, detail = Severity.FAILURE, str(translated)
    except SessionsError as error:
        outcome, detail = Severity.FAILURE, str(error)
    return Finding(check=name, outcome=outcome, detail=detail)


# The database itself


def _connection(conn: Connection) -> _Result:
    return Severity.OK, backend_of(conn).describe(conn)


def _revision(conn: Connection) -> _Result:
    migrate.require_settings(conn)
    head = migrate.head_revision()
    try:
        found = migrate.current_revision(conn)
    except SchemaMismatch:
        return Severity.FAILURE, f"{migrate.VERSION_TABLE} has several rows: restore a backup"
    if found == head:
        return Severity.OK, f"{found}, which this release needs"
    known = found is None or migrate.is_known(found)
    cure = "run `sessions-db upgrade`" if known else "a newer release has migrated it, install that one"
    return Severity.FAILURE, f"{found or 'none'}, this release needs {head}: {cure}"


def _tables(conn: Connection) -> _Result:
    inspector = inspect(conn)
    existing = set(inspector.get_table_names())
    missing = []
    for table in at_head.tables_of(conn.dialect.name):
        if table.name not in existing:
            missing.append(f"table {table.name}")
            continue
        there = {index["name"] for index in inspector.get_indexes(table.name)}
        missing += [f"index {index.name}" for index in table.indexes if index.name not in there]
    return _nothing_but(missing, "missing", f"all {len(at_head.tables_of(conn.dialect.name))}, with their indexes")


def _triggers(conn: Connection) -> _Result:
    faults = [f"{name} is {fault}" for name, fault in at_head.trigger_faults(conn)]
    if not faults and (foreign := at_head.foreign_triggers(conn)):
        return Severity.WARNING, f"not this release's, they may undo what it promises: {', '.join(foreign)}"
    return _nothing_but(faults, "not as they should be", "all are there, as this release made them")


def _views(conn: Connection) -> _Result:
    expected = at_head.VIEWS[conn.dialect.name]
    existing = set(inspect(conn).get_view_names())
    missing = [name for name in expected if name not in existing]
    return _nothing_but(missing, "missing", f"all {len(expected)}")


def _nothing_but(faults: list[str], what: str, otherwise: str) -> _Result:
    if faults:
        return Severity.FAILURE, f"{what}: {', '.join(faults)}"
    return Severity.OK, otherwise


# Its content


def _counted(what: str, sql: str, outcome: Severity, otherwise: str) -> Callable[[Connection], _Result]:
    """A check that passes if a query for the keys of faulty rows finds none."""

    def check(conn: Connection) -> _Result:
        number, first = conn.exec_driver_sql(f"SELECT count(*), min(key) FROM ({sql}) AS found").one()
        return (outcome, f"{number} {what}, {first} for one") if number else (Severity.OK, otherwise)

    return check


_RETAINED = "FROM sessions AS s JOIN messages AS m ON m.session_key = s.key GROUP BY s.key"

# Between two messages that are there, in the archive too, or between the last one and the counter. What an append
# trims has numbers up to last_seq - message_cap; of these only a session that archives has anything to show.
_GAPS = """
SELECT key, before + 1, seq - 1 FROM (
  SELECT key, seq, is_archived, lag(seq) OVER numbered AS before, lag(is_archived) OVER numbered AS after_archived
  FROM (
    SELECT session_key AS key, seq, 0 AS is_archived FROM messages
    UNION ALL SELECT session_key, seq, 1 FROM archived_messages
    UNION ALL SELECT key, CASE WHEN last_seq > message_cap THEN last_seq - message_cap ELSE 0 END, 1 - archive_trimmed
    FROM sessions
    UNION ALL SELECT key, last_seq + 1, 0 FROM sessions
  ) AS there
  WINDOW numbered AS (PARTITION BY key ORDER BY seq, is_archived)
) AS compared
WHERE seq > before + 1
ORDER BY key, seq"""

_EXPLANATIONS = """
SELECT session_key, coalesce(first_seq, 1), coalesce(last_seq, message_count) FROM session_events AS e
WHERE (event = 'messages_removed' OR event = 'created' AND message_count > 0) AND NOT EXISTS (
  SELECT 1 FROM session_events AS d WHERE d.session_key = e.session_key AND d.event = 'deleted' AND d.id > e.id
)
ORDER BY session_key, 2"""


def _gaps(conn: Connection) -> _Result:
    explained: dict[str, list[tuple[int, int]]] = {}
    for key, first, last in conn.exec_driver_sql(_EXPLANATIONS):
        explained.setdefault(key, []).append((first, last))
    missing, first_key = 0, ""
    for key, start, until in conn.exec_driver_sql(_GAPS):
        number = start
        for first, last in [*explained.get(key, ()), (until + 1, until)]:
            lacking = min(first - 1, until) - number + 1
            if lacking > 0:
                missing, first_key = missing + lacking, first_key or f"{number} of {key}"
            number = max(number, last + 1)
    if missing:
        return Severity.WARNING, f"{missing} messages are gone and the log does not say why, number {first_key} for one"
    return Severity.OK, "the log explains every number that no message has"


_CONTENT: dict[str, Callable[[Connection], _Result]] = {
    "cap": _counted(
        "sessions retain more messages than their message_cap",
        f"SELECT s.key {_RETAINED} HAVING count(*) > s.message_cap",
        Severity.FAILURE,
        "no session retains more messages than its message_cap",
    ),
    "counters": _counted(
        "sessions have a message beyond last_seq or after last_activity_ms",
        f"SELECT s.key {_RETAINED} HAVING max(m.seq) > s.last_seq OR max(m.timestamp_ms) > s.last_activity_ms",
        Severity.FAILURE,
        "last_seq and last_activity_ms agree with the messages",
    ),
    "gaps": _gaps,
    "orphans": _counted(
        "rows belong to no session",
        " UNION ALL ".join(
            f"SELECT session_key AS key FROM {table} WHERE NOT EXISTS (SELECT 1 FROM sessions WHERE key = session_key)"
            for table in ("messages", "archived_messages", "labels")
        ),
        Severity.FAILURE,
        "every message and label belongs to a session",
    ),
    "log": _counted(
        "sessions are not as the log has it: somebody kept a change out of it",
        # Only what was made after the oldest event must be in the log: older events may have expired.
        """
        SELECT s.key FROM sessions AS s WHERE s.status <> coalesce(
          (
            SELECT coalesce(to_status, event) FROM session_events
            WHERE session_key = s.key AND event IN ('created', 'status_changed', 'deleted') ORDER BY id DESC LIMIT 1
          ),
          CASE WHEN s.created_ms > (SELECT min(at_ms) FROM session_events) THEN 'not logged' ELSE s.status END
        )
        UNION
        SELECT e.session_key FROM session_events AS e
        WHERE e.label IS NULL AND e.session_key IS NOT NULL
          AND NOT EXISTS (SELECT 1 FROM sessions WHERE key = e.session_key)
          AND NOT EXISTS (
            SELECT 1 FROM session_events AS d
            WHERE d.session_key = e.session_key AND d.event = 'deleted' AND d.id >= e.id
          )
        """,
        Severity.WARNING,
        "every session has the status that the log says, and none is gone without an entry",
    ),
    "labels": _counted(
        "labels point to a session that was given another",
        "SELECT l.session_key AS key FROM labels AS l JOIN sessions AS s ON s.key = l.session_key"
        " WHERE s.label IS NULL OR s.label <> l.label",
        Severity.WARNING,
        "every label points to a session that was given it",
    ),
}

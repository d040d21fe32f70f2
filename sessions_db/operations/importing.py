"""Writing many exported sessions at once, each table in one statement."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from operator import attrgetter
from typing import Any, Final

from sqlalchemy import (
    ClauseElement,
    ColumnElement,
    Connection,
    Table,
    Text,
    cast,
    exists,
    select,
)

from sessions_db.database.statement import Statement
from sessions_db.models import ExportedSession
from sessions_db.operations.labels import take_over
from sessions_db.operations.operation import Needs, needs
from sessions_db.operations.transferring import MESSAGE_FIELDS, SESSION_FIELDS, first_counter, write
from sessions_db.schema import (
    bound_rows_values,
    has_bound_rows,
    insert_into,
    json_rows,
    labels,
    messages,
    sessions,
    text_rows,
    to_json,
)

_MESSAGE_FIELDS: Final = [name for name in MESSAGE_FIELDS if name in messages.c]
_MESSAGE_COLUMNS: Final = ["session_key", *_MESSAGE_FIELDS]
_ARCHIVE_TRIMMED: Final = SESSION_FIELDS.index("archive_trimmed")
_LAST_SEQ: Final = SESSION_FIELDS.index("last_seq")
_of_session = attrgetter(*SESSION_FIELDS)
_of_message = attrgetter(*_MESSAGE_FIELDS)

# How many sessions one statement writes, and how large they may be: larger ones gain nothing, and as JSON, a text may
# take six times its size in memory.
_MOST_SESSIONS: Final = 100
_MOST_CHARACTERS: Final = 1_000_000

# How many rows of parameters a statement has, where it has them: twice as many were no faster.
_BOUND_ROWS: Final = 16


@needs(Needs.TRANSACTION)
def write_all(conn: Connection, batch: Sequence[ExportedSession]) -> list[bool]:
    """For each session, whether this call stored it; False if it was there already.

    Raises:
        InvalidInput: another session has a session's key or run id.
    """
    ordinary = [session for session in batch if _is_ordinary(session)] if _is_without_repeats(batch) else []
    stored: set[str] = set()
    for start in range(0, len(ordinary), _MOST_SESSIONS):
        stored |= _write_together(conn, ordinary[start : start + _MOST_SESSIONS])
    return [session.key in stored or write(conn, session) for session in batch]


def _is_without_repeats(batch: Sequence[ExportedSession]) -> bool:
    run_ids = [session.run_id for session in batch if session.run_id is not None]
    owned = [label for session in batch for label, _ in session.labels]
    return all(len({*values}) == len(values) for values in ([session.key for session in batch], run_ids, owned))


def _is_ordinary(session: ExportedSession) -> bool:
    """Whether the session is small, and its messages are the newest, without gaps."""
    retained = session.messages
    if session.archived_messages or (
        retained and not retained[-1].seq == session.last_seq == retained[0].seq + len(retained) - 1
    ):
        return False
    texts = [session.task, session.end_reason, session.metadata]
    for message in retained:
        texts += message.content, message.metadata
    return sum(len(text) for text in texts if text is not None) <= _MOST_CHARACTERS


def _write_together(conn: Connection, batch: Sequence[ExportedSession]) -> set[str]:
    """The keys of those that are stored; with each of the others, another session's key or run id is in the way."""
    stored = {key for (key,) in _send(conn, _SESSIONS, [_row(session) for session in batch])}
    made = [session for session in batch if session.key in stored]
    with_messages = [session for session in made if session.messages]
    if with_messages:
        _send(
            conn,
            _MESSAGES,
            [(session.key, *_of_message(message)) for session in with_messages for message in session.messages],
        )
    owned = [(label, session.key, at_ms) for session in made for label, at_ms in session.labels]
    if owned:
        free = {label for (label,) in _send(conn, _LABELS, owned)}
        for label, key, at_ms in owned:
            if label not in free:
                take_over(conn, label, key, at_ms, only_from_older=True)
    return stored


def _row(session: ExportedSession) -> list[Any]:
    row = [*_of_session(session)]
    row[_ARCHIVE_TRIMMED] = int(session.archive_trimmed)
    row[_LAST_SEQ] = first_counter(session)
    return row


def _send(conn: Connection, statement: Statement, rows: Sequence[Sequence[Any]]) -> list[Sequence[Any]]:
    """What the statement returns for these rows, of which there is at least one."""
    if not has_bound_rows(conn.dialect.name):
        return [*statement.rows(conn, {"rows": to_json(rows)})]
    found: list[Sequence[Any]] = []
    for start in range(0, len(rows), _BOUND_ROWS):
        part = rows[start : start + _BOUND_ROWS]
        found += statement.rows(conn, {}, bound_rows_values(count(), part, _BOUND_ROWS))
    return found


class _Given:
    """The rows that a statement is given: the values of these columns, and the query for all of them."""

    def __init__(self, dialect: str, table: Table, names: Sequence[str]) -> None:
        self.values: list[ColumnElement[Any]] = []
        if has_bound_rows(dialect):
            bound = text_rows(dialect, names, _BOUND_ROWS)
            self.values += bound.texts.values()
            self.query = select(*self.values).where(bound.number.is_not(None))
            return
        rows, _, value = json_rows(dialect, "rows")
        for position, name in enumerate(names):
            column = table.c[name]
            is_text = isinstance(column.type, Text)
            self.values.append(value(position) if is_text else cast(value(position), column.type))
        self.query = select(*self.values).select_from(rows)


def _insert_sessions(dialect: str) -> ClauseElement:
    given = _Given(dialect, sessions, SESSION_FIELDS)
    key, run_id = (given.values[SESSION_FIELDS.index(name)] for name in ("key", "run_id"))
    # SQLite's triggers refuse a conflict before ON CONFLICT sees it; there, no writer comes in between.
    free = ~exists().where(sessions.c.key == key), ~exists().where(sessions.c.run_id == run_id)
    insert = insert_into(dialect, sessions).from_select(SESSION_FIELDS, given.query.where(*free))
    return insert.on_conflict_do_nothing().returning(sessions.c.key)


def _insert_messages(dialect: str) -> ClauseElement:
    given = _Given(dialect, messages, _MESSAGE_COLUMNS)
    return insert_into(dialect, messages).from_select(_MESSAGE_COLUMNS, given.query)


def _insert_labels(dialect: str) -> ClauseElement:
    given = _Given(dialect, labels, labels.c.keys())
    free = given.query.where(~exists().where(labels.c.label == given.values[0]))
    insert = insert_into(dialect, labels).from_select(labels.c.keys(), free)
    return insert.on_conflict_do_nothing(index_elements=[labels.c.label]).returning(labels.c.label)


_SESSIONS = Statement(_insert_sessions)
_MESSAGES = Statement(_insert_messages)
_LABELS = Statement(_insert_labels)

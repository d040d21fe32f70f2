"""Redacting and removing messages. The triggers log it, and refuse any other change."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ClauseElement, ColumnElement, Connection, Table, select, union_all, update

from sessions_db.database.statement import Statement
from sessions_db.errors import InvalidInput
from sessions_db.limits import REDACTED
from sessions_db.models import Message
from sessions_db.operations.operation import Needs, needs
from sessions_db.operations.reading import locked
from sessions_db.operations.rows import ARCHIVED_COLUMNS, MESSAGE_COLUMNS, archived_of, messages_of
from sessions_db.schema import REDACT, REMOVE, archived_messages, messages, sessions, to_json


def _statement(sent: ClauseElement) -> Statement:
    return Statement(lambda _: sent)


_REDACT = {dialect: [*map(_statement, statements)] for dialect, statements in REDACT.items()}
_REMOVE = Statement(lambda dialect: REMOVE[dialect])


@needs(Needs.TRANSACTION)
def redact(conn: Connection, key: str, seq: int, reason: str) -> Message | None:
    """The message, live or archived, as it is afterwards; None if there is no such session.

    Raises:
        InvalidInput: the session has no such message.
    """
    # The lock keeps an append from moving the message to the archive meanwhile.
    if locked(conn, key) is None:
        return None
    _redact_task(conn, key, seq)
    mark = to_json({"redacted": reason})
    for statement in _REDACT[conn.dialect.name]:
        statement.rows(conn, {"key": key, "seq": seq, "mark": mark})
    for row in conn.execute(_numbered(messages, MESSAGE_COLUMNS, key, seq)):
        return messages_of([row])[0]
    for row in conn.execute(_numbered(archived_messages, ARCHIVED_COLUMNS, key, seq)):
        return archived_of([row])[0]
    raise InvalidInput("seq", "must be the number of a message that is stored", seq)


def _redact_task(conn: Connection, key: str, seq: int) -> None:
    """Take the message's text out of the session's task, if that is all the task says: an import copies it there."""
    said = union_all(
        *(select(table.c.content).where(*_number(table, key, seq)) for table in (messages, archived_messages))
    )
    conn.execute(
        update(sessions)
        .where(sessions.c.key == key, sessions.c.task != "", sessions.c.task.in_(said))
        .values(task=REDACTED)
    )


@needs(Needs.TRANSACTION)
def pop(conn: Connection, key: str, count: int | None) -> list[Message] | None:
    """The newest retained messages, oldest first, which are retained no more; None if there is no such session."""
    if locked(conn, key) is None:
        return None
    query = select(*MESSAGE_COLUMNS).where(messages.c.session_key == key).order_by(messages.c.seq.desc()).limit(count)
    popped = messages_of(reversed(conn.execute(query).all()))
    if popped:
        _REMOVE.rows(conn, {"key": key, "first_seq": popped[0].seq, "last_seq": popped[-1].seq})
    return popped


def _numbered(table: Table, columns: tuple[ColumnElement[Any], ...], key: str, seq: int) -> Any:
    return select(*columns).where(*_number(table, key, seq))


def _number(table: Table, key: str, seq: int) -> tuple[ColumnElement[bool], ...]:
    return table.c.session_key == key, table.c.seq == seq

"""Reading whole sessions out of one database and writing them into another, with everything stored about them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, fields, replace
from itertools import groupby
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Insert,
    Select,
    Table,
    Text,
    and_,
    bindparam,
    cast,
    insert,
    null,
    or_,
    select,
    union_all,
    update,
)

from sessions_db.database.statement import Statement
from sessions_db.errors import InvalidInput, Shown
from sessions_db.models import ExportedMessage, ExportedSession
from sessions_db.operations.labels import take_over
from sessions_db.operations.operation import Needs, needs
from sessions_db.operations.rows import as_read
from sessions_db.operations.selecting import Selection
from sessions_db.schema import SKIP, WRITE_ARCHIVED, Json, archived_messages, insert_if_free, labels, messages, sessions

SESSION_FIELDS = [field.name for field in fields(ExportedSession) if field.name in sessions.c]
MESSAGE_FIELDS = [field.name for field in fields(ExportedMessage)]


@needs(Needs.SNAPSHOT)
def export(
    conn: Connection, selection: Selection, *, after: ExportedSession | None, limit: int
) -> list[ExportedSession]:
    """The selected sessions, oldest first, ties broken by the bytes of the key."""
    query = _sessions().where(*selection.conditions())
    if after is not None:
        # The first condition lets an index scan start here.
        later = or_(sessions.c.created_ms > after.created_ms, sessions.c.key > after.key)
        query = query.where(and_(sessions.c.created_ms >= after.created_ms, later))
    found = _read(conn, query.order_by(sessions.c.created_ms, sessions.c.key).limit(limit))
    return [_with_messages(conn, session) for session in found]


@needs(Needs.TRANSACTION)
def write(conn: Connection, session: ExportedSession) -> bool:
    """Whether this call stored the session; False if it was there already.

    A label that another session owns is taken over if that one has had it for longer.

    Raises:
        InvalidInput: another session has its key or its run id.
    """
    if session.run_id is not None:
        owner = select(sessions.c.key).where(sessions.c.run_id == session.run_id, sessions.c.key != session.key)
        if conn.execute(owner).first() is not None:
            raise InvalidInput("run_id", "must not be that of another session", Shown(repr(session.run_id)))
    if not _insert(conn, session):
        there = [_with_messages(conn, found) for found in _read(conn, _sessions().where(_is(session.key)))]
        # Other sessions may have taken its labels since.
        if [replace(found, labels=session.labels) for found in there] == [session]:
            return False
        in_full = Shown(repr(session.key))
        raise InvalidInput("key", "must not be that of a session that is there with other content", in_full)
    if session.archived_messages:
        rows = [asdict(message) for message in session.archived_messages]
        _WRITE_ARCHIVED.rows(conn, {"key": session.key, "rows": json.dumps(rows, ensure_ascii=False)})
    # The trigger accepts only the number that follows the counter.
    last_seq = first_counter(session)
    for run in _runs(session.messages):
        _skip(conn, session.key, last_seq, run[0].seq - 1)
        conn.execute(_WRITE, [_row(session.key, message) for message in run])
        last_seq = run[-1].seq
    _skip(conn, session.key, last_seq, session.last_seq)
    if session.messages:
        activity = update(sessions).where(_is(session.key)).values(last_activity_ms=session.last_activity_ms)
        conn.execute(activity)
    for label, assigned_ms in session.labels:
        take_over(conn, label, session.key, assigned_ms, only_from_older=True)
    return True


def first_counter(session: ExportedSession) -> int:
    """The `last_seq` with which the session is made, so that its first message follows."""
    return session.messages[0].seq - 1 if session.messages else session.last_seq


def _skip(conn: Connection, key: str, from_seq: int, to_seq: int) -> None:
    if to_seq > from_seq:
        _SKIP.rows(conn, {"key": key, "new_last_seq": to_seq})


_SKIP = Statement(lambda dialect: SKIP[dialect])
_WRITE_ARCHIVED = Statement(lambda dialect: WRITE_ARCHIVED[dialect])


def _insert(conn: Connection, session: ExportedSession) -> bool:
    row: dict[str, Any] = {f"new_{name}": getattr(session, name) for name in SESSION_FIELDS}
    row["new_archive_trimmed"] = int(session.archive_trimmed)
    row["new_last_seq"] = first_counter(session)
    return bool(_INSERT.rows(conn, row))


_INSERT = Statement(lambda dialect: insert_if_free(dialect, sessions.c.key, SESSION_FIELDS))


def _is(key: str) -> ColumnElement[bool]:
    return sessions.c.key == key


def _sessions() -> Select[Any]:
    return select(*(as_read(sessions, name) for name in SESSION_FIELDS))


def _read(conn: Connection, query: Select[Any]) -> list[ExportedSession]:
    """The sessions with their labels, without their messages."""
    rows = conn.execute(query).mappings().all()
    owned: dict[str, list[tuple[str, int]]] = {row["key"]: [] for row in rows}
    for key, label, assigned_ms in conn.execute(
        select(labels.c.session_key, labels.c.label, labels.c.assigned_ms).where(labels.c.session_key.in_(owned))
    ):
        owned[key].append((label, assigned_ms))
    return [
        ExportedSession(
            **{
                **row,
                "archive_trimmed": bool(row["archive_trimmed"]),
                "labels": tuple(sorted(owned[row["key"]])),
            }
        )
        for row in rows
    ]


def _with_messages(conn: Connection, session: ExportedSession) -> ExportedSession:
    rows = _MESSAGES.rows(conn, {"key": session.key})
    found = [ExportedMessage(**dict(zip(MESSAGE_FIELDS, row, strict=True))) for row in rows]
    return replace(
        session,
        messages=tuple(message for message in found if message.archived_ms is None),
        archived_messages=tuple(message for message in found if message.archived_ms is not None),
    )


def _messages(_dialect: str) -> Any:
    def rows(table: Table) -> Select[Any]:
        columns = (
            as_read(table, name) if name in table.c else cast(null(), BigInteger).label(name) for name in MESSAGE_FIELDS
        )
        return select(*columns).where(table.c.session_key == bindparam("key"))

    return union_all(rows(messages), rows(archived_messages)).order_by("seq")


_MESSAGES = Statement(_messages)


def _write(table: Table) -> Insert:
    # With RETURNING, SQLAlchemy sends many rows as one statement, and on Postgres the trigger fires once for all.
    metadata = cast(bindparam("metadata_text", type_=Text), Json)
    return insert(table).values(metadata=metadata).returning(table.c.seq)


_WRITE = _write(messages)


def _row(key: str, message: ExportedMessage) -> dict[str, object]:
    row = {name: getattr(message, name) for name in MESSAGE_FIELDS}
    row["session_key"] = key
    row["metadata_text"] = row.pop("metadata")
    del row["archived_ms"]
    return row


def _runs(ordered: Iterable[ExportedMessage]) -> Iterator[Sequence[ExportedMessage]]:
    """The messages in runs of consecutive numbers."""
    for _, run in groupby(enumerate(ordered), lambda numbered: numbered[1].seq - numbered[0]):
        yield [message for _, message in run]

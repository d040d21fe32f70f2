"""Reading messages, retained and archived."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Connection, bindparam, func, select

from sessions_db.database.statement import Statement
from sessions_db.enums import Role
from sessions_db.limits import MAX_INTEGER
from sessions_db.models import Archive, Message
from sessions_db.operations.operation import Needs, needs
from sessions_db.operations.reading import status_of
from sessions_db.operations.rows import ARCHIVED_COLUMNS, MESSAGE_COLUMNS, archived_of, messages_of
from sessions_db.schema import archived_messages, messages


@needs(Needs.READ)
def history(conn: Connection, key: str, *, limit: int | None, include_tools: bool) -> list[Message] | None:
    """The newest retained messages, oldest first. A second statement only if there are none."""
    query = _HISTORY if include_tools else _HISTORY_WITHOUT_TOOLS
    rows: Sequence[Any] = ()
    if limit != 0:
        rows = query.rows(conn, {"key": key, "limit": MAX_INTEGER if limit is None else limit})
    if not rows and status_of(conn, key) is None:
        return None
    return messages_of(reversed(rows))


@needs(Needs.READ)
def archived(conn: Connection, key: str, *, limit: int | None) -> list[Message] | None:
    """The newest archived messages, oldest first. A second statement only if there are none."""
    table = archived_messages.c
    query = select(*ARCHIVED_COLUMNS).where(table.session_key == key).order_by(table.seq.desc()).limit(limit)
    rows = conn.execute(query).all()
    if not rows and status_of(conn, key) is None:
        return None
    return archived_of(reversed(rows))


@needs(Needs.READ)
def archives(conn: Connection, *, limit: int) -> list[Archive]:
    """The sessions with archived messages, those with the most first."""
    table = archived_messages.c
    count = func.count().label("count")
    query = (
        select(table.session_key, count, func.min(table.seq).label("first_seq"), func.max(table.seq).label("last_seq"))
        .group_by(table.session_key)
        .order_by(count.desc(), table.session_key)
        .limit(limit)
    )
    return [Archive(**row) for row in conn.execute(query).mappings()]


def _history(*conditions: ColumnElement[bool]) -> Statement:
    return Statement(
        lambda _: (
            select(*MESSAGE_COLUMNS)
            .where(messages.c.session_key == bindparam("key"), *conditions)
            .order_by(messages.c.seq.desc())
            .limit(bindparam("limit", type_=BigInteger))
        )
    )


_HISTORY = _history()
_HISTORY_WITHOUT_TOOLS = _history(messages.c.role != Role.TOOL.value)

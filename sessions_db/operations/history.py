"""Reading messages, retained and archived."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from sqlalchemy import (
    BigInteger,
    ClauseElement,
    ColumnElement,
    CompoundSelect,
    Connection,
    Select,
    Table,
    bindparam,
    func,
    literal_column,
    null,
    select,
    union_all,
)

from sessions_db.database.statement import Statement
from sessions_db.enums import Role
from sessions_db.limits import MAX_INTEGER
from sessions_db.models import Archive, Message
from sessions_db.operations.operation import Needs, needs
from sessions_db.operations.reading import status_of
from sessions_db.operations.rows import (
    ARCHIVED_COLUMNS,
    MESSAGE_COLUMNS,
    archived_of,
    as_read,
    messages_of,
    metadata_by_seq,
)
from sessions_db.schema import archived_messages, messages


@needs(Needs.READ)
def history(
    conn: Connection,
    key: str,
    *,
    limit: int | None,
    include_tools: bool,
    after_seq: int | None,
    before_seq: int | None,
    archived: bool,
) -> list[Message] | None:
    """A page of messages, oldest first. A second statement only if there are none."""
    query = _page(
        include_tools=include_tools, after=after_seq is not None, before=before_seq is not None, archived=archived
    )
    rows: Sequence[Any] = ()
    if limit != 0:
        parameters: dict[str, object] = {"key": key, "limit": MAX_INTEGER if limit is None else limit}
        if after_seq is not None:
            parameters["after_seq"] = after_seq
        if before_seq is not None:
            parameters["before_seq"] = before_seq
        rows = query.rows(conn, parameters)
    if not rows and status_of(conn, key) is None:
        return None
    if after_seq is None:
        rows = rows[::-1]
    return archived_of(rows) if archived else messages_of(rows)


@needs(Needs.READ)
def metadata(conn: Connection, key: str, *, limit: int | None) -> list[tuple[int, Any]] | None:
    """The numbers of the newest messages and their metadata, oldest first; None if one of them has none.

    For those who keep all in it: a read of 50 from SQLite takes half the time of their other columns as well (measured
    once).
    """
    rows = _METADATA.rows(conn, {"key": key, "limit": MAX_INTEGER if limit is None else limit})
    return metadata_by_seq(rows[::-1])


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


_METADATA = Statement(
    lambda _: (
        select(messages.c.seq, as_read(messages, "metadata"))
        .where(messages.c.session_key == bindparam("key"))
        .order_by(messages.c.seq.desc())
        .limit(bindparam("limit", type_=BigInteger))
    )
)


@cache
def _page(*, include_tools: bool, after: bool, before: bool, archived: bool) -> Statement:
    def of(table: Table, columns: Sequence[ColumnElement[Any]]) -> Select[Any]:
        query = select(*columns).where(table.c.session_key == bindparam("key"))
        if not include_tools:
            query = query.where(table.c.role != Role.TOOL.value)
        if after:
            query = query.where(table.c.seq > bindparam("after_seq", type_=BigInteger))
        return query.where(table.c.seq < bindparam("before_seq", type_=BigInteger)) if before else query

    def build(_dialect: str) -> ClauseElement:
        query: Select[Any] | CompoundSelect[Any] = of(messages, MESSAGE_COLUMNS)
        if archived:
            # Both in the order of their primary keys, which the databases merge, reading no more than the page.
            retained = of(messages, (*MESSAGE_COLUMNS, null().cast(BigInteger).label("archived_ms")))
            query = union_all(retained, of(archived_messages, ARCHIVED_COLUMNS))
        seq: ColumnElement[int] = literal_column("seq")
        return query.order_by(seq if after else seq.desc()).limit(bindparam("limit", type_=BigInteger))

    return Statement(build)

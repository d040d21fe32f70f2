"""Reading whole sessions out of one database and writing them into another, with all that is stored of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Select,
    Text,
    and_,
    bindparam,
    cast,
    func,
    insert,
    literal,
    null,
    or_,
    select,
    union_all,
    update,
)

from sessions_db.errors import InvalidInput
from sessions_db.models import SessionKind, SessionStatus
from sessions_db.operations.rendered import Rendered
from sessions_db.schema import Json, archived_messages, insert_into, labels, messages, sessions

_PAGE = 100


@dataclass(frozen=True, slots=True)
class WholeMessage:
    """A stored message; `metadata` is JSON text on one line, `archived_ms` is None for one that is retained."""

    seq: int
    role: str
    content: str
    tool_name: str | None
    metadata: str | None
    timestamp_ms: int
    idempotency_key: str | None
    archived_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeSession:
    """All that is stored of a session; `metadata` is JSON text on one line.

    `labels` are those that it owns, each with the time when it got it. Messages come by their numbers.
    """

    key: str
    agent_id: str
    kind: str
    status: str
    label: str | None
    task: str | None
    run_id: str | None
    parent_key: str | None
    created_ms: int
    finished_ms: int | None
    end_reason: str | None
    metadata: str | None
    message_cap: int
    archive_trimmed: bool
    message_count: int
    last_activity_ms: int
    labels: Sequence[tuple[str, int]] = field(default=())
    messages: Sequence[WholeMessage] = field(default=())
    archived_messages: Sequence[WholeMessage] = field(default=())


def on_one_line(metadata: str | None) -> str | None:
    """The same JSON without line breaks, and without blanks around it."""
    # They can only stand between tokens: within a string they are escapes. Only SQL past the library writes them.
    return None if metadata is None else metadata.replace("\n", " ").replace("\r", " ").strip(" \t")


class Selection:
    """The sessions that pass each filter given, read a page at a time in an order that both databases have.

    All of it needs a transaction that sees one moment.
    """

    def __init__(
        self,
        *,
        agent_id: str | None = None,
        kinds: Collection[SessionKind] | None = None,
        statuses: Collection[SessionStatus] | None = None,
    ) -> None:
        self._conditions: list[ColumnElement[bool]] = []
        if agent_id is not None:
            self._conditions.append(sessions.c.agent_id == agent_id)
        if kinds is not None:
            self._conditions.append(sessions.c.kind.in_(kinds))
        if statuses is not None:
            self._conditions.append(sessions.c.status.in_(statuses))

    def count(self, conn: Connection) -> int:
        """How many sessions there are."""
        return conn.execute(select(func.count()).select_from(sessions).where(*self._conditions)).scalar_one()

    def read(self, conn: Connection) -> Iterator[WholeSession]:
        """The sessions, the oldest first, those of one millisecond by the bytes of their keys."""
        page = _sessions().where(*self._conditions).order_by(sessions.c.created_ms, sessions.c.key).limit(_PAGE)
        found = _read(conn, page)
        while found:
            yield from (_with_messages(conn, session) for session in found)
            last = found[-1]
            after = or_(sessions.c.created_ms > last.created_ms, sessions.c.key > last.key)
            # The first condition is what an index can be entered by.
            found = _read(conn, page.where(and_(sessions.c.created_ms >= last.created_ms, after)))


def write(conn: Connection, session: WholeSession) -> bool:
    """Whether the session was stored now, and not there already. Needs a transaction.

    A label that another session owns is taken over if that one has had it for longer.

    Raises:
        InvalidInput: another session has its key or its run id.
    """
    if session.run_id is not None:
        owner = select(sessions.c.key).where(sessions.c.run_id == session.run_id, sessions.c.key != session.key)
        if conn.execute(owner).first() is not None:
            raise InvalidInput("run_id", "must not be that of another session", repr(session.run_id))
    if not _insert(conn, session):
        there = [_with_messages(conn, found) for found in _read(conn, _sessions().where(_is(session.key)))]
        # Since then its labels may have gone to others.
        if [replace(found, labels=session.labels) for found in there] == [session]:
            return False
        raise InvalidInput("key", "must not be that of a session that is there with other content", repr(session.key))
    if session.archived_messages:
        rows = [_row(session.key, message, archived=True) for message in session.archived_messages]
        conn.execute(_WRITE_ARCHIVED, rows)
    for run in _runs(session.messages):
        # The trigger takes no number but the one that goes on from the counter.
        conn.execute(update(sessions).where(_is(session.key)).values(last_seq=run[0].seq - 1))
        conn.execute(_WRITE, [_row(session.key, message) for message in run])
    counters = {"last_seq": session.message_count, "last_activity_ms": session.last_activity_ms}
    conn.execute(update(sessions).where(_is(session.key)).values(counters))
    for label, assigned_ms in session.labels:
        own = insert_into(conn.dialect.name, labels).values(
            label=label, session_key=session.key, assigned_ms=assigned_ms
        )
        conn.execute(
            own.on_conflict_do_update(
                index_elements=[labels.c.label],
                set_={"session_key": own.excluded.session_key, "assigned_ms": own.excluded.assigned_ms},
                where=labels.c.assigned_ms < own.excluded.assigned_ms,
            )
        )
    return True


def _insert(conn: Connection, session: WholeSession) -> bool:
    row = insert_into(conn.dialect.name, sessions).values(
        key=session.key,
        agent_id=session.agent_id,
        kind=session.kind,
        status=session.status,
        label=session.label,
        task=session.task,
        run_id=session.run_id,
        parent_key=session.parent_key,
        created_ms=session.created_ms,
        finished_ms=session.finished_ms,
        end_reason=session.end_reason,
        metadata=cast(literal(session.metadata, Text), Json),
        message_cap=session.message_cap,
        archive_trimmed=int(session.archive_trimmed),
        last_seq=session.message_count,
        last_activity_ms=session.last_activity_ms,
    )
    new = row.on_conflict_do_nothing(index_elements=[sessions.c.key]).returning(sessions.c.key)
    return conn.execute(new).first() is not None


def _is(key: str) -> ColumnElement[bool]:
    return sessions.c.key == key


def _sessions() -> Select[Any]:
    return select(
        sessions.c.key,
        sessions.c.agent_id,
        sessions.c.kind,
        sessions.c.status,
        sessions.c.label,
        sessions.c.task,
        sessions.c.run_id,
        sessions.c.parent_key,
        sessions.c.created_ms,
        sessions.c.finished_ms,
        sessions.c.end_reason,
        cast(sessions.c.metadata, Text).label("metadata"),
        sessions.c.message_cap,
        sessions.c.archive_trimmed,
        sessions.c.last_seq.label("message_count"),
        sessions.c.last_activity_ms,
    )


def _read(conn: Connection, query: Select[Any]) -> list[WholeSession]:
    """The sessions with their labels, without their messages."""
    rows = conn.execute(query).mappings().all()
    owned: dict[str, list[tuple[str, int]]] = {row["key"]: [] for row in rows}
    for key, label, assigned_ms in conn.execute(
        select(labels.c.session_key, labels.c.label, labels.c.assigned_ms).where(labels.c.session_key.in_(owned))
    ):
        owned[key].append((label, assigned_ms))
    return [
        WholeSession(
            **{
                **row,
                "metadata": on_one_line(row["metadata"]),
                "archive_trimmed": bool(row["archive_trimmed"]),
                "labels": tuple(sorted(owned[row["key"]])),
            }
        )
        for row in rows
    ]


def _with_messages(conn: Connection, session: WholeSession) -> WholeSession:
    rows = _MESSAGES.rows(conn, {"key": session.key})
    found = [WholeMessage(*[*row[:4], on_one_line(row[4]), *row[5:]]) for row in rows]
    return replace(
        session,
        messages=tuple(message for message in found if message.archived_ms is None),
        archived_messages=tuple(message for message in found if message.archived_ms is not None),
    )


def _messages(_dialect: str) -> Any:
    def columns(table: Any) -> list[ColumnElement[Any]]:
        # In the order of the fields of `WholeMessage`.
        return [
            table.c.seq,
            table.c.role,
            table.c.content,
            table.c.tool_name,
            cast(table.c.metadata, Text).label("metadata"),
            table.c.timestamp_ms,
            table.c.idempotency_key,
        ]

    retained = select(*columns(messages), cast(null(), BigInteger).label("archived_ms"))
    archived = select(*columns(archived_messages), archived_messages.c.archived_ms)
    return union_all(
        retained.where(messages.c.session_key == bindparam("key")),
        archived.where(archived_messages.c.session_key == bindparam("key")),
    ).order_by("seq")


_MESSAGES = Rendered(_messages)


# With RETURNING, SQLAlchemy sends many rows as one statement: on Postgres the trigger then fires once for all of them.
_WRITE = insert(messages).values(metadata=cast(bindparam("metadata_text", type_=Text), Json)).returning(messages.c.seq)
_WRITE_ARCHIVED = (
    insert(archived_messages)
    .values(metadata=cast(bindparam("metadata_text", type_=Text), Json))
    .returning(archived_messages.c.seq)
)


def _row(key: str, message: WholeMessage, *, archived: bool = False) -> dict[str, object]:
    row: dict[str, object] = {
        "session_key": key,
        "seq": message.seq,
        "role": message.role,
        "content": message.content,
        "tool_name": message.tool_name,
        "metadata_text": message.metadata,
        "timestamp_ms": message.timestamp_ms,
        "idempotency_key": message.idempotency_key,
    }
    return {**row, "archived_ms": message.archived_ms} if archived else row


def _runs(ordered: Iterable[WholeMessage]) -> Iterator[list[WholeMessage]]:
    """The messages in runs without a gap in their numbers."""
    for _, run in groupby(enumerate(ordered), lambda numbered: numbered[1].seq - numbered[0]):
        yield [message for _, message in run]

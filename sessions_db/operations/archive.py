"""Reading what was archived."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, Text, cast, func, select

from sessions_db.models import Message
from sessions_db.operations.reading import messages_of
from sessions_db.schema import archived_messages
from sessions_db.validation import JsonValue


@dataclass(frozen=True, slots=True)
class Archive:
    """How many messages of a session are archived, and from which to which number."""

    session_key: str
    count: int
    first_seq: int
    last_seq: int

    def to_dict(self) -> dict[str, JsonValue]:
        """The counts as camelCase JSON."""
        return {
            "sessionKey": self.session_key,
            "count": self.count,
            "firstSeq": self.first_seq,
            "lastSeq": self.last_seq,
        }


def archives(conn: Connection, limit: int) -> list[Archive]:
    """The sessions with archived messages, those with the most first."""
    table = archived_messages.c
    count = func.count().label("count")
    query = select(table.session_key, count, func.min(table.seq), func.max(table.seq)).group_by(table.session_key)
    return [Archive(*row) for row in conn.execute(query.order_by(count.desc(), table.session_key).limit(limit))]


def archived_messages_of(conn: Connection, key: str, limit: int) -> list[tuple[Message, int]]:
    """The newest archived messages of a session, oldest first, each with the time when it was archived."""
    table = archived_messages.c
    query = (
        select(
            table.seq,
            table.role,
            table.content,
            table.timestamp_ms,
            table.tool_name,
            cast(table.metadata, Text),
            table.archived_ms,
        )
        .where(table.session_key == key)
        .order_by(table.seq.desc())
        .limit(limit)
    )
    rows = conn.execute(query).all()[::-1]
    return list(zip(messages_of(row[:-1] for row in rows), (row.archived_ms for row in rows), strict=True))

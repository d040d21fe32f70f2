"""What those who wait ask: whether sessions have newer messages, or have ended."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import NamedTuple

from sqlalchemy import BigInteger, ClauseElement, Connection, and_, bindparam, or_, select

from sessions_db.database.statement import Statement
from sessions_db.enums import SessionStatus
from sessions_db.models import Message, Session
from sessions_db.operations.operation import Needs, needs
from sessions_db.operations.rows import MESSAGE_COLUMNS, SESSION_COLUMNS, messages_of, sessions_of, status_from
from sessions_db.schema import is_one_of, json_pairs, messages, sessions


class News(NamedTuple):
    """A session's status, the number of its last message, and its messages after some number."""

    status: SessionStatus
    last_seq: int
    messages: list[Message]


class Change(NamedTuple):
    """A session that has newer messages or has ended; without a last number and a status, it is gone."""

    key: str
    last_seq: int | None
    status: str | None


@needs(Needs.READ)
def news(conn: Connection, key: str, after_seq: int) -> News | None:
    """The session and its retained messages after this number, from one statement.

    Read one after the other, a last message could come between the messages and the end.
    """
    rows = _NEWS.rows(conn, {"key": key, "after_seq": after_seq})
    if not rows:
        return None
    status, last_seq = rows[0][:2]
    return News(status_from(status), last_seq, messages_of(row[2:] for row in rows if row[2] is not None))


@needs(Needs.READ)
def sessions_among(conn: Connection, keys: Collection[str]) -> list[Session]:
    """The sessions that there are of these, without their messages."""
    return sessions_of(_AMONG.rows(conn, {"keys": json.dumps([*keys])}))


@needs(Needs.READ)
def changes(conn: Connection, keys: str, seen: str) -> Sequence[Change]:
    """Those of many sessions that have messages after the number seen, are not active, or are gone. One statement.

    Args:
        conn: a connection.
        keys: their keys, as a JSON array.
        seen: their keys and the numbers, as a JSON object.
    """
    return [Change(*row) for row in _CHANGES.rows(conn, {"keys": keys, "seen": seen})]


_NEWS = Statement(
    lambda _: (
        select(sessions.c.status, sessions.c.last_seq, *MESSAGE_COLUMNS)
        .select_from(
            sessions.outerjoin(
                messages,
                and_(
                    messages.c.session_key == sessions.c.key,
                    messages.c.seq > bindparam("after_seq", type_=BigInteger),
                ),
            )
        )
        .where(sessions.c.key == bindparam("key"))
        .order_by(messages.c.seq)
    )
)

_AMONG = Statement(lambda dialect: select(*SESSION_COLUMNS).where(is_one_of(dialect, sessions.c.key, "keys")))


def _changes(dialect: str) -> ClauseElement:
    pairs, key, seen = json_pairs(dialect, "seen")
    session = (
        select(sessions.c.key, sessions.c.last_seq, sessions.c.status)
        .where(is_one_of(dialect, sessions.c.key, "keys"))
        .subquery("session")
    )
    return (
        select(key, session.c.last_seq, session.c.status)
        .select_from(pairs.outerjoin(session, session.c.key == key))
        .where(
            or_(
                session.c.status.is_(None),
                session.c.status != SessionStatus.ACTIVE.value,
                session.c.last_seq > seen,
            )
        )
    )


_CHANGES = Statement(_changes)

"""A session: what it is, where it stands in its tree, and its conversation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

from sqlalchemy import Connection, Row, func, select
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from sessions_db.errors import InvalidInput, SessionNotFound
from sessions_db.web import asking
from sessions_db.web.conversation import Gap, Turn, Usage, turn, with_gaps
from sessions_db.web.pages.sessions import LINE
from sessions_db.web.reading import Reading
from sessions_db.web.rendering import page
from sessions_db.web.views import EVENTS, MESSAGES, SESSIONS, beginning, length, whole_up_to

_MESSAGES: Final = 100
_SHOWN: Final = 8_000
_METADATA_SHOWN: Final = 50_000
_ABOVE: Final = 20
_LEVELS: Final = 10
_BELOW: Final = 200
_UNFOLDED: Final = 12
_EVENTS: Final = 200

_LONG: Final = ("task", "end_reason", "metadata")
_SESSION: Final = (
    *(each for each in SESSIONS.c if each.name not in _LONG),
    *(beginning(SESSIONS.c[name], _SHOWN) for name in _LONG),
    *(length(SESSIONS.c[name]) for name in _LONG),
)
_MESSAGE: Final = (
    MESSAGES.c.seq,
    MESSAGES.c.role,
    MESSAGES.c.tool_name,
    beginning(MESSAGES.c.content, _SHOWN),
    length(MESSAGES.c.content),
    whole_up_to(MESSAGES.c.metadata, _METADATA_SHOWN),
    length(MESSAGES.c.metadata),
    MESSAGES.c.stored,
    MESSAGES.c.redacted,
    MESSAGES.c.sealed,
    MESSAGES.c.sent_at,
    MESSAGES.c.archived_at,
)


def session(request: Request) -> Response:
    """The session with its newest messages, or with those before or after a number.

    A browser that follows it sends the digest of what it has, and is told if nothing has changed.
    """
    reading: Reading = request.app.state.reading
    key = asking.needed(request, "key")
    before, after = asking.integer(request, "before"), asking.integer(request, "after")
    with reading.snapshot() as tx:
        conn = tx.connection
        found = conn.execute(select(*_SESSION).where(SESSIONS.c.session_key == key)).one_or_none()
        if found is None:
            if conn.execute(select(EVENTS.c.id).where(EVENTS.c.session_key == key).limit(1)).first() is None:
                raise SessionNotFound(key)
            return page(request, "gone.html", status_code=404, key=key)
        talk = _conversation(conn, found, before, after)
        below, count = _below(conn, key)
        answer = page(
            request,
            "session.html",
            session=found,
            above=_above(conn, found),
            below=below,
            below_count=count,
            unfolded=_UNFOLDED,
            below_limit=_BELOW if count == _BELOW else None,
            shown=_SHOWN,
            talk=talk,
            # Only the newest messages can have news.
            live=found.status == "active" and before is None and after is None,
        )
    tag = f'"{sha256(answer.body).hexdigest()[:32]}"'
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers={"ETag": tag})
    answer.headers["ETag"] = tag
    return answer


def text(request: Request) -> Response:
    """One long text of a session or a message, whole and as plain text."""
    reading: Reading = request.app.state.reading
    key, seq = asking.needed(request, "key"), asking.integer(request, "seq")
    view, names = (SESSIONS, _LONG) if seq is None else (MESSAGES, ("content", "metadata"))
    name = asking.needed(request, "field")
    if name not in names:
        raise InvalidInput("field", f"must be one of {', '.join(names)}", name)
    query = select(view.c[name]).where(view.c.session_key == key)
    if seq is not None:
        query = query.where(view.c.seq == seq)
    with reading.snapshot() as tx:
        found = tx.connection.execute(query).scalar()
    if found is None:
        raise HTTPException(404)
    return PlainTextResponse(found)


@dataclass(frozen=True, slots=True)
class _Talk:
    """Part of a conversation, the numbers before which and after which there is more, and the tokens it took."""

    items: Sequence[Turn | Gap]
    older: int | None
    newer: int | None
    usage: Usage


def _conversation(conn: Connection, session: Row[Any], before: int | None, after: int | None) -> _Talk:
    query = select(*_MESSAGE).where(MESSAGES.c.session_key == session.session_key).limit(_MESSAGES + 1)
    if after is not None:
        query = query.where(MESSAGES.c.seq > after).order_by(MESSAGES.c.seq)
    else:
        query = query.order_by(MESSAGES.c.seq.desc())
        if before is not None:
            query = query.where(MESSAGES.c.seq < before)
    rows = conn.execute(query).all()
    more, rows = len(rows) > _MESSAGES, rows[:_MESSAGES]
    # What no page shows belongs to the one next to it. Beyond the last number there is nothing, not even a gap.
    count = session.message_count
    if after is not None:
        first, last = min(after, count) + 1, rows[-1].seq if more else count
    else:
        rows = rows[::-1]
        first, last = rows[0].seq if more else 1, count if before is None else min(before - 1, count)
    turns = [turn(row) for row in rows]
    return _Talk(
        items=[*with_gaps(turns, _removals(conn, session.session_key, first, last), first, last)],
        older=first if first > 1 else None,
        newer=last if last < count else None,
        usage=sum((each.usage for each in turns), Usage()),
    )


def _removals(conn: Connection, key: str, first: int, last: int) -> Sequence[Row[Any]]:
    """What the log says of messages that were removed in the session's present life."""
    created = select(func.max(EVENTS.c.id)).where(EVENTS.c.session_key == key, EVENTS.c.event == "created")
    query = (
        select(
            EVENTS.c.id,
            EVENTS.c.at,
            EVENTS.c.actor,
            EVENTS.c.first_seq,
            EVENTS.c.last_seq,
            beginning(EVENTS.c.reason, _SHOWN),
        )
        .where(EVENTS.c.session_key == key, EVENTS.c.event == "messages_removed")
        .where(EVENTS.c.id >= func.coalesce(created.scalar_subquery(), 0))
        .where(EVENTS.c.last_seq >= first, EVENTS.c.first_seq <= last)
        .order_by(EVENTS.c.first_seq, EVENTS.c.id)
        .limit(_EVENTS)
    )
    return conn.execute(query).all()


def _above(conn: Connection, session: Row[Any]) -> list[Row[Any] | str]:
    """The sessions above this one, the top first; the key alone of one that was deleted."""
    above: list[Row[Any] | str] = []
    known, key = {session.session_key}, session.parent_key
    while key is not None and key not in known and len(above) < _ABOVE:
        known.add(key)
        query = select(*LINE, SESSIONS.c.parent_key).where(SESSIONS.c.session_key == key)
        found = conn.execute(query).one_or_none()
        above.append(key if found is None else found)
        key = None if found is None else found.parent_key
    return above[::-1]


@dataclass(frozen=True, slots=True)
class _Node:
    """A session below, and those below it."""

    row: Row[Any]
    below: list[_Node]


def _below(conn: Connection, key: str) -> tuple[list[_Node], int]:
    """What the session spawned, oldest first, with what that spawned: the levels closest to it if there
    are many; and how many these are.
    """
    top: list[_Node] = []
    known, level, left = {key}, {key: top}, _BELOW
    for _ in range(_LEVELS):
        query = (
            select(*LINE, SESSIONS.c.parent_key)
            .where(SESSIONS.c.parent_key.in_([*level]))
            .order_by(SESSIONS.c.created_ms, SESSIONS.c.session_key)
            .limit(left)
        )
        found: dict[str, list[_Node]] = {}
        for row in conn.execute(query):
            # Only SQL that bypasses the library can create a cycle.
            if row.session_key not in known:
                known.add(row.session_key)
                node = _Node(row, [])
                level[row.parent_key].append(node)
                found[row.session_key] = node.below
        level, left = found, left - len(found)
        if not level or left <= 0:
            break
    return top, len(known) - 1

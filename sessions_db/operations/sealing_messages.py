"""Sealing what was said: a digest for each message, and for each session a transcript over those since the last seal.

It is done in pages, each a short transaction, so that writers wait for a moment and not for a whole seal. The
transcripts of a page carry the number of the seal that comes next. Until it is made, they count as unsealed; if nobody
gets that far, the next seal takes them in. A session that gets messages meanwhile has another transcript later.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, replace
from itertools import accumulate, groupby
from operator import attrgetter, itemgetter
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    ClauseElement,
    ColumnElement,
    Connection,
    Select,
    Table,
    Text,
    and_,
    bindparam,
    cast,
    func,
    select,
    union_all,
    update,
)

from sessions_db.database import backend_of
from sessions_db.database.statement import Statement
from sessions_db.digests import FIRST, lines_digest, own_digest, row_digest
from sessions_db.models import Transcript
from sessions_db.operations.operation import Needs, needs
from sessions_db.operations.rows import as_read
from sessions_db.schema import (
    archived_messages,
    event_seals,
    insert_into,
    json_rows,
    message_digests,
    messages,
    sealed_transcripts,
    sessions,
)

MOST_MESSAGES: Final = 1000
"""How many messages a transcript covers at most, and a page unless its only session is that large."""

_MOST_SESSIONS: Final = 100

_MESSAGE: Final = list(messages.c.keys())


@dataclass(frozen=True, slots=True)
class Page:
    """How far a page got by key, and the keys up to there that others held, which it left out."""

    through_key: str
    held: list[str]


@needs(Needs.TRANSACTION)
def seal_page(conn: Connection, after_key: str) -> Page | None:
    """Seal what is new in the next sessions by key that have anything new; None if there are no more."""
    _lock_out_other_seals(conn)
    unsealed = select(sessions.c.key).where(sessions.c.unsealed == 1, sessions.c.key > after_key)
    keys = conn.execute(unsealed.order_by(sessions.c.key).limit(_MOST_SESSIONS)).scalars().all()
    if not keys:
        return None
    locked = _lock(conn, keys, skip_locked=True)
    done = _seal(conn, locked)
    # A page that is full ends before its last session, or within its first.
    through_key = max(done, default=after_key) if len(done) < len(locked) else keys[-1]
    return Page(through_key, [key for key in keys if key <= through_key and key not in done])


@needs(Needs.TRANSACTION)
def seal_session(conn: Connection, key: str) -> bool:
    """Seal what is new in a session, waiting for whoever holds it; whether there is more."""
    _lock_out_other_seals(conn)
    locked = _lock(conn, [key], skip_locked=False)
    return len(_seal(conn, locked)) < len(locked)


def message_columns(table: Table) -> list[ColumnElement[Any]]:
    """The columns of a message in their canonical order."""
    return [as_read(table, name) for name in _MESSAGE]


def _lock_out_other_seals(conn: Connection) -> None:
    backend_of(conn).lock_table(conn, event_seals.name, "EXCLUSIVE")


def _lock(conn: Connection, keys: Sequence[str], *, skip_locked: bool) -> list[str]:
    """Those of the sessions that nobody else holds, held until the transaction ends: nobody appends or deletes them."""
    query = select(sessions.c.key).where(sessions.c.key.in_(keys), sessions.c.unsealed == 1).order_by(sessions.c.key)
    return [*conn.execute(query.with_for_update(key_share=True, skip_locked=skip_locked)).scalars()]


@dataclass(frozen=True, slots=True)
class _Head:
    """How far a session is sealed."""

    key: str
    last_seq: int
    sealed_seq: int
    number: int
    digest: str


def _seal(conn: Connection, keys: Sequence[str]) -> list[str]:
    """Seal as many of these sessions as a page takes; the keys of those in which nothing new is left."""
    if not keys:
        return []
    seal_id = (conn.execute(select(func.max(event_seals.c.id))).scalar_one() or 0) + 1
    heads = [_Head(*row) for row in _HEADS.rows(conn, {"rows": json.dumps([[key] for key in keys])})]
    heads.sort(key=attrgetter("key"))
    sizes = accumulate(head.last_seq - head.sealed_seq for head in heads)
    heads = [head for head, size in zip(heads, sizes, strict=True) if size <= MOST_MESSAGES] or heads[:1]
    found = _new_messages(conn, heads)
    digests: list[tuple[str, int, int, str]] = []
    made: list[Transcript] = []
    for head in heads:
        of_session = [(seq, row_digest(message)) for message in found.get(head.key, ()) for seq in [message[1]]]
        if of_session:
            made.append(_transcript(head, seal_id, of_session))
            digests += [(head.key, seq, head.number + 1, digest) for seq, digest in of_session]
    if made:
        _WRITE_DIGESTS.rows(conn, {"rows": json.dumps(digests)})
        _WRITE_TRANSCRIPTS.rows(conn, {"rows": json.dumps([astuple(each) for each in made])})
    done = [head.key for head in heads if len(found.get(head.key, ())) < MOST_MESSAGES or len(heads) > 1]
    _SEALED.rows(conn, {"rows": json.dumps([[key] for key in done])})
    return done


def _transcript(head: _Head, seal_id: int, of_session: Sequence[tuple[int, str]]) -> Transcript:
    made = Transcript(
        session_key=head.key,
        number=head.number + 1,
        seal_id=seal_id,
        after_seq=head.sealed_seq,
        first_seq=of_session[0][0],
        last_seq=of_session[-1][0],
        message_count=len(of_session),
        previous_digest=head.digest,
        messages_digest=lines_digest(of_session),
        digest="",
    )
    return replace(made, digest=own_digest(made))


def _new_messages(conn: Connection, heads: Sequence[_Head]) -> dict[str, list[Sequence[Any]]]:
    """By session, the messages that are in no transcript, archived ones too; at most as many as a transcript covers."""
    if len(heads) == 1:
        (head,) = heads
        rows = _NEW_OF_ONE.rows(conn, {"key": head.key, "after_seq": head.sealed_seq, "most": MOST_MESSAGES})
    else:
        rows = _NEW.rows(conn, {"rows": json.dumps([[head.key, head.sealed_seq] for head in heads])})
    return {key: [*of_session] for key, of_session in groupby(rows, itemgetter(0))}


class Given:
    """The rows that a statement is given as JSON, and their values: a `number`, or else text."""

    def __init__(self, dialect: str, *kinds: str) -> None:
        self.rows, _, value = json_rows(dialect, "rows")
        self.values = [
            cast(value(position), BigInteger) if kind == "number" else value(position)
            for position, kind in enumerate(kinds)
        ]


def _heads(dialect: str) -> ClauseElement:
    (key,) = (given := Given(dialect, "key")).values
    sealed_seq = select(func.max(message_digests.c.seq)).where(message_digests.c.session_key == sessions.c.key)
    newest = sealed_transcripts.alias()
    number = select(func.max(newest.c.number)).where(newest.c.session_key == sessions.c.key)
    return (
        select(
            sessions.c.key,
            sessions.c.last_seq,
            func.coalesce(sealed_seq.scalar_subquery(), 0),
            func.coalesce(sealed_transcripts.c.number, 0),
            func.coalesce(sealed_transcripts.c.digest, FIRST),
        )
        .select_from(given.rows)
        .join(sessions, sessions.c.key == key)
        .outerjoin(
            sealed_transcripts,
            and_(
                sealed_transcripts.c.session_key == sessions.c.key,
                sealed_transcripts.c.number == number.scalar_subquery(),
            ),
        )
    )


def _new(dialect: str) -> ClauseElement:
    def of(table: Table) -> Select[Any]:
        given = Given(dialect, "key", "number")
        key, after_seq = given.values
        new = select(*message_columns(table)).select_from(given.rows)
        return new.join(table, and_(table.c.session_key == key, table.c.seq > after_seq))

    return union_all(of(messages), of(archived_messages)).order_by("session_key", "seq")


def _new_of_one(_dialect: str) -> ClauseElement:
    most = bindparam("most", type_=BigInteger)

    def of(table: Table) -> Select[Any]:
        is_new = table.c.session_key == bindparam("key", type_=Text), table.c.seq > bindparam("after_seq")
        # Both limits and the order: the index is read up to the limit.
        new = select(*message_columns(table)).where(*is_new).order_by(table.c.seq).limit(most)
        return select(new.subquery())

    return union_all(of(messages), of(archived_messages)).order_by("seq").limit(most)


def _write(table: Table) -> Callable[[str], ClauseElement]:
    def build(dialect: str) -> ClauseElement:
        given = Given(dialect, *("text" if isinstance(column.type, Text) else "number" for column in table.c))
        rows = select(*given.values).select_from(given.rows)
        return insert_into(dialect, table).from_select(list(table.c.keys()), rows)

    return build


def _sealed(dialect: str) -> ClauseElement:
    (key,) = (given := Given(dialect, "key")).values
    done = select(key).select_from(given.rows)
    return update(sessions).where(sessions.c.key.in_(done)).values(unsealed=0)


_HEADS = Statement(_heads)
_NEW = Statement(_new)
_NEW_OF_ONE = Statement(_new_of_one)
_WRITE_DIGESTS = Statement(_write(message_digests))
_WRITE_TRANSCRIPTS = Statement(_write(sealed_transcripts))
_SEALED = Statement(_sealed)

"""Comparing what was said with its transcripts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

from sqlalchemy import (
    ClauseElement,
    ColumnElement,
    Connection,
    Select,
    Table,
    and_,
    exists,
    func,
    literal,
    literal_column,
    or_,
    select,
    tuple_,
    union_all,
)

from sessions_db.database.statement import Statement
from sessions_db.digests import FIRST, Tree, lines_digest, own_digest, row_digest
from sessions_db.enums import EventKind
from sessions_db.models import Seal, Transcript, is_redacted
from sessions_db.operations.faults import Fault, Found, Log
from sessions_db.operations.sealing import transcript_of
from sessions_db.operations.sealing_messages import (
    MOST_MESSAGES,
    Given,
    message_columns,
)
from sessions_db.schema import (
    archived_messages,
    message_digests,
    messages,
    near,
    sealed_transcripts,
    sessions,
)

_PAGE = 200


class _Stored(NamedTuple):
    live: bool
    columns: Sequence[Any]


@dataclass(slots=True)
class _Batch:
    """Transcripts that are compared together, and what the database has for them."""

    transcripts: Sequence[Transcript]
    leaves: Mapping[tuple[str, int], list[tuple[int, str]]]
    """The digests of the messages, by session and transcript."""
    stored: Mapping[str, list[tuple[int, _Stored]]]
    """The messages by session, each with its number."""
    caps: Mapping[str, tuple[int, bool]]
    """By session, the number through which messages are trimmed, and whether they are archived then."""
    log: Log


def check_transcripts(conn: Connection, made: Seal, before: Seal | None, found: Found) -> None:
    """Count the messages that this seal covers; raise the first fault by session and number."""
    log = Log(conn, before.through_event_id if before else 0)
    digests = []
    for batch in _batches(conn, made.id, log):
        for transcript in batch.transcripts:
            _compare(transcript, batch, found)
            digests.append(transcript.digest)
    tree = Tree(digests)
    if (made.transcript_count, made.transcripts_digest) != (tree.length, tree.root()):
        raise Fault(f"seal {made.id} is not over the transcripts that are there for it")


def refuse_stray_transcripts(conn: Connection, newest_id: int, *, everywhere: bool) -> None:
    """Raise a fault for a transcript of no seal, neither one that is there nor the next.

    And `everywhere` for a digest of no transcript, and for a message before the first, which no transcript could cover.
    For these all digests and messages are read.
    """
    seal_id = sealed_transcripts.c.seal_id
    stray = select(sealed_transcripts.c.session_key).where(or_(seal_id > newest_id + 1, seal_id < 1)).limit(1)
    for key in conn.execute(stray).scalars():
        raise Fault("has a transcript that no seal covers", session_key=key)
    if not everywhere:
        return
    covered = exists().where(
        sealed_transcripts.c.session_key == message_digests.c.session_key,
        sealed_transcripts.c.number == message_digests.c.transcript,
        message_digests.c.seq > sealed_transcripts.c.after_seq,
        message_digests.c.seq <= sealed_transcripts.c.last_seq,
    )
    digests = select(message_digests.c.session_key, message_digests.c.seq).where(~covered).limit(1)
    for key, seq in conn.execute(digests):
        raise Fault("has a digest that no transcript covers", session_key=key, seq=seq)
    for table in (messages, archived_messages):
        for key, seq in conn.execute(select(table.c.session_key, table.c.seq).where(table.c.seq < 1).limit(1)):
            raise Fault("has a number that is never given", session_key=key, seq=seq)


def unsealed_messages(conn: Connection, newest_id: int, *, everywhere: bool) -> int:
    """How many messages are in no seal: `everywhere`, or in the sessions that the next seal has to read."""
    total = 0
    for table in (messages, archived_messages):
        of_message = exists().where(
            message_digests.c.session_key == table.c.session_key,
            message_digests.c.seq == table.c.seq,
            sealed_transcripts.c.session_key == message_digests.c.session_key,
            sealed_transcripts.c.number == message_digests.c.transcript,
            sealed_transcripts.c.seal_id <= newest_id,
        )
        query = select(func.count()).select_from(table).where(~of_message)
        if not everywhere:
            query = query.where(table.c.session_key.in_(select(sessions.c.key).where(sessions.c.unsealed == 1)))
        total += conn.execute(query).scalar_one()
    return total


def _batches(conn: Connection, seal_id: int, log: Log) -> Iterator[_Batch]:
    """The transcripts of a seal, checked as rows, a few at a time."""
    batch: list[Transcript] = []
    size = 0
    for transcript, previous_digest in _transcripts(conn, seal_id):
        key = transcript.session_key
        expected = own_digest(transcript), FIRST if transcript.number == 1 else previous_digest
        if (transcript.digest, transcript.previous_digest) != expected:
            raise Fault(f"transcript {transcript.number} was changed", session_key=key, seq=transcript.first_seq)
        if batch and size + transcript.message_count > MOST_MESSAGES:
            yield _read(conn, batch, log)
            batch, size = [], 0
        batch.append(transcript)
        size += transcript.message_count
    if batch:
        yield _read(conn, batch, log)


def _transcripts(conn: Connection, seal_id: int) -> Iterator[tuple[Transcript, str | None]]:
    previous = sealed_transcripts.alias()
    follows = and_(
        previous.c.session_key == sealed_transcripts.c.session_key,
        previous.c.number == sealed_transcripts.c.number - 1,
    )
    position = sealed_transcripts.c.session_key, sealed_transcripts.c.number
    query = select(sealed_transcripts, previous.c.digest).outerjoin(previous, follows)
    query = query.where(sealed_transcripts.c.seal_id == seal_id).order_by(*position).limit(_PAGE)
    after: tuple[str, int] = ("", 0)
    while rows := conn.execute(query.where(tuple_(*position) > tuple_(*map(literal, after)))).all():
        for row in rows:
            *columns, previous_digest = row
            yield transcript_of(columns), previous_digest
        after = rows[-1][0], rows[-1][1]


def _read(conn: Connection, batch: Sequence[Transcript], log: Log) -> _Batch:
    rows = json.dumps([[each.session_key, each.after_seq, each.last_seq, each.number] for each in batch])
    # The keys and the bounds of the rows, for `near`.
    wanted = {
        "rows": rows,
        "keys": json.dumps([*{each.session_key for each in batch}]),
        "low": min(each.after_seq for each in batch),
        "high": max(each.last_seq for each in batch),
    }
    leaves = _LEAVES.rows(conn, wanted)
    stored = _STORED.rows(conn, wanted)
    of_sessions = select(
        sessions.c.key, sessions.c.last_seq - sessions.c.message_cap, sessions.c.archive_trimmed
    ).where(sessions.c.key.in_({each.session_key for each in batch}))
    return _Batch(
        transcripts=batch,
        leaves={
            place: [(seq, digest) for _, _, seq, digest in of_place]
            for place, of_place in groupby(leaves, itemgetter(0, 1))
        },
        stored={
            key: [(row[2], _Stored(row[0] == 1, row[1:])) for row in of_session]
            for key, of_session in groupby(stored, itemgetter(1))
        },
        caps={key: (trimmed, archived == 1) for key, trimmed, archived in conn.execute(of_sessions)},
        log=log,
    )


def _compare(transcript: Transcript, batch: _Batch, found: Found) -> None:
    """Count the messages of a transcript; raise the first fault by number."""
    key = transcript.session_key
    leaves = batch.leaves.get((key, transcript.number), [])
    if not leaves:
        # They go with the session. One that is there now was created later.
        if not batch.log.tells(EventKind.DELETED, key):
            raise Fault("was removed, or its digests were, and the log has no deletion", session_key=key)
        found.messages_gone += transcript.message_count
        return
    if key not in batch.caps:
        raise Fault("was removed, but its digests are there", session_key=key)
    covered = len(leaves), leaves[0][0], leaves[-1][0], lines_digest(leaves)
    first_seq = transcript.first_seq
    if covered != (transcript.message_count, first_seq, transcript.last_seq, transcript.messages_digest):
        text = f"transcript {transcript.number} is not over the digests that are there for it"
        raise Fault(text, session_key=key, seq=first_seq)
    sealed = dict(leaves)
    stored = _stored_once(transcript, batch)
    for seq in sorted(sealed.keys() | stored.keys()):
        if seq not in sealed:
            raise Fault("was slipped in after its time", session_key=key, seq=seq)
        _compare_message(key, seq, sealed[seq], stored.get(seq), batch, found)


def _stored_once(transcript: Transcript, batch: _Batch) -> dict[int, _Stored]:
    """The messages within a transcript's numbers."""
    key = transcript.session_key
    stored: dict[int, _Stored] = {}
    for seq, message in batch.stored.get(key, []):
        if transcript.after_seq < seq <= transcript.last_seq:
            if seq in stored:
                raise Fault("is there more than once", session_key=key, seq=seq)
            stored[seq] = message
    return stored


def _compare_message(key: str, seq: int, sealed: str, stored: _Stored | None, batch: _Batch, found: Found) -> None:
    trimmed_through, archives = batch.caps[key]
    if stored is None:
        was_trimmed = seq <= trimmed_through and not archives
        if not was_trimmed and not batch.log.tells(EventKind.MESSAGES_REMOVED, key, seq):
            raise Fault("is missing, and the log has no removal", session_key=key, seq=seq)
        found.messages_gone += 1
        return
    if stored.live and seq <= trimmed_through:
        raise Fault("is in the session, which has trimmed it", session_key=key, seq=seq)
    # What is removed from a session that archives goes there too.
    if not stored.live and seq > trimmed_through and not batch.log.tells(EventKind.MESSAGES_REMOVED, key, seq):
        raise Fault("is in the archive before its time", session_key=key, seq=seq)
    if row_digest(stored.columns) == sealed:
        found.messages_verified += 1
    elif is_redacted(stored.columns) and batch.log.tells(EventKind.MESSAGE_REDACTED, key, seq):
        found.messages_redacted += 1
    else:
        raise Fault("was changed", session_key=key, seq=seq)


def _leaves(dialect: str) -> ClauseElement:
    given = Given(dialect, "key", "number", "number", "number")
    key, after_seq, last_seq, transcript = given.values
    digests = message_digests.c
    is_wanted = and_(
        digests.session_key == key,
        digests.seq > after_seq,
        digests.seq <= last_seq,
        digests.transcript == transcript,
        *near(dialect, message_digests),
    )
    query = select(digests.session_key, digests.transcript, digests.seq, digests.digest).select_from(given.rows)
    return query.join(message_digests, is_wanted).order_by(digests.session_key, digests.transcript, digests.seq)


def _stored(dialect: str) -> ClauseElement:
    def of(table: Table) -> Select[Any]:
        given = Given(dialect, "key", "number", "number", "number")
        key, after_seq, last_seq, _ = given.values
        is_wanted = and_(
            table.c.session_key == key, table.c.seq > after_seq, table.c.seq <= last_seq, *near(dialect, table)
        )
        live: ColumnElement[int] = literal_column("1" if table is messages else "0").label("live")
        return select(live, *message_columns(table)).select_from(given.rows).join(table, is_wanted)

    return union_all(of(messages), of(archived_messages)).order_by("session_key", "seq")


_LEAVES = Statement(_leaves)
_STORED = Statement(_stored)

"""Reading what proves that messages are those that were sealed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import itemgetter

from sqlalchemy import ClauseElement, Connection, func, select

from sessions_db.database.statement import Statement
from sessions_db.digests import Tree
from sessions_db.limits import PAGE
from sessions_db.models import Proof, ProvedTranscript, Transcript
from sessions_db.operations.operation import Needs, needs
from sessions_db.operations.sealing import transcript_of, transcripts_tree
from sessions_db.schema import event_seals, is_one_of, message_digests, sealed_transcripts


@needs(Needs.SNAPSHOT)
def proofs(conn: Connection, keys: Sequence[str]) -> list[Proof]:
    """What proves the messages of each of these sessions. Reads all transcripts of the seals that cover them."""
    # Each session is read once, however often its key is given.
    different = [*dict.fromkeys(keys)]
    trees: dict[int, Tree] = {}
    found: dict[str, Proof] = {}
    for start in range(0, len(different), PAGE):
        found.update((proof.session_key, proof) for proof in _page(conn, different[start : start + PAGE], trees))
    return [found[key] for key in keys]


def _page(conn: Connection, keys: Sequence[str], trees: dict[int, Tree]) -> Iterator[Proof]:
    wanted = {"keys": json.dumps(keys)}
    digests, transcripts = (
        {key: [*of_session] for key, of_session in groupby(statement.rows(conn, wanted), itemgetter(0))}
        for statement in (_DIGESTS, _TRANSCRIPTS)
    )
    for key in keys:
        # Taken out: of a session with very many messages, they take as much memory as their proof.
        found = digests.pop(key, [])
        # A transcript outlives its session, and the digests do not.
        covered = {number for _, _, number, _ in found}
        proving = [transcript_of(row) for row in transcripts.get(key, []) if row[1] in covered]
        # A seal that is being made, or was interrupted, has left digests that prove nothing yet.
        sealed = {transcript.number for transcript in proving}
        yield Proof(
            session_key=key,
            digests=tuple((seq, number, digest) for _, seq, number, digest in found if number in sealed),
            transcripts=tuple(_proved(conn, transcript, trees) for transcript in proving),
        )


def _proved(conn: Connection, transcript: Transcript, trees: dict[int, Tree]) -> ProvedTranscript:
    seal_id = transcript.seal_id
    if seal_id not in trees:
        trees[seal_id] = transcripts_tree(conn, seal_id)
    position = trees[seal_id].position(transcript.digest)
    return ProvedTranscript(transcript=transcript, position=position, path=tuple(trees[seal_id].path(position)))


def _digests(dialect: str) -> ClauseElement:
    of = message_digests.c
    query = select(of.session_key, of.seq, of.transcript, of.digest)
    return query.where(is_one_of(dialect, of.session_key, "keys")).order_by(of.session_key, of.seq)


def _transcripts(dialect: str) -> ClauseElement:
    of = sealed_transcripts.c
    newest_seal = select(func.max(event_seals.c.id)).scalar_subquery()
    query = select(sealed_transcripts).where(is_one_of(dialect, of.session_key, "keys"), of.seal_id <= newest_seal)
    return query.order_by(of.session_key, of.number)


_DIGESTS = Statement(_digests)
_TRANSCRIPTS = Statement(_transcripts)

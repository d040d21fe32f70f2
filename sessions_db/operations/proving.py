"""Reading what proves that messages are those that were sealed."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, func, select

from sessions_db.digests import Tree
from sessions_db.models import Proof, ProvedTranscript, Transcript
from sessions_db.operations.operation import Needs, needs
from sessions_db.operations.sealing import transcripts_tree
from sessions_db.schema import event_seals, message_digests, sealed_transcripts


@needs(Needs.SNAPSHOT)
def proofs(conn: Connection, keys: Sequence[str]) -> list[Proof]:
    """What proves the messages of each of these sessions. Reads all transcripts of the seals that cover them."""
    trees: dict[int, Tree] = {}
    # Each session is read once, however often its key is given.
    found = {key: _proof(conn, key, trees) for key in dict.fromkeys(keys)}
    return [found[key] for key in keys]


def _proof(conn: Connection, key: str, trees: dict[int, Tree]) -> Proof:
    digests = select(message_digests.c.seq, message_digests.c.transcript, message_digests.c.digest)
    found = conn.execute(digests.where(message_digests.c.session_key == key).order_by(message_digests.c.seq)).all()
    newest_seal = select(func.max(event_seals.c.id)).scalar_subquery()
    query = select(sealed_transcripts).where(
        sealed_transcripts.c.session_key == key,
        sealed_transcripts.c.number.in_(
            select(message_digests.c.transcript).where(message_digests.c.session_key == key)
        ),
        sealed_transcripts.c.seal_id <= newest_seal,
    )
    transcripts = [
        Transcript(**row) for row in conn.execute(query.order_by(sealed_transcripts.c.number)).mappings().all()
    ]
    # A seal that is being made, or was interrupted, has left digests that prove nothing yet.
    sealed = {transcript.number for transcript in transcripts}
    return Proof(
        session_key=key,
        digests=tuple((seq, number, digest) for seq, number, digest in found if number in sealed),
        transcripts=tuple(_proved(conn, each, trees) for each in transcripts),
    )


def _proved(conn: Connection, transcript: Transcript, trees: dict[int, Tree]) -> ProvedTranscript:
    seal_id = transcript.seal_id
    if seal_id not in trees:
        trees[seal_id] = transcripts_tree(conn, seal_id)
    position = trees[seal_id].position(transcript.digest)
    return ProvedTranscript(transcript=transcript, position=position, path=tuple(trees[seal_id].path(position)))

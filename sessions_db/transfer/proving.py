"""Lines that prove what was said, and verifying an export with them, without a database.

The first line of such an export has all seals. After each session comes its proof: a digest for each sealed message,
the transcripts over them, and for each transcript the Merkle path to its seal.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Final

from sessions_db.digests import lines_digest, own_digest, root_over, row_digest
from sessions_db.models import ExportVerdict, Proof, ProvedTranscript, Seal, Transcript, is_redacted
from sessions_db.operations.faults import Fault
from sessions_db.transfer.lines import is_session

PROOF_FORMAT: Final = "sessions-db-proof/1"
"""The `format` of a line that proves the messages of the session on the line before it."""

SEALS_FORMAT: Final = "sessions-db-seals/1"
"""The `format` of the line with the seals."""

_MESSAGE: Final = ("seq", "role", "content", "tool_name", "metadata", "timestamp_ms", "idempotency_key")

_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode


def proof_line(proof: Proof) -> bytes:
    """The proof as a line of JSON, with its line feed."""
    return f"{_encode({'format': PROOF_FORMAT} | asdict(proof))}\n".encode()


def seals_line(seals: Sequence[Seal]) -> bytes:
    """The seals as a line of JSON, with its line feed."""
    return f"{_encode({'format': SEALS_FORMAT, 'seals': [asdict(seal) for seal in seals]})}\n".encode()


def is_proof(value: Mapping[str, Any]) -> bool:
    """Whether the line's object is one that proves something, and nothing to import."""
    return value.get("format") in (PROOF_FORMAT, SEALS_FORMAT)


def verify_export(lines: Iterable[bytes], expect: str) -> ExportVerdict:
    """Whether the messages of an export are those that were sealed, and if not, the first that is not.

    Args:
        lines: an export that was made with `proof`.
        expect: the digest of a seal, kept elsewhere. What was sealed later is not proved.
    """
    found = _Found()
    try:
        _look_for_fault(lines, expect, found)
        fault = Fault(None)
    except Fault as raised:
        fault = raised
    return ExportVerdict(fault=fault.text, session_key=fault.session_key, seq=fault.seq, **asdict(found))


@dataclass(slots=True)
class _Found:
    sessions: int = 0
    proved: int = 0
    redacted: int = 0
    absent: int = 0
    unproved: int = 0


def _look_for_fault(lines: Iterable[bytes], expect: str, found: _Found) -> None:
    """Count what is proved; raise the first fault."""
    seals: dict[int, Seal] | None = None
    vouched_id = 0
    session: dict[str, Any] | None = None
    for number, value in _values(lines):
        try:
            if value.get("format") == SEALS_FORMAT and seals is None:
                seals, vouched_id = _seals([Seal(**seal) for seal in value["seals"]], expect)
            elif is_session(value) and seals is not None and session is None:
                session = value
            elif value.get("format") == PROOF_FORMAT and seals is not None and session is not None:
                _compare(session, _proof(value), seals, vouched_id, found)
                session = None
            else:
                raise Fault(f"line {number} is not in its place: the seals come first, after each session its proof")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise Fault(f"line {number} is not one of an export with proof") from error
    if seals is None or session is not None:
        raise Fault("the file is not whole: it has no seals, or a session without its proof")


def _values(lines: Iterable[bytes]) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(lines, start=1):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise Fault(f"line {number} is not JSON") from error
        if not isinstance(value, dict):
            raise Fault(f"line {number} is not a JSON object")
        yield number, value


def _seals(seals: Sequence[Seal], expect: str) -> tuple[dict[int, Seal], int]:
    """The seals by id, and the id of the expected one."""
    for seal in seals:
        if own_digest(seal) != seal.digest:
            raise Fault(f"seal {seal.id} was changed")
    for before, seal in pairwise(seals):
        if (seal.id, seal.previous_digest) != (before.id + 1, before.digest):
            raise Fault(f"seal {seal.id} does not follow the one before it")
    for seal in seals:
        if seal.digest == expect:
            return {each.id: each for each in seals}, seal.id
    raise Fault(f"no seal has the digest {expect}")


def _proof(value: Mapping[str, Any]) -> Proof:
    return Proof(
        session_key=value["session_key"],
        digests=tuple((seq, number, digest) for seq, number, digest in value["digests"]),
        transcripts=tuple(
            ProvedTranscript(
                transcript=Transcript(**each["transcript"]), position=each["position"], path=tuple(each["path"])
            )
            for each in value["transcripts"]
        ),
    )


def _compare(
    session: Mapping[str, Any], proof: Proof, seals: Mapping[int, Seal], vouched_id: int, found: _Found
) -> None:
    key = session["key"]
    if proof.session_key != key:
        raise Fault("the proof after it is of another session", session_key=key)
    sealed = _sealed(proof, seals, vouched_id)
    sealed_through = max((each.transcript.last_seq for each in proof.transcripts), default=0)
    seen: set[int] = set()
    for message in [*session["archived_messages"], *session["messages"]]:
        seq = message["seq"]
        columns = [key, *(message.get(name) for name in _MESSAGE)]
        is_vouched, digest = sealed.get(seq, (False, None))
        if seq in seen:
            raise Fault("is there more than once", session_key=key, seq=seq)
        seen.add(seq)
        if digest is None:
            if seq <= sealed_through:
                raise Fault("was slipped in after its time", session_key=key, seq=seq)
            found.unproved += 1
        elif row_digest(columns) == digest:
            found.proved += is_vouched
            found.unproved += not is_vouched
        elif is_redacted(columns):
            found.redacted += 1
        else:
            raise Fault("was changed", session_key=key, seq=seq)
    found.absent += sum(is_vouched and seq not in seen for seq, (is_vouched, _) in sealed.items())
    found.sessions += 1


def _sealed(proof: Proof, seals: Mapping[int, Seal], vouched_id: int) -> dict[int, tuple[bool, str]]:
    """By number, whether the expected seal vouches for the message, and its digest.

    Later seals, which it does not vouch for, anyone can make. So none of their digests may take another's place.
    """
    of_transcript: dict[int, list[tuple[int, str]]] = {}
    for seq, number, digest in proof.digests:
        of_transcript.setdefault(number, []).append((seq, digest))
    sealed: dict[int, tuple[bool, str]] = {}
    sealed_through = 0
    for each in proof.transcripts:
        transcript = each.transcript
        digests = of_transcript.pop(transcript.number, [])
        is_vouched = _is_vouched(each, proof.session_key, digests, seals[transcript.seal_id], vouched_id)
        is_in_its_range = all(transcript.after_seq < seq <= transcript.last_seq for seq, _ in digests)
        if transcript.after_seq != sealed_through or not is_in_its_range:
            text = f"transcript {transcript.number} does not follow the one before it"
            raise Fault(text, session_key=proof.session_key, seq=transcript.first_seq)
        sealed |= {seq: (is_vouched, digest) for seq, digest in digests}
        sealed_through = transcript.last_seq
    for (seq, _), *_ in of_transcript.values():
        raise Fault("has a digest that no transcript covers", session_key=proof.session_key, seq=seq)
    return sealed


def _is_vouched(
    proved: ProvedTranscript,
    session_key: str,
    digests: Sequence[tuple[int, str]],
    seal: Seal,
    vouched_id: int,
) -> bool:
    """Whether the expected seal vouches for the transcript; raise a fault if it is not what its seal covers."""
    transcript = proved.transcript
    if transcript.session_key != session_key or own_digest(transcript) != transcript.digest:
        text = f"transcript {transcript.number} was changed"
    elif (len(digests), lines_digest(digests)) != (transcript.message_count, transcript.messages_digest):
        text = f"transcript {transcript.number} is not over the digests that are there for it"
    elif root_over(transcript.digest, proved.position, seal.transcript_count, proved.path) != seal.transcripts_digest:
        text = f"transcript {transcript.number} is not among those of seal {seal.id}"
    else:
        return seal.id <= vouched_id
    raise Fault(text, session_key=transcript.session_key, seq=transcript.first_seq)

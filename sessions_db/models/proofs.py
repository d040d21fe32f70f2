"""What proves that messages were sealed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sessions_db.limits import REDACTED
from sessions_db.models.camel_case import camel_case
from sessions_db.models.log import Transcript
from sessions_db.validation import JsonValue


def is_mark(content: str, tool_name: str | None, metadata: object) -> bool:
    """Whether this is what a redaction leaves: its metadata holds the reason, and nothing else."""
    return (
        content == REDACTED
        and tool_name in (None, REDACTED)
        and isinstance(metadata, Mapping)
        and [*metadata] == ["redacted"]
        and isinstance(metadata["redacted"], str)
    )


def is_redacted(message: Sequence[Any]) -> bool:
    """Whether these are the columns of a redacted message, its metadata as text."""
    _, _, _, content, tool_name, metadata, *_ = message
    if content != REDACTED or metadata is None:
        return False
    try:
        return is_mark(content, tool_name, json.loads(metadata))
    except (TypeError, ValueError, RecursionError):
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvedTranscript:
    """A transcript, its position among those of its seal, and the way from its digest to the seal's.

    `path` is a Merkle path: the digests that give the seal's `transcripts_digest` together with the transcript's own.
    """

    transcript: Transcript
    position: int
    path: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What proves which messages a session had: the digest of each sealed one, and the transcripts over them.

    `digests` has the number of each message, that of its transcript, and its digest.
    """

    session_key: str
    digests: tuple[tuple[int, int, str], ...]
    transcripts: tuple[ProvedTranscript, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportVerdict:
    """The result of verifying an export with its proof.

    `fault` says what is wrong with the message `seq` of `session_key`, or with the file. Without one, `proved` messages
    are as they were when they were sealed, no later than the seal with the expected digest. `redacted` ones were
    replaced by a mark since, `absent` ones were sealed and are not in the file, and of the `unproved` ones, which came
    later, nothing is known.
    """

    fault: str | None
    session_key: str | None
    seq: int | None
    sessions: int
    proved: int
    redacted: int
    absent: int
    unproved: int

    def to_dict(self) -> dict[str, JsonValue]:
        """The verdict as camelCase JSON, fields that are None left out: without a fault there is no `fault`."""
        return camel_case(self)

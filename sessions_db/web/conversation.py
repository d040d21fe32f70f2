"""A conversation from rows: turns, the tool calls and usage in their metadata, and what is missing between them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import Row

from sessions_db.integrations.calls import calls_in
from sessions_db.integrations.payloads import found_in
from sessions_db.limits import MAX_INTEGER
from sessions_db.validation import JsonValue
from sessions_db.web.rendering import pretty

_USAGE: Final = ("usage", "usage_metadata", "usageMetadata", "usage_details")
_TOKENS_IN: Final = ("input_tokens", "prompt_tokens", "input_token_count", "prompt_token_count", "promptTokenCount")
_TOKENS_OUT: Final = (
    *("output_tokens", "completion_tokens", "output_token_count", "candidates_token_count", "candidatesTokenCount"),
)


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that the model read and wrote."""

    read: int = 0
    written: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.read + other.read, self.written + other.written)

    def __bool__(self) -> bool:
        return bool(self.read or self.written)


@dataclass(frozen=True, slots=True)
class Turn:
    """A message, and what was found in its metadata; of each call its tool and its arguments, to read."""

    row: Row[Any]
    metadata: str | None
    reason: str | None
    calls: Sequence[tuple[str, str]] = ()
    usage: Usage = field(default_factory=Usage)


@dataclass(frozen=True, slots=True)
class Gap:
    """Messages that are no longer there: removed, as the log says, or trimmed."""

    first: int
    last: int
    removal: Row[Any] | None = None


def turn(row: Row[Any]) -> Turn:
    """The message with what its metadata says."""
    if row.metadata is None:
        return Turn(row, None, None)
    try:
        parsed = json.loads(row.metadata)
        readable = pretty(parsed)
        calls = [(call.name, pretty(call.arguments)) for call in calls_in(parsed)]
    except (ValueError, RecursionError):  # SQL that bypasses the library may have stored anything
        return Turn(row, row.metadata, None)
    reason = parsed.get("redacted") if row.redacted and isinstance(parsed, dict) else None
    return Turn(row, readable, reason, calls, sum(found_in(parsed, _usage), Usage()))


def with_gaps(turns: Sequence[Turn], removals: Sequence[Row[Any]], first: int, last: int) -> Iterator[Turn | Gap]:
    """The turns, and between them what is missing of the numbers from `first` to `last`."""
    expected = first
    for each in turns:
        if each.row.seq > expected:
            yield from _gaps(expected, each.row.seq - 1, removals)
        yield each
        expected = each.row.seq + 1
    if expected <= last:
        yield from _gaps(expected, last, removals)


def _gaps(first: int, last: int, removals: Sequence[Row[Any]]) -> Iterator[Gap]:
    found: list[Gap] = []
    for removal in removals:
        begin, end = max(first, removal.first_seq), min(last, removal.last_seq)
        if begin > end:
            continue
        if begin > first:
            found.append(Gap(first, begin - 1))
        before = found[-1] if found else None
        if before is not None and before.removal is not None and _is_alike(before.removal, removal):
            # SQLite logs each message that is removed by itself.
            found[-1] = Gap(before.first, end, removal)
        else:
            found.append(Gap(begin, end, removal))
        first = end + 1
    if first <= last:
        found.append(Gap(first, last))
    yield from found


def _is_alike(removal: Row[Any], other: Row[Any]) -> bool:
    return (removal.actor, removal.reason, removal.at) == (other.actor, other.reason, other.at)


def _usage(stored: Mapping[str, JsonValue]) -> Usage | None:
    found = (usage for name in _USAGE if isinstance(usage := stored.get(name), Mapping))
    return sum((Usage(_tokens(each, _TOKENS_IN), _tokens(each, _TOKENS_OUT)) for each in found), Usage()) or None


def _tokens(usage: Mapping[str, JsonValue], names: Sequence[str]) -> int:
    counts = (count for name in names if isinstance(count := usage.get(name), int) and not isinstance(count, bool))
    # Python does not print the sum of numbers as long as JSON may have.
    return next((count for count in counts if 0 <= count <= MAX_INTEGER), 0)

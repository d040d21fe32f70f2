"""The views for auditors, as the pages read them."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import BigInteger, ColumnElement, TableClause, Text, case, column, func, table


def _view(name: str, texts: str, numbers: str) -> TableClause:
    return table(
        name,
        *(column(each, Text) for each in texts.split()),
        *(column(each, BigInteger) for each in numbers.split()),
    )


SESSIONS: Final = _view(
    "audit_sessions",
    "session_key agent_id kind status end_reason label task run_id parent_key created_at finished_at last_activity_at "
    "metadata",
    "owns_label forked_at_seq created_ms finished_ms last_activity_ms runtime_seconds idle_seconds message_count "
    "retained_count trimmed_count removed_count archived_count message_cap archive_trimmed",
)

MESSAGES: Final = _view(
    "audit_messages",
    "stored session_key role tool_name content metadata idempotency_key sent_at archived_at",
    "seq redacted timestamp_ms sealed",
)

EVENTS: Final = _view(
    "audit_events",
    "at actor db_user event session_key agent_id kind from_status to_status reason label from_session_key parent_key",
    "id at_ms message_count first_seq last_seq sealed",
)

SEALS: Final = _view(
    "audit_seals",
    "sealed_at actor digest previous_digest events_digest transcripts_digest",
    "id sealed_ms through_event_id event_count transcript_count",
)


def beginning(text: ColumnElement[str], characters: int) -> ColumnElement[str]:
    """The first characters of a text: a row may hold 256 MB."""
    return func.substr(text, 1, characters).label(text.key)


def whole_up_to(text: ColumnElement[str], characters: int) -> ColumnElement[Any]:
    """The text if it is no longer than this, or else null."""
    return case((func.length(text) <= characters, text)).label(text.key)


def length(text: ColumnElement[str]) -> ColumnElement[int]:
    """How many characters the text has, as `<name>_length`."""
    return func.length(text).label(f"{text.key}_length")

"""Idempotency keys that come again: a repeated call must say the same as the first."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Final

from sessions_db.errors import IdempotencyConflict
from sessions_db.models import Message, NewMessage, NewSession, Session, is_mark

_OF_A_MESSAGE: Final = ("role", "content", "tool_name", "metadata")
# Not message_cap and archive_trimmed: their defaults are the manager's, and may change between two calls.
_OF_A_SPAWN: Final = ("task", "label", "parent_key", "forked_at_seq", "metadata")


def check_message(session_key: str, idempotency_key: str, first: Message | NewMessage, again: NewMessage) -> None:
    """Check that the message is the one that this key stored; what a redacted one said is not known.

    Raises:
        IdempotencyConflict: it is another.
    """
    if not is_mark(first.content, first.tool_name, first.metadata):
        _check(session_key, idempotency_key, first, again, _OF_A_MESSAGE)


def check_spawn(idempotency_key: str, first: Session, again: NewSession) -> None:
    """Check that the session is the one that this key made.

    Raises:
        IdempotencyConflict: it is another.
    """
    _check(first.key, idempotency_key, first, again, _OF_A_SPAWN)


def _check(session_key: str, idempotency_key: str, first: object, again: object, names: Iterable[str]) -> None:
    differing = tuple(name for name in names if _shown(first, name) != _shown(again, name))
    if differing:
        raise IdempotencyConflict(idempotency_key, session_key, differing)


def _shown(value: object, name: str) -> object:
    item = getattr(value, name)
    # As text, because Python takes 1, 1.0 and True for the same. The order of keys does not matter.
    return json.dumps(item, sort_keys=True) if name == "metadata" else item

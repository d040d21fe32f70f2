"""The grammar of session keys.

    agent:<agent_id>:main
    agent:<agent_id>:subagent:<uuid>
    agent:<agent_id>:cron:<uuid>
    agent:<agent_id>:conversation:<name>

The rule `ck_sessions_key` in `schema/tables.py` enforces it for every writer; the view `audit_events` splits keys. A
name comes last and may hold colons: an agent id and a kind never do.
"""

from __future__ import annotations

import uuid
from typing import Final

from sessions_db import validation
from sessions_db.enums import SessionKind
from sessions_db.errors import InvalidInput
from sessions_db.limits import MAX_CONVERSATION_NAME_BYTES, MAX_NAME_LENGTH

MAX_KEY_BYTES: Final = len("agent::conversation:") + 4 * MAX_NAME_LENGTH + MAX_CONVERSATION_NAME_BYTES
"""The longest key that the library makes, in UTF-8; two of these fit into an index row on Postgres."""

# The namespace of the UUIDs that are derived from idempotency keys.
_SPAWN_NAMESPACE: Final = uuid.UUID("6f0f5ac2-51d4-4c0f-9f0d-0a3c1f6c7a55")


def main_key(agent_id: str) -> str:
    """The key of an agent's one main session."""
    return f"agent:{agent_id}:{SessionKind.MAIN}"


def spawned_key(agent_id: str, kind: SessionKind, session_id: uuid.UUID) -> str:
    """The key of a sub-agent or cron session."""
    return f"agent:{agent_id}:{kind}:{session_id}"


def repeated_key(agent_id: str, kind: SessionKind, idempotency_key: str) -> str:
    """The key of the session that every spawn with this idempotency key is about."""
    return spawned_key(agent_id, kind, uuid.uuid5(_SPAWN_NAMESPACE, idempotency_key))


def conversation_key(agent_id: str, name: str) -> str:
    """The key of an agent's conversation of this name."""
    return f"agent:{agent_id}:{SessionKind.CONVERSATION}:{name}"


def agent_of(key: str) -> str:
    """The agent of a session, which is part of its key."""
    return key.split(":", 2)[1] if key.count(":") > 1 else key


def checked_key(argument: str, value: object) -> str:
    """A string that is no longer than the longest key."""
    key = validation.text(argument, value)
    if len(key.encode()) > MAX_KEY_BYTES:
        raise InvalidInput(argument, f"must be at most {MAX_KEY_BYTES} bytes of UTF-8", key)
    return key


def own_key(argument: str, value: object, agent_id: str, kind: SessionKind) -> str:
    """A key that a session of this agent and kind may have."""
    key, prefix = checked_key(argument, value), f"agent:{agent_id}:{kind}"
    if not (key == prefix if kind is SessionKind.MAIN else key.startswith(f"{prefix}:")):
        raise InvalidInput(argument, "must be made of the session's agent_id and kind", key)
    return key

"""Starting sessions."""

from __future__ import annotations

import uuid
from dataclasses import fields

from sqlalchemy import Connection, select

from sessions_db import clock
from sessions_db.enums import LabelConflict, SessionKind, SessionStatus
from sessions_db.errors import SessionNotFound
from sessions_db.keys import main_key, spawned_key
from sessions_db.models import NewSession, Session
from sessions_db.operations import labels
from sessions_db.operations.attempts import attempts
from sessions_db.operations.operation import Needs, needs
from sessions_db.operations.reading import get, status_of
from sessions_db.operations.repeating import check_spawn
from sessions_db.operations.rows import SESSION_COLUMNS, sessions_of
from sessions_db.schema import insert_if_free, sessions, to_json

try:
    from uuid import uuid7  # type: ignore[attr-defined, unused-ignore]
except ImportError:  # Python before 3.14
    from uuid6 import uuid7

# The namespace of the UUIDs that are derived from idempotency keys.
_SPAWN_NAMESPACE = uuid.UUID("6f0f5ac2-51d4-4c0f-9f0d-0a3c1f6c7a55")


@needs(Needs.LOGGED_STATEMENT)
def get_or_create_main(conn: Connection, new: NewSession) -> Session:
    """The agent's main session. Racing writers insert one row, because the key is the same."""
    key = main_key(new.agent_id)
    tries = attempts(key)
    while (session := get(conn, key)) is None:
        next(tries)
        _insert(conn, key, new)
    return session


@needs(Needs.TRANSACTION)
def spawn(conn: Connection, new: NewSession, *, on_label_conflict: LabelConflict, idempotency_key: str | None) -> str:
    """The key of the new session, or of the one that this idempotency key made before."""
    if idempotency_key is None:
        key = spawned_key(new.agent_id, new.kind, uuid7())
    else:
        # The same idempotency key gives the same session key, and the primary key allows only one row with it.
        key = spawned_key(new.agent_id, new.kind, uuid.uuid5(_SPAWN_NAMESPACE, idempotency_key))
        if _was_spawned(conn, key, new, idempotency_key):
            return key
    if new.parent_key is not None and status_of(conn, new.parent_key) is None:
        raise SessionNotFound(new.parent_key)
    created_ms = _insert(conn, key, new)
    if created_ms is not None:
        if new.label is not None:
            labels.assign(conn, new.label, key, created_ms, on_label_conflict)
    elif idempotency_key is not None:
        # Another spawn with this idempotency key came in between.
        _was_spawned(conn, key, new, idempotency_key)
    return key


def _was_spawned(conn: Connection, key: str, new: NewSession, idempotency_key: str) -> bool:
    """Whether the session that this idempotency key makes is there.

    Raises:
        IdempotencyConflict: it is, and was spawned with other arguments.
    """
    # A new key is the usual case, and takes the shortest statement.
    if status_of(conn, key) is None:
        return False
    if first := sessions_of(conn.execute(select(*SESSION_COLUMNS).where(sessions.c.key == key))):
        check_spawn(idempotency_key, first[0], new)
    return True


def _insert(conn: Connection, key: str, new: NewSession) -> int | None:
    """When the session was created; None if there already is one with this key."""
    at_ms = clock.now_ms()
    row = {field.name: getattr(new, field.name) for field in fields(new)} | {
        "key": key,
        "status": SessionStatus.ACTIVE.value,
        "run_id": None if new.kind is SessionKind.MAIN else str(uuid7()),
        "created_ms": at_ms,
        "last_activity_ms": at_ms,
        "kind": new.kind.value,
        "archive_trimmed": int(new.archive_trimmed),
        "metadata": to_json(new.metadata),
    }
    return at_ms if insert_if_free(conn, sessions.c.key, row) else None

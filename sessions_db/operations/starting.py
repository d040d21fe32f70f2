"""Starting sessions."""

from __future__ import annotations

import uuid

from sqlalchemy import Connection, select

from sessions_db.errors import LabelInUse, SessionNotFound
from sessions_db.models import LabelConflict, Session, SessionKind, SessionStatus, clock_ms, main_key, spawned_key
from sessions_db.operations.attempts import attempts
from sessions_db.operations.reading import get, status_of
from sessions_db.schema import insert_into, labels, sessions
from sessions_db.validation import JsonValue

try:
    from uuid import uuid7  # type: ignore[attr-defined, unused-ignore]
except ImportError:  # Python before 3.14
    from uuid6 import uuid7

# Names the UUIDs that idempotency keys stand for.
_SPAWN_NAMESPACE = uuid.UUID("6f0f5ac2-51d4-4c0f-9f0d-0a3c1f6c7a55")


def get_or_create_main(conn: Connection, agent_id: str, *, message_cap: int, archive_trimmed: bool) -> Session:
    """The agent's main session. Writers that race insert one row: the key is the same."""
    key = main_key(agent_id)
    turns = attempts(key)
    while (session := get(conn, key)) is None:
        next(turns)
        at_ms = clock_ms()
        conn.execute(
            insert_into(conn.dialect.name, sessions)
            .values(
                key=key,
                agent_id=agent_id,
                kind=SessionKind.MAIN.value,
                status=SessionStatus.ACTIVE.value,
                created_ms=at_ms,
                last_activity_ms=at_ms,
                message_cap=message_cap,
                archive_trimmed=int(archive_trimmed),
            )
            .on_conflict_do_nothing()
        )
    return session


def spawn(
    conn: Connection,
    kind: SessionKind,
    agent_id: str,
    task: str,
    label: str | None,
    parent_key: str | None,
    *,
    metadata: dict[str, JsonValue] | None,
    message_cap: int,
    archive_trimmed: bool,
    on_label_conflict: LabelConflict,
    idempotency_key: str | None,
) -> str:
    """The key of the new session, or of the one that this idempotency key made before. Needs a transaction."""
    if idempotency_key is None:
        key = spawned_key(agent_id, kind, uuid7())
    else:
        # The same idempotency key gives the same session key, which the primary key holds to one row.
        key = spawned_key(agent_id, kind, uuid.uuid5(_SPAWN_NAMESPACE, idempotency_key))
        if status_of(conn, key) is not None:
            return key
    if parent_key is not None and status_of(conn, parent_key) is None:
        raise SessionNotFound(parent_key)
    at_ms = clock_ms()
    inserted = conn.execute(
        insert_into(conn.dialect.name, sessions)
        .values(
            key=key,
            agent_id=agent_id,
            kind=kind.value,
            status=SessionStatus.ACTIVE.value,
            label=label,
            task=task,
            run_id=str(uuid7()),
            parent_key=parent_key,
            created_ms=at_ms,
            last_activity_ms=at_ms,
            metadata=metadata,
            message_cap=message_cap,
            archive_trimmed=int(archive_trimmed),
        )
        .on_conflict_do_nothing(index_elements=[sessions.c.key])
        .returning(sessions.c.key)
    ).scalar_one_or_none()
    if inserted is not None and label is not None:
        _assign_label(conn, label, key, at_ms, on_label_conflict)
    return key


def _assign_label(conn: Connection, label: str, key: str, at_ms: int, on_conflict: LabelConflict) -> None:
    assign = insert_into(conn.dialect.name, labels).values(label=label, session_key=key, assigned_ms=at_ms)
    if on_conflict is LabelConflict.REPLACE:
        moved = {"session_key": assign.excluded.session_key, "assigned_ms": assign.excluded.assigned_ms}
        conn.execute(assign.on_conflict_do_update(index_elements=[labels.c.label], set_=moved))
        return
    owner = select(labels.c.session_key).where(labels.c.label == label)
    assign_if_free = assign.on_conflict_do_nothing().returning(labels.c.label)
    turns = attempts(key)
    while conn.execute(assign_if_free).scalar_one_or_none() is None:
        next(turns)
        # The loop goes on only if the owner was deleted between the two statements.
        if (session_key := conn.execute(owner).scalar_one_or_none()) is not None:
            raise LabelInUse(label, session_key)

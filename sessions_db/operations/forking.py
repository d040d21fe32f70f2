"""Starting a session with the messages of another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Row, Select, Table, Text, cast, exists, func, insert, literal, select, union_all

from sessions_db.enums import EventKind, LabelConflict, SessionKind
from sessions_db.errors import InvalidInput, SessionNotFound
from sessions_db.keys import agent_of
from sessions_db.models import NewSession, Session
from sessions_db.operations.labels import give
from sessions_db.operations.operation import Needs, needs
from sessions_db.operations.reading import locked
from sessions_db.operations.rows import metadata_of
from sessions_db.operations.starting import insert_session, spawned_before
from sessions_db.schema import archived_messages, messages, session_events, sessions
from sessions_db.validation import JsonValue

# Not the idempotency key: it belongs to the call that stored the message in the first session.
_COPIED: Final = ("role", "content", "tool_name", "metadata", "timestamp_ms")

_BEGINNINGS: Final = (EventKind.CREATED.value, EventKind.DELETED.value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fork:
    """What a new session has of its own; None stands for what the origin has, but for the label."""

    origin: str
    at_seq: int
    task: str | None
    label: str | None
    metadata: Mapping[str, JsonValue] | None
    message_cap: int | None
    archive_trimmed: bool | None
    on_label_conflict: LabelConflict

    def session(self, of: Session | Row[Any], metadata: Mapping[str, JsonValue] | None, **kept: Any) -> NewSession:
        """The session to be created; what is not given is as in the origin, or in the fork that is there already."""
        return NewSession(
            agent_id=agent_of(self.origin),
            kind=SessionKind.SUBAGENT,
            task=of.task if self.task is None else self.task,
            label=self.label,
            parent_key=self.origin,
            forked_at_seq=self.at_seq,
            metadata=metadata if self.metadata is None else self.metadata,
            **kept,
        )


@needs(Needs.TRANSACTION)
def fork_session(conn: Connection, fork: Fork, idempotency_key: str | None) -> str:
    """The key of the new session, or of the one that this idempotency key made before.

    Raises:
        SessionNotFound: there is no origin.
        InvalidInput: the origin has not had so many messages.
        LabelInUse: another session has the label, which is not to be taken over.
        IdempotencyConflict: this idempotency key made another session.
    """
    # With the row locked, no message is added, trimmed or archived until they are copied.
    of = sessions.c
    columns = (of.task, of.message_cap, of.archive_trimmed, of.last_seq, cast(of.metadata, Text).label("metadata"))
    origin = locked(conn, fork.origin, *columns)
    if idempotency_key is not None:
        # The origin may have been changed or deleted since.
        made = spawned_before(
            conn,
            idempotency_key,
            agent_of(fork.origin),
            SessionKind.SUBAGENT,
            lambda first: fork.session(first, first.metadata, message_cap=1, archive_trimmed=False),
        )
        if made is not None:
            return made
    if origin is None:
        raise SessionNotFound(fork.origin)
    if fork.at_seq > origin.last_seq:
        raise InvalidInput("at_seq", f"must be at most {origin.last_seq}, the session's message_count", fork.at_seq)
    cap = origin.message_cap if fork.message_cap is None else fork.message_cap
    archives = bool(origin.archive_trimmed) if fork.archive_trimmed is None else fork.archive_trimmed
    new = fork.session(origin, metadata_of(origin.metadata), message_cap=cap, archive_trimmed=archives)
    key, created_ms = insert_session(conn, new, idempotency_key)
    if created_ms is not None:
        _copy_messages(conn, fork, key, None if archives else cap)
        if new.label is not None:
            give(conn, new.label, key, created_ms, fork.on_label_conflict)
    return key


def _copy_messages(conn: Connection, fork: Fork, key: str, limit: int | None) -> None:
    """Copy the newest messages of the origin up to there, retained and archived.

    But none that was taken back, also where it was archived. The trigger trims, or archives, those beyond the cap. They
    are numbered from 1: the origin's numbers may have gaps, where messages were trimmed or removed.
    """

    def stored_in(table: Table) -> Select[Any]:
        columns = (table.c.seq, *(table.c[name] for name in _COPIED))
        return select(*columns).where(table.c.session_key == fork.origin, table.c.seq <= fork.at_seq)

    of = session_events.c
    # A main session or a conversation may have been deleted and begun anew.
    began = select(func.max(of.id)).where(of.session_key == fork.origin, of.event.in_(_BEGINNINGS)).scalar_subquery()
    is_taken_back = exists().where(
        of.session_key == fork.origin,
        of.id > func.coalesce(began, 0),
        of.event == EventKind.MESSAGES_REMOVED.value,
        of.reason.is_(None),
        archived_messages.c.seq.between(of.first_seq, of.last_seq),
    )
    stored = union_all(stored_in(messages), stored_in(archived_messages).where(~is_taken_back)).subquery("stored")
    newest = select(stored).order_by(stored.c.seq.desc()).limit(limit).subquery("newest")
    number = func.row_number().over(order_by=newest.c.seq)
    rows = select(literal(key), number, *(newest.c[name] for name in _COPIED)).order_by(newest.c.seq)
    conn.execute(insert(messages).from_select(["session_key", "seq", *_COPIED], rows))

"""Changing what a session says of itself: its metadata, label and task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import EllipsisType
from typing import Any

from sqlalchemy import Connection, Text, cast, delete, update

from sessions_db import clock, validation
from sessions_db.enums import LabelConflict
from sessions_db.errors import SessionNotFound
from sessions_db.models import Session
from sessions_db.operations.labels import give, owner
from sessions_db.operations.operation import Needs, needs
from sessions_db.operations.reading import get, locked
from sessions_db.operations.rows import metadata_of
from sessions_db.schema import labels, sessions
from sessions_db.validation import JsonValue


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What is to be changed; `...` stands for what stays as it is."""

    metadata: Mapping[str, JsonValue] | EllipsisType | None
    replace_metadata: bool
    label: str | EllipsisType | None
    on_label_conflict: LabelConflict
    task: str | EllipsisType | None


@needs(Needs.TRANSACTION)
def update_session(conn: Connection, key: str, changes: Changes) -> Session:
    """The session after the changes.

    Raises:
        SessionNotFound: there is no such session.
        LabelInUse: another session has the label, which is not to be taken over.
        InvalidInput: the metadata holds what can't be stored, although the changes do not.
    """
    # The lock keeps others from changing the metadata between the look-up and the statement.
    row = locked(conn, key, cast(sessions.c.metadata, Text).label("metadata"))
    if row is None:
        raise SessionNotFound(key)
    values: dict[str, Any] = {}
    if not isinstance(changes.label, EllipsisType):
        values["label"] = changes.label
        _move_label(conn, key, changes.label, changes.on_label_conflict)
    if not isinstance(changes.task, EllipsisType):
        values["task"] = changes.task
    if not isinstance(changes.metadata, EllipsisType):
        values["metadata"] = changes.metadata
        if changes.metadata is not None and not changes.replace_metadata:
            # What SQL has stored there may be beyond the limits.
            values["metadata"] = validation.metadata("metadata", merged(metadata_of(row.metadata), changes.metadata))
    if values:
        conn.execute(update(sessions).where(sessions.c.key == key).values(values))
    session = get(conn, key)
    if session is None:
        raise SessionNotFound(key)
    return session


def merged(stored: object, patch: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """The object after a JSON Merge Patch (RFC 7396): objects are merged, None removes a key, the rest replaces."""
    result: dict[str, JsonValue] = dict(stored) if isinstance(stored, Mapping) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        elif isinstance(value, Mapping):
            result[name] = merged(result.get(name), value)
        else:
            result[name] = value
    return result


def _move_label(conn: Connection, key: str, label: str | None, conflict: LabelConflict) -> None:
    """Have the session own this label, and no other."""
    others = delete(labels).where(labels.c.session_key == key)
    conn.execute(others if label is None else others.where(labels.c.label != label))
    if label is None or owner(conn, label) == key:
        return
    give(conn, label, key, clock.now_ms(), conflict)

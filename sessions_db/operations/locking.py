"""Locking the sessions to which a statement appends."""

from __future__ import annotations

from enum import Enum
from typing import Any

from sqlalchemy import Select, func, true

from sessions_db.limits import BRIEF_LOCK_WAIT_MS


class IfLocked(Enum):
    """What a statement does with a session that another transaction has locked."""

    WAIT = "wait for it"
    WAIT_BRIEFLY = "wait for it, at most as long as `BRIEF_LOCK_WAIT_MS` says: nothing is stored then"
    SKIP = "store nothing in it"


def locking(rows: Select[Any], if_locked: IfLocked) -> Select[Any]:
    """The rows of sessions, which it locks: SQLite has one writer at a time and ignores FOR UPDATE."""
    if if_locked is IfLocked.WAIT_BRIEFLY:
        # Of this transaction only. The condition is evaluated before a row is locked.
        rows = rows.where(func.set_config("lock_timeout", str(BRIEF_LOCK_WAIT_MS), true()).is_not(None))
    return rows.with_for_update(key_share=True, skip_locked=if_locked is IfLocked.SKIP)

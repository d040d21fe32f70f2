"""Listing sessions and counting them."""

from __future__ import annotations

import builtins
from collections.abc import Collection, Iterator
from datetime import datetime

from sessions_db import clock, validation
from sessions_db.enums import SessionKind, SessionStatus
from sessions_db.errors import InvalidInput
from sessions_db.limits import MAX_INTEGER
from sessions_db.models import Session
from sessions_db.operations import reading
from sessions_db.operations.selecting import Selection
from sessions_db.store.runner import Runner


class Listing(Runner):
    """Operations that find sessions by what they are."""

    def list(
        self,
        kinds: Collection[SessionKind | str] | None = None,
        active_only: bool = False,
        limit: int = 50,
        *,
        keys: Collection[str] | None = None,
        key_prefix: str | None = None,
        agent_id: str | Collection[str] | None = None,
        parent_key: str | Collection[str] | None = None,
        under: str | None = None,
        status: SessionStatus | str | Collection[SessionStatus | str] | None = None,
        active_within_ms: int | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        message_limit: int = 0,
        before: Session | None = None,
    ) -> builtins.list[Session]:
        """The newest sessions that pass every filter: by `created_ms` descending, then by key descending.

        Args:
            kinds: only these kinds; an empty collection matches nothing.
            active_only: only sessions that have not ended.
            limit: at most this many sessions.
            keys: only the sessions with these keys.
            key_prefix: only those whose keys begin so, such as `agent:main:conversation:telegram:`.
            agent_id: only this agent's, or these agents'; an empty collection matches nothing.
            parent_key: only those that this session spawned, or one of these; an empty collection matches nothing.
            under: only those that this session spawned, directly or indirectly.
            status: only those with this status, or one of these; an empty collection matches nothing.
            active_within_ms: only those whose last activity is at most this many milliseconds ago.
            created_after: only those created at this time, an aware datetime, or later.
            created_before: only those created before this time.
            message_limit: how many of its newest messages each session comes with.
            before: only sessions that come after this one in the order. Pass the last session of a page to get the
                next page, whatever was created or deleted meanwhile.
        """
        selection = _selection(
            kinds,
            active_only,
            keys,
            key_prefix,
            agent_id,
            parent_key,
            under,
            status,
            active_within_ms,
            created_after,
            created_before,
        )
        if before is not None:
            _check_position(before)
        return self._run(
            reading.page,
            selection,
            before=before,
            limit=validation.integer("limit", limit, minimum=0),
            message_limit=validation.integer("message_limit", message_limit, minimum=0),
        )

    def iterate(
        self,
        kinds: Collection[SessionKind | str] | None = None,
        active_only: bool = False,
        *,
        keys: Collection[str] | None = None,
        key_prefix: str | None = None,
        agent_id: str | Collection[str] | None = None,
        parent_key: str | Collection[str] | None = None,
        under: str | None = None,
        status: SessionStatus | str | Collection[SessionStatus | str] | None = None,
        active_within_ms: int | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        message_limit: int = 0,
    ) -> Iterator[Session]:
        """All sessions that pass every filter, in the order of `list`, which has the same filters.

        They are read in pages of 100, each by a call of its own: nothing is locked, and the caller may change what it
        gets. Each session comes at most once; what is created meanwhile does not come. Within a `snapshot()`, pages
        agree with each other.
        """
        selection = _selection(
            kinds,
            active_only,
            keys,
            key_prefix,
            agent_id,
            parent_key,
            under,
            status,
            active_within_ms,
            created_after,
            created_before,
        )
        return self._pages(selection, validation.integer("message_limit", message_limit, minimum=0))

    def count(
        self,
        kinds: Collection[SessionKind | str] | None = None,
        active_only: bool = False,
        *,
        keys: Collection[str] | None = None,
        key_prefix: str | None = None,
        agent_id: str | Collection[str] | None = None,
        parent_key: str | Collection[str] | None = None,
        under: str | None = None,
        status: SessionStatus | str | Collection[SessionStatus | str] | None = None,
        active_within_ms: int | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
    ) -> int:
        """How many sessions pass every filter. The filters are those of `list`."""
        selection = _selection(
            kinds,
            active_only,
            keys,
            key_prefix,
            agent_id,
            parent_key,
            under,
            status,
            active_within_ms,
            created_after,
            created_before,
        )
        return self._run(reading.count, selection)

    def children(self, key: str) -> builtins.list[Session]:
        """The sessions that `key` spawned, oldest first, without messages. They outlive a parent that is pruned."""
        return self._run(reading.children, validation.text("key", key))

    def descendants(self, key: str) -> builtins.list[Session]:
        """The sessions that `key` spawned, directly or indirectly, oldest first, without messages.

        A cycle, which only SQL written by hand can create, is walked once.
        """
        return self._run(reading.descendants, validation.text("key", key))


def _selection(
    kinds: Collection[SessionKind | str] | None,
    active_only: bool,
    keys: Collection[str] | None,
    key_prefix: str | None,
    agent_id: str | Collection[str] | None,
    parent_key: str | Collection[str] | None,
    under: str | None,
    status: SessionStatus | str | Collection[SessionStatus | str] | None,
    active_within_ms: int | None,
    created_after: datetime | None,
    created_before: datetime | None,
) -> Selection:
    statuses = validation.optional_one_or_more("status", status, SessionStatus)
    if validation.flag("active_only", active_only):
        statuses = [each for each in (SessionStatus.ACTIVE,) if statuses is None or each in statuses]
    active_since_ms = None
    if active_within_ms is not None:
        active_within_ms = validation.integer("active_within_ms", active_within_ms, minimum=0)
        active_since_ms = max(-MAX_INTEGER - 1, clock.now_ms() - active_within_ms)
    return Selection(
        keys=None if keys is None else validation.texts("keys", keys),
        kinds=validation.optional_choices("kinds", kinds, SessionKind),
        statuses=statuses,
        key_prefix=validation.optional_text("key_prefix", key_prefix),
        agent_ids=validation.optional_texts("agent_id", agent_id),
        parent_keys=validation.optional_texts("parent_key", parent_key),
        under=validation.optional_text("under", under),
        active_since_ms=active_since_ms,
        created_from_ms=validation.optional_moment_ms("created_after", created_after),
        created_before_ms=validation.optional_moment_ms("created_before", created_before),
    )


def _check_position(before: Session) -> None:
    if not isinstance(before, Session):
        raise InvalidInput("before", "must be a Session", before)
    validation.text("before.key", before.key)
    validation.integer("before.created_ms", before.created_ms, minimum=-MAX_INTEGER)

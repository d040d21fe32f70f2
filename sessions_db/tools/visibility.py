"""Which sessions a caller sees: one rule for all tools. What it does not see is not there for it."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from enum import StrEnum
from typing import Final

from sessions_db import validation
from sessions_db.aio import AsyncSessionManager
from sessions_db.enums import SessionKind
from sessions_db.errors import InvalidInput
from sessions_db.keys import agent_of, checked_key
from sessions_db.models import Session


class Visibility(StrEnum):
    """Which sessions a caller sees."""

    SELF = "self"
    TREE = "tree"
    AGENT = "agent"
    ALL = "all"


RULES: Final = {
    Visibility.SELF: "self: the calling session alone",
    Visibility.TREE: "tree: the calling session, the sessions that it spawned, and those that these spawned, and so on",
    Visibility.AGENT: "agent: the sessions of the caller's agent",
    Visibility.ALL: "all: every session",
}
"""What each says, as the results of the tools state it."""


class Scope:
    """The sessions that the caller sees.

    Raises:
        InvalidInput: `caller` is not a session's key, or `visibility` is none.
    """

    def __init__(self, manager: AsyncSessionManager, caller: str, visibility: Visibility | str) -> None:
        self.caller = _caller(caller)
        self.agent_id = agent_of(caller)
        self._visibility = validation.choice("visibility", visibility, Visibility)
        self.rule = RULES[self._visibility]
        self._manager = manager
        self._only_agent_id = self.agent_id if self._visibility is Visibility.AGENT else None
        self._only_under = self.caller if self._visibility is Visibility.TREE else None
        self._only_keys = [self.caller] if self._visibility is Visibility.SELF else None

    async def list(
        self, kinds: Collection[str] | None, limit: int, active_within_ms: int | None, message_limit: int
    ) -> list[Session]:
        """The newest of these, as the manager's `list` gives them."""
        found = await self._manager.list(
            kinds,
            limit=limit,
            keys=self._only_keys,
            agent_id=self._only_agent_id,
            under=self._only_under,
            active_within_ms=active_within_ms,
            message_limit=message_limit,
        )
        if self._only_under is not None:
            found += await self._manager.list(
                kinds,
                limit=limit,
                keys=[self.caller],
                active_within_ms=active_within_ms,
                message_limit=message_limit,
            )
            found.sort(key=lambda session: (session.created_ms, session.key), reverse=True)
        return found[:limit]

    async def count(self, *, active_only: bool) -> int:
        """How many there are."""
        count = await self._manager.count(
            active_only=active_only, keys=self._only_keys, agent_id=self._only_agent_id, under=self._only_under
        )
        if self._only_under is not None:
            count += await self._manager.count(active_only=active_only, keys=[self.caller])
        return count

    async def find(self, key: str) -> Session | None:
        """The session without messages; None if there is none, or the caller does not see it."""
        found = await self._manager.list(keys=[validation.text("sessionKey", key)], limit=1)
        return await self._if_seen(found[0] if found else None)

    async def find_by_label(self, label: str) -> Session | None:
        """The session that the label belongs to; None if there is none, or the caller does not see it."""
        return await self._if_seen(await self._manager.get_by_label(label))

    async def active_below(self, key: str, limit: int) -> Collection[Session]:
        """Active sessions below a session that the caller sees."""
        if self._visibility is Visibility.SELF:
            return []
        return await self._manager.list(under=key, active_only=True, agent_id=self._only_agent_id, limit=limit)

    async def seen(self, keys: Iterable[str], sessions: Iterable[Session] = ()) -> set[str]:
        """Which of these keys the caller sees; `sessions` need not be read for that."""
        wanted = {*keys}
        match self._visibility:
            case Visibility.SELF:
                return wanted & {self.caller}
            case Visibility.AGENT:
                return {key for key in wanted if agent_of(key) == self.agent_id}
            case Visibility.ALL:
                return wanted
            case Visibility.TREE:
                parents = await self._parents(wanted, sessions)
                return {key for key in wanted if self._is_in_tree(key, parents)}

    async def _if_seen(self, session: Session | None) -> Session | None:
        return session if session is not None and await self.seen([session.key], [session]) else None

    async def _parents(self, keys: set[str], sessions: Iterable[Session]) -> dict[str, str | None]:
        """The parent of each of these keys and of each session above them, as far as the caller or the top.

        Upwards, because a session has few above it, and may have any number below it.
        """
        parents = {session.key: session.parent_key for session in sessions}
        above = keys | {parent for parent in parents.values() if parent is not None}
        while unknown := above - parents.keys() - {self.caller}:
            parents |= dict.fromkeys(unknown)
            found = await self._manager.list(keys=unknown, limit=len(unknown))
            parents |= {session.key: session.parent_key for session in found}
            above = {session.parent_key for session in found if session.parent_key is not None}
        return parents

    def _is_in_tree(self, key: str, parents: dict[str, str | None]) -> bool:
        at: str | None = key
        met = set[str]()
        # A cycle, which only SQL by hand can make, ends where it began.
        while at is not None and at != self.caller and at not in met:
            met.add(at)
            at = parents.get(at)
        return at == self.caller


def _caller(value: object) -> str:
    key = checked_key("caller", value)
    parts = key.split(":", 3)
    if len(parts) < 3 or parts[0] != "agent" or not parts[1] or parts[2] not in [*SessionKind]:  # noqa: PLR2004
        raise InvalidInput("caller", "must be the key of a session", key)
    return key

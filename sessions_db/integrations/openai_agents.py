"""The sessions of the OpenAI Agents SDK: each is a conversation of one agent, or a session that exists.

A message's metadata holds the item of the SDK, so that it comes back as it was; role, content and tool name are for
those who read the table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

from agents import SessionSettings, TResponseInputItem

from sessions_db import keys, validation
from sessions_db.aio import AsyncSessionManager, AsyncTransaction
from sessions_db.aio.manager import async_manager
from sessions_db.enums import Role
from sessions_db.errors import InvalidInput, SessionNotFound
from sessions_db.integrations import openai_responses
from sessions_db.integrations.conversations import append
from sessions_db.integrations.openai_responses import Item
from sessions_db.integrations.payloads import payload, with_payload
from sessions_db.models import Message, NewMessage, Session

PAYLOAD: Final = "openai_agents"
"""The metadata key of an item of the SDK: an object, or its JSON text if the database can't hold the object."""

CLEARED: Final = "openai_agents_cleared"
"""The key in a session's metadata that says how many messages it had had when the last of them was removed."""


class StoredSession:
    """A `Session` of the SDK, for `Runner.run(..., session=...)`. The manager stays open.

    Args:
        session_id: the name of a conversation of `agent_id`, created with the first items; or the whole key of a
            session that exists, which starts with `agent:`.
        manager: where the items are kept.
        agent_id: the agent to which the conversation belongs.
        session_settings: how many items `get_items` returns unless told otherwise.

    Raises:
        InvalidInput: one of them is not what it must be.
    """

    session_settings: SessionSettings | None

    def __init__(
        self,
        session_id: str,
        manager: AsyncSessionManager,
        *,
        agent_id: str = "main",
        session_settings: SessionSettings | dict[str, Any] | None = None,
    ) -> None:
        self.session_id = session_id
        self.session_settings = _settings(session_settings)
        self._manager = async_manager(manager)
        self._agent_id = validation.agent_id(agent_id)
        self._name: str | None = None
        if validation.text("session_id", session_id).startswith("agent:"):
            self._key = keys.checked_key("session_id", session_id)
        else:
            self._name = validation.conversation_name(session_id)
            self._key = keys.conversation_key(self._agent_id, self._name)

    async def get_items(self, limit: int | None = None) -> list[TResponseInputItem]:
        """The retained items, oldest first.

        Once the session has been trimmed they start with a user, system or developer message if there is one, because
        the API refuses the rest of a turn. If there is none, only what it refuses is left out.

        Args:
            limit: exactly the newest so many, whatever the API thinks of them (default: that of `session_settings`).

        Raises:
            InvalidInput: a negative limit.
            SessionNotFound: `session_id` is a key, and there is no such session.
        """
        if limit is None and self.session_settings is not None:
            limit = self.session_settings.limit
        if (unchanged := await self._unchanged(limit)) is not None:
            return cast(list[TResponseInputItem], unchanged)
        if limit is None:
            return await self._all()
        stored = await self._history(limit)
        items = _items(stored)
        if len(items) < len(stored) == limit:
            items = _items(await self._history())[-limit:]
        return cast(list[TResponseInputItem], items)

    async def add_items(self, items: list[TResponseInputItem]) -> None:
        """Append the items: all or none.

        Raises:
            InvalidInput: they are not objects of JSON values.
            SessionNotFound: `session_id` is a key, and there is no such session.
        """
        if isinstance(items, str) or not isinstance(items, Sequence):
            raise InvalidInput("items", "must be a list", items)
        for at, item in enumerate(items):
            if not isinstance(item, Mapping):
                raise InvalidInput(f"items[{at}]", "must be an object", item)
        if not items:
            return
        names = await self._names(items)
        new = [_to_new(at, item, names) for at, item in enumerate(items)]
        if self._name is None:
            await self._manager.add_messages(self._key, new)
        else:
            await append(self._manager, self._agent_id, self._name, new)

    async def pop_item(self) -> TResponseInputItem | None:
        """The newest item, removed from the session; None if there is none."""
        items, emptied = list[dict[str, Any]](), False
        async with self._manager.transaction() as tx:
            while not items and (popped := self._found(await tx.pop_messages(self._key))):
                # What is no item for the SDK goes as well: it came after the item.
                items = _items(popped)
                emptied = not await tx.history(self._key, 1, include_tools=True)
            if emptied:
                await self._mark_empty(tx)
        return cast(TResponseInputItem, items[0]) if items else None

    async def clear_session(self) -> None:
        """Remove all items. The session stays, and its log says what was removed."""
        async with self._manager.transaction() as tx:
            if self._found(await tx.pop_messages(self._key, None)):
                await self._mark_empty(tx)

    async def _mark_empty(self, tx: AsyncTransaction) -> None:
        session = cast(Session, await tx.get(self._key))
        await tx.update_session(self._key, metadata={CLEARED: session.message_count})

    async def _unchanged(self, limit: int | None) -> list[Any] | None:
        """The items, if each message holds one as an object and none is to be left out; otherwise None."""
        stored = await self._manager._metadata(self._key, limit)  # noqa: SLF001  # for adapters
        if stored is None or (not stored and self._name is None):
            return None
        items: list[Any] = [metadata.get(PAYLOAD) for _, metadata in stored]
        if not all(type(item) is dict for item in items):
            return None
        return None if limit is None and items and _is_cut(stored[0][0], items[0]) else items

    async def _all(self) -> list[TResponseInputItem]:
        session = await self._manager.get(self._key)
        stored = self._found(None if session is None else [*session.messages])
        cleared = None if session is None else (session.metadata or {}).get(CLEARED)
        cut = bool(stored) and _is_cut(stored[0].seq, _item(stored[0]), cleared)
        found = [
            (item, PAYLOAD in (message.metadata or {})) for message in stored if (item := _item(message)) is not None
        ]
        if cut or len(found) < len(stored) or not all(whole for _, whole in found):
            return cast(list[TResponseInputItem], openai_responses.acceptable(found, cut=cut))
        return cast(list[TResponseInputItem], [item for item, _ in found])

    async def _history(self, limit: int | None = None) -> list[Message]:
        return self._found(await self._manager.history(self._key, limit, include_tools=True))

    def _found(self, messages: list[Message] | None) -> list[Message]:
        if messages is None and self._name is None:
            raise SessionNotFound(self._key)
        return messages or []

    async def _names(self, items: Sequence[Item]) -> dict[str, str]:
        """The tools of the calls that these items answer."""
        names = openai_responses.names_of_tools(items)
        outputs = [item for item in items if openai_responses.role(item) is Role.TOOL]
        if all(openai_responses.tool_name(item, names) for item in outputs):
            return names
        return openai_responses.names_of_tools(_items(await self._history())) | names


def _settings(given: object) -> SessionSettings:
    if given is None or isinstance(given, SessionSettings):
        return given or SessionSettings()
    try:
        return SessionSettings().resolve(cast(dict[str, Any], given))
    except (TypeError, ValueError) as error:
        raise InvalidInput("session_settings", "must be a SessionSettings", given) from error


def _to_new(at: int, item: Item, names: Mapping[str, str]) -> NewMessage:
    try:
        text, tool_name = openai_responses.text(item), openai_responses.tool_name(item, names)
        return with_payload(openai_responses.role(item), text, tool_name, PAYLOAD, item)
    except InvalidInput as error:
        raise InvalidInput(f"items[{at}]", error.reason, item) from error


def _items(stored: Sequence[Message]) -> list[dict[str, Any]]:
    return [item for message in stored if (item := _item(message)) is not None]


def _item(message: Message) -> dict[str, Any] | None:
    """The item; None for another client's tool message, and a redacted one: the API takes no output without an id."""
    item = payload(message, PAYLOAD)
    if item is None and message.role != "tool":
        return {"role": message.role.value, "content": message.content}
    return item


def _is_cut(seq: int, first: Item | None, cleared: object = None) -> bool:
    """Whether messages that start with this one start within a turn: those before were trimmed, and not cleared."""
    return seq - 1 not in (0, cleared) and (first is None or not openai_responses.begins_turn(first))

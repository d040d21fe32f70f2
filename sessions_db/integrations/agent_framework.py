"""The history of Microsoft Agent Framework's agents: each of its sessions is a conversation of one agent.

A message's metadata holds what the framework's `to_dict` gave, so that it comes back as it was; role, content and tool
name are for those who read the table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from agent_framework import Content, HistoryProvider
from agent_framework import Message as ChatMessage

from sessions_db import keys, validation
from sessions_db.aio import AsyncSessionManager
from sessions_db.aio.manager import async_manager
from sessions_db.enums import Role
from sessions_db.errors import InvalidInput
from sessions_db.integrations.conversations import append
from sessions_db.integrations.payloads import json_text, payload, with_payload
from sessions_db.models import Message, NewMessage

PAYLOAD: Final = "agent_framework"
"""The metadata key of a message of the framework: an object, or its JSON text if the database can't hold the object."""

_ROLES = {
    "system": Role.SYSTEM,
    "developer": Role.SYSTEM,
    "user": Role.USER,
    "tool": Role.TOOL,
    "function": Role.TOOL,
}


class StoredHistoryProvider(HistoryProvider):
    """Gives an agent the retained messages of its session before a run, and stores what the run added.

    The framework's `session_id` is the name of a conversation of `agent_id`, created with the first messages. The
    manager stays open.

    Args:
        manager: where the messages are kept.
        agent_id: the agent to which the conversations belong.
        source_id: the provider's name within the framework.
        load_messages: False only stores.
        store_inputs: whether to store what the agent was asked.
        store_outputs: whether to store what it answered.
        store_context_messages: whether to store what other context providers added.
        store_context_from: only those with these `source_id`s.

    Raises:
        InvalidInput: `manager` is no `AsyncSessionManager`, or `agent_id` can't be one.
    """

    def __init__(
        self,
        manager: AsyncSessionManager,
        agent_id: str = "main",
        *,
        source_id: str = "sessions_db",
        load_messages: bool = True,
        store_inputs: bool = True,
        store_outputs: bool = True,
        store_context_messages: bool = False,
        store_context_from: set[str] | None = None,
    ) -> None:
        super().__init__(
            source_id,
            load_messages=load_messages,
            store_inputs=store_inputs,
            store_outputs=store_outputs,
            store_context_messages=store_context_messages,
            store_context_from=store_context_from,
        )
        self._manager = async_manager(manager)
        self._agent_id = validation.agent_id(agent_id)

    async def get_messages(
        self, session_id: str | None, *, state: Mapping[str, object] | None = None, **kwargs: object
    ) -> list[ChatMessage]:
        """The retained messages, oldest first; none if there is no such conversation.

        After trimming they start with a user or system message if there is one, because model APIs refuse the rest of
        a turn. A result whose call is not there is left out, and so is an approval whose request is not there.

        Raises:
            InvalidInput: the session has no id, or one that can't be a conversation's name.
        """
        key = keys.conversation_key(self._agent_id, _name(session_id))
        stored = await self._manager.history(key, include_tools=True) or []
        found = [chat for message in stored if (chat := _to_chat(message)) is not None]
        if stored and stored[0].seq > 1:
            found = found[next((at for at, message in enumerate(found) if _begins_turn(message)), 0) :]
        return list(_answered(found))

    async def save_messages(
        self,
        session_id: str | None,
        messages: Sequence[ChatMessage],
        *,
        state: Mapping[str, object] | None = None,
        **kwargs: object,
    ) -> None:
        """Append the messages: all or none.

        Raises:
            InvalidInput: the session's id can't be a conversation's name, or a message is not JSON.
        """
        name = _name(session_id)
        if not isinstance(messages, Sequence) or not all(isinstance(message, ChatMessage) for message in messages):
            raise InvalidInput("messages", "must be the framework's messages", messages)
        if not messages:
            return
        for message in messages:
            _check_names(message)
        tools = _tools(messages)
        if any(result.call_id not in tools for message in messages for result in _results(message)):
            tools |= _tools(await self.get_messages(session_id))
        await append(self._manager, self._agent_id, name, [_to_new(message, tools) for message in messages])


def _name(session_id: str | None) -> str:
    if session_id is None:
        raise InvalidInput("session_id", "must be given: pass a session to the agent's run", session_id)
    return validation.conversation_name(session_id)


def _check_names(message: ChatMessage) -> None:
    names: list[object] = [message.role]
    names += [name for each in message.contents for name in (each.call_id, each.name) if name is not None]
    if not all(isinstance(name, str) for name in names):
        raise InvalidInput("messages", "must have a role, ids and names that are texts", message)


def _results(message: ChatMessage) -> list[Content]:
    return [content for content in message.contents if content.type == "function_result"]


def _tools(messages: Sequence[ChatMessage]) -> dict[str | None, str]:
    """The name of the tool of each call."""
    return {
        call.call_id: call.name
        for message in messages
        for call in message.contents
        if call.type == "function_call" and call.name
    }


def _to_new(message: ChatMessage, tools: Mapping[str | None, str]) -> NewMessage:
    role = _ROLES.get(message.role, Role.ASSISTANT)
    try:
        # By itself, the message leaves out a tool's result that is not JSON.
        stored = message.to_dict() | {"contents": [content.to_dict() for content in message.contents]}
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInput("messages", "must be what the framework can serialize", message) from error
    named = {tools[result.call_id] for result in _results(message) if result.call_id in tools}
    tool_name = named.pop() if role is Role.TOOL and len(named) == 1 else None
    return with_payload(role, "\n".join(_texts(stored["contents"])), tool_name, PAYLOAD, stored)


def _texts(contents: Sequence[Mapping[str, object]]) -> Iterator[str]:
    for content in contents:
        if content["type"] in ("text", "function_result"):
            text = content.get("text" if content["type"] == "text" else "result", "")
            yield text if isinstance(text, str) else json_text(text, ascii_only=False)


def _to_chat(message: Message) -> ChatMessage | None:
    stored = payload(message, PAYLOAD)
    if stored is not None:
        return ChatMessage.from_dict(stored)
    # Another client's, or redacted. No API takes a result without the id of its call.
    return None if message.role == "tool" else ChatMessage(message.role, [message.content])


def _begins_turn(message: ChatMessage) -> bool:
    return message.role in ("user", "system", "developer") and not any(map(_answers, message.contents))


def _answers(content: Content) -> str | None:
    """The id of the call or request that this answers."""
    match content.type:
        case "function_result":
            return content.call_id
        case "function_approval_response":
            return content.id
        case _:
            return None


def _answered(messages: Sequence[ChatMessage]) -> Iterator[ChatMessage]:
    """The messages without the answers to what is not in the same message or before it.

    Model APIs refuse such results. The framework ignores such approvals, but warns of them in each run.
    """
    asked: set[str | None] = {None}
    for message in messages:
        for content in message.contents:
            if content.type in ("function_call", "function_approval_request"):
                asked.add(content.call_id if content.type == "function_call" else content.id)
        contents = [content for content in message.contents if _answers(content) in asked]
        if contents or not message.contents:
            message.contents = contents
            yield message

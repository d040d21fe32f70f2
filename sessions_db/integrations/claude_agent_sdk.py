"""The transcripts of the Claude Agent SDK: each is a conversation of one agent, those of its sub-agents its children.

An entry is a message. Its metadata holds the entry, so that it comes back as it was; role, content and tool name are
for those who read the table.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any, Final, cast

from claude_agent_sdk import SessionKey, SessionStore, SessionStoreEntry, fold_session_summary
from claude_agent_sdk.types import SessionListSubkeysKey, SessionStoreListEntry, SessionSummaryEntry

from sessions_db import keys, validation
from sessions_db.aio import AsyncSessionManager
from sessions_db.aio.manager import async_manager
from sessions_db.enums import Role, SessionKind
from sessions_db.errors import IdempotencyConflict, InvalidInput, SessionChanged, SessionNotFound, Shown
from sessions_db.integrations.payloads import json_text, payload, with_payload
from sessions_db.limits import MAX_INTEGER, MAX_MESSAGE_CAP
from sessions_db.models import Message, NewMessage, Session

PAYLOAD: Final = "claude_agent_sdk"
"""The metadata key of an entry: an object, or its JSON text if the database can't hold the object.

In the metadata of a sub-agent's session, it holds the transcript's `subpath`.
"""

SUMMARY: Final = "claude_agent_sdk_summary"
"""The metadata key of the SDK's summary of a transcript up to this message, as JSON text."""

_RECENT = 20
"""How many messages an append looks back, for the summary and the names of tools."""

_SAYING = ("content", "customTitle", "aiTitle", "lastPrompt", "agentType")
"""Where entries that are no messages say something, if not under the name of their type."""


class StoredSessionStore(SessionStore):
    """Keeps the SDK's transcripts, for `ClaudeAgentOptions(session_store=...)`.

    A main transcript is the conversation `<project_key>/<session_id>` of `agent_id`. It retains every entry, whatever
    the manager's cap, because the SDK resumes from the whole of it. The manager stays open.

    Args:
        manager: where the transcripts are kept.
        agent_id: the agent to which the transcripts belong.

    Raises:
        InvalidInput: `manager` is no `AsyncSessionManager`, or `agent_id` can't be one.
    """

    def __init__(self, manager: AsyncSessionManager, agent_id: str = "main") -> None:
        self._manager = async_manager(manager)
        self._agent_id = validation.agent_id(agent_id)

    async def append(self, key: SessionKey, entries: list[SessionStoreEntry]) -> None:
        """Append the entries, all or none; those whose `uuid` the transcript has are left out.

        Raises:
            InvalidInput: the key can't be a conversation's name, or an entry is not JSON.
        """
        main_key, subpath = self._place(key)
        left = _each_once(entries)
        count: int | None = None
        while left:
            try:
                await self._append(key, main_key, subpath, left, count)
            except SessionNotFound:
                name = main_key.removeprefix(keys.conversation_key(self._agent_id, ""))
                await self._manager.get_or_create(self._agent_id, name, message_cap=MAX_MESSAGE_CAP)
            except SessionChanged as changed:
                count = changed.count
            except IdempotencyConflict as conflict:
                # The entry is there, but has another summary or tool name with it, or was another.
                known = {conflict.idempotency_key, *(entry.get("uuid") for entry in await self.load(key) or [])}
                unknown = [entry for entry in left if entry.get("uuid") not in known]
                if len(unknown) == len(left):
                    raise
                left = unknown
            else:
                return

    async def _append(
        self,
        key: SessionKey,
        main_key: str,
        subpath: str | None,
        entries: Sequence[Mapping[str, Any]],
        count: int | None,
    ) -> None:
        session_key = self._session_key(main_key, subpath)
        recent = await self._manager.history(session_key, _RECENT, include_tools=True)
        tools = _tools([*_entries(recent or ()), *entries])
        new = [_to_new(entry, tools) for entry in entries]
        if subpath is not None:
            if recent is None:
                await self._spawn(main_key, subpath)
            await self._manager.add_messages(session_key, new)
            return
        summary = fold_session_summary(await self._summary(key, main_key, recent or ()), key, cast(Any, entries))
        new[-1] = replace(new[-1], metadata={**(new[-1].metadata or {}), SUMMARY: json_text(summary["data"])})
        if count is None:
            count = recent[-1].seq if recent else 0
        # Of two that continue the same summary, one is refused, and continues that of the other.
        await self._manager.add_messages(main_key, new, expected_count=count)

    async def load(self, key: SessionKey) -> list[SessionStoreEntry] | None:
        """All entries of the transcript, oldest first; None if it has none."""
        main_key, subpath = self._place(key)
        stored = await self._manager.history(self._session_key(main_key, subpath), include_tools=True)
        return cast(list[SessionStoreEntry], [*_entries(stored or ())]) or None

    async def list_sessions(self, project_key: str) -> list[SessionStoreListEntry]:
        """The main transcripts of the project, with the times of their last appends."""
        return [
            {"session_id": session_id, "mtime": session.last_activity_ms}
            for session_id, session in await self._transcripts(project_key)
        ]

    async def list_session_summaries(self, project_key: str) -> list[SessionSummaryEntry]:
        """The SDK's summaries of the main transcripts of the project."""
        found: list[SessionSummaryEntry] = []
        for session_id, session in await self._transcripts(project_key, message_limit=1):
            key = SessionKey(project_key=project_key, session_id=session_id)
            summary = await self._summary(key, session.key, session.messages)
            if summary is not None:
                found.append({**summary, "mtime": session.last_activity_ms})
        return found

    async def delete(self, key: SessionKey) -> None:
        """Delete the transcript; with a main transcript, those of its sub-agents too."""
        main_key, subpath = self._place(key)
        async with self._manager.transaction() as tx:
            for child in await tx.children(main_key):
                if (stored := _subpath(child)) is not None and subpath in {None, stored}:
                    await tx.delete_session(child.key)
            if subpath is None:
                await tx.delete_session(main_key)

    async def list_subkeys(self, key: SessionListSubkeysKey) -> list[str]:
        """The `subpath` of each transcript of a sub-agent, oldest first."""
        main_key, _ = self._place(key)
        children = await self._manager.children(main_key)
        return [subpath for child in children if (subpath := _subpath(child)) is not None]

    def _place(self, key: SessionKey | SessionListSubkeysKey) -> tuple[str, str | None]:
        """The key of the main transcript's session, and the subpath."""
        if not isinstance(key, Mapping):
            raise InvalidInput("key", "must be a mapping", key)
        project_key = validation.nonempty_name("project_key", key.get("project_key"))
        session_id = validation.nonempty_name("session_id", key.get("session_id"))
        if "/" in session_id:
            # Two transcripts could have one name.
            raise InvalidInput("session_id", "must not contain '/'", session_id)
        name = validation.conversation_name(f"{project_key}/{session_id}")
        subpath = validation.optional_text("subpath", key.get("subpath"))
        if subpath == "":
            raise InvalidInput("subpath", "must not be empty", subpath)
        return keys.conversation_key(self._agent_id, name), subpath

    def _session_key(self, main_key: str, subpath: str | None) -> str:
        """The key of the session with the main transcript, or with that of a sub-agent."""
        if subpath is None:
            return main_key
        return keys.repeated_key(self._agent_id, SessionKind.SUBAGENT, _idempotency_key(main_key, subpath))

    async def _spawn(self, main_key: str, subpath: str) -> None:
        """Create the session of a sub-agent's transcript, if there is none."""
        await self._manager.spawn_subagent(
            self._agent_id,
            subpath,
            parent_key=main_key,
            metadata={PAYLOAD: {"subpath": subpath}},
            message_cap=MAX_MESSAGE_CAP,
            idempotency_key=_idempotency_key(main_key, subpath),
        )

    async def _transcripts(self, project_key: str, message_limit: int = 0) -> list[tuple[str, Session]]:
        """The main transcripts of a project, each with its `session_id`."""
        prefix = keys.conversation_key(self._agent_id, f"{validation.text('project_key', project_key)}/")
        stored = await self._manager.list(key_prefix=prefix, limit=MAX_INTEGER, message_limit=message_limit)
        found = [(session.key.removeprefix(prefix), session) for session in stored]
        # One without messages was created for its sub-agents.
        return [(id_, session) for id_, session in found if id_ and "/" not in id_ and session.message_count]

    async def _summary(
        self, key: SessionKey, session_key: str, newest: Sequence[Message]
    ) -> SessionSummaryEntry | None:
        """The summary of the transcript, of which these are the newest messages; None if there are none."""
        at = _summarized(newest)
        if at is None and newest and newest[0].seq > 1:
            newest = await self._manager.history(session_key, include_tools=True) or []
            at = _summarized(newest)
        summary, later = None, newest
        if at is not None:
            data, later = payload(newest[at], SUMMARY) or {}, newest[at + 1 :]
            summary = SessionSummaryEntry(session_id=key["session_id"], mtime=0, data=data)
        return fold_session_summary(summary, key, cast(Any, [*_entries(later)])) if later else summary


def _summarized(messages: Sequence[Message]) -> int | None:
    """The position of the last message with a summary."""
    positions = reversed(range(len(messages)))
    return next((at for at in positions if SUMMARY in (messages[at].metadata or {})), None)


def _idempotency_key(main_key: str, subpath: str) -> str:
    return sha256(f"{main_key}\0{subpath}".encode()).hexdigest()


def _subpath(child: Session) -> str | None:
    """The subpath of a sub-agent's transcript; None for a session that somebody else spawned."""
    place = (child.metadata or {}).get(PAYLOAD)
    subpath = place.get("subpath") if isinstance(place, Mapping) else None
    return subpath if isinstance(subpath, str) else None


def _each_once(entries: object) -> list[Mapping[str, Any]]:
    """The entries, without those whose uuid comes again."""
    if not isinstance(entries, Sequence) or not all(isinstance(entry, Mapping) for entry in entries):
        raise InvalidInput("entries", "must be a list of objects", entries)
    found: dict[object, Mapping[str, Any]] = {}
    for position, entry in enumerate(entries):
        uuid = validation.optional_nonempty_name(f"entries[{position}].uuid", entry.get("uuid"))
        found.setdefault(position if uuid is None else uuid, entry)
    return [*found.values()]


def _entries(messages: Iterable[Message]) -> Iterator[dict[str, Any]]:
    """The entries of the messages that have one."""
    return (entry for message in messages if (entry := payload(message, PAYLOAD)) is not None)


def _to_new(entry: Mapping[str, Any], tools: Mapping[str, str]) -> NewMessage:
    blocks = _blocks(entry.get("message"))
    try:
        content = "\n".join(text for block in blocks for text in _texts(block))
    except RecursionError:
        raise InvalidInput("entries", "must be nested less deeply", Shown("a deeper one")) from None
    answered = [str(block.get("tool_use_id")) for block in blocks if block.get("type") == "tool_result"]
    match entry.get("type"):
        case "user":
            role = Role.TOOL if answered else Role.USER
        case "assistant":
            role = Role.ASSISTANT
        case _:
            role, content = Role.SYSTEM, _said(entry)
    named = {tools.get(call_id) for call_id in answered} or {*_tools([entry]).values()}
    tool_name = named.pop() if len(named) == 1 else None
    return with_payload(role, content, tool_name, PAYLOAD, entry, idempotency_key=entry.get("uuid"))


def _blocks(said: object) -> list[Mapping[str, Any]]:
    """The content of a message or a tool's result, as blocks; it may be a text."""
    content = said.get("content") if isinstance(said, Mapping) else None
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return [block for block in content if isinstance(block, Mapping)] if isinstance(content, list) else []


def _tools(entries: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """The name of the tool of each call."""
    return {
        block["id"]: block["name"]
        for entry in entries
        for block in _blocks(entry.get("message"))
        if block.get("type") == "tool_use" and isinstance(block.get("id"), str) and isinstance(block.get("name"), str)
    }


def _texts(block: Mapping[str, Any]) -> Iterator[str]:
    match block:
        case {"type": "text", "text": str(text)}:
            yield text
        case {"type": "tool_use", "input": given}:
            yield json_text(given, ascii_only=False)
        case {"type": "tool_result"}:
            for part in _blocks(block):
                yield from _texts(part)


def _said(entry: Mapping[str, Any]) -> str:
    """What an entry that is no message is, and what it says."""
    kind = str(entry.get("type"))
    named = entry.get(kind)
    values = (named.get("type") if isinstance(named, Mapping) else named, *map(entry.get, _SAYING))
    said = next((value for value in values if isinstance(value, str)), None)
    return kind if said is None else f"{kind}: {said}"

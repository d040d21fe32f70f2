"""The tools by which an agent's model works with sessions."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, Final, Literal, TypeAlias

from sessions_db import validation
from sessions_db.aio import AsyncSessionManager
from sessions_db.aio.manager import async_manager
from sessions_db.errors import LabelInUse, SessionNotActive, SessionNotFound
from sessions_db.limits import MAX_INTEGER, PAGE
from sessions_db.models import Message, Session, SpawnLimits
from sessions_db.tools.refusals import Refused, telling
from sessions_db.tools.results import (
    NOTE,
    SENT_BY,
    AgentsListed,
    MessageSent,
    Outcome,
    SessionHistory,
    SessionsKilled,
    SessionsListed,
    SessionSpawned,
    SessionsStatus,
    message_info,
    related,
    sender_of,
    session_info,
)
from sessions_db.tools.visibility import Scope, Visibility

Kind: TypeAlias = Literal["main", "subagent", "cron", "conversation"]
Hook: TypeAlias = Callable[..., Awaitable[object] | object]
Tool: TypeAlias = Callable[..., Coroutine[Any, Any, Outcome]]

_MINUTE_MS: Final = 60_000


class SessionTools:
    """The session tools of one caller, a session in whose name they act.

    Each is an async method that takes and returns JSON values, has a docstring for the model, and can be given to
    OpenAI's `function_tool`, ADK's `FunctionTool` and MCP's `add_tool` as it is. A call that is refused returns its
    reason as `error`; other errors, such as `DatabaseUnavailable`, are raised.

    What the caller does not see is "not found" in every tool. `SENT_BY` in the metadata of a message tells which
    session sent it. The manager stays open.

    Args:
        manager: where the sessions are. Where it is read-only, the tools that write refuse.
        caller: the key of the calling session.
        visibility: which sessions it sees: `"self"`, `"tree"` (itself and everything below it), `"agent"` (its agent's)
            or `"all"`.
        agents: the agents for which it may spawn sessions, besides its own.
        limits: for what it spawns.
        on_message: called, and awaited if that can be, with the session and the message after each `sessions_send`.
        on_spawn: likewise with the new session, to start its run. If it raises or is cancelled, the session ends
            as `error`.

    Raises:
        InvalidInput: an argument can't be accepted.
    """

    def __init__(
        self,
        manager: AsyncSessionManager,
        caller: str,
        *,
        visibility: Visibility | str = Visibility.TREE,
        agents: Iterable[str] = (),
        limits: SpawnLimits | None = None,
        on_message: Hook | None = None,
        on_spawn: Hook | None = None,
    ) -> None:
        self._manager = async_manager(manager)
        self._scope = Scope(manager, caller, visibility)
        others = map(validation.agent_id, validation.texts("agents", agents))
        self._agents = [*dict.fromkeys((self._scope.agent_id, *others))]
        self._limits = limits
        self._on_message = on_message
        self._on_spawn = on_spawn

    @property
    def rule(self) -> str:
        """Which sessions the caller sees, in words, as each result states it."""
        return self._scope.rule

    @property
    def reading(self) -> tuple[Tool, ...]:
        """The tools that change nothing."""
        return (self.sessions_list, self.sessions_history, self.session_status, self.agents_list)

    @property
    def writing(self) -> tuple[Tool, ...]:
        """The tools that change something."""
        return (self.sessions_send, self.sessions_spawn, self.sessions_kill)

    @telling
    async def sessions_list(
        self,
        kinds: list[Kind] | None = None,
        limit: int = 20,
        activeMinutes: int | None = None,
        messageLimit: int = 0,
    ) -> SessionsListed:
        """List sessions, the newest first.

        Args:
            kinds: Only sessions of these kinds.
            limit: At most this many sessions.
            activeMinutes: Only sessions that were active in the last so many minutes.
            messageLimit: How many of its newest messages to show with each session.
        """
        within_ms = None
        if activeMinutes is not None:
            most = MAX_INTEGER // _MINUTE_MS
            within_ms = _MINUTE_MS * validation.integer("activeMinutes", activeMinutes, minimum=0, maximum=most)
        sessions = await self._scope.list(kinds, limit, within_ms, messageLimit)
        seen = await self._scope.seen({key for session in sessions for key in related(session)}, sessions)
        return SessionsListed(
            note=NOTE,
            sessions=[session_info(session, seen, with_messages=messageLimit > 0) for session in sessions],
            message=f"Sessions: {len(sessions)}" if sessions else "No active sessions.",
            visibility=self.rule,
        )

    @telling
    async def sessions_history(self, sessionKey: str, limit: int = 20, includeTools: bool = False) -> SessionHistory:
        """Read the newest messages of a session, the oldest of them first.

        Args:
            sessionKey: The key of the session.
            limit: At most this many messages.
            includeTools: Whether to include the messages of tools.
        """
        session = await self._found(sessionKey, None)
        messages = await self._manager.history(session.key, limit, includeTools)
        if messages is None:
            raise SessionNotFound(session.key)
        seen = await self._scope.seen({sender for each in messages if (sender := sender_of(each)) is not None})
        return SessionHistory(
            note=NOTE,
            sessionKey=session.key,
            messages=[message_info(message, seen) for message in messages],
            message=f"History for {session.key}" if messages else f"No messages in session: {session.key}",
            visibility=self.rule,
        )

    @telling
    async def sessions_send(self, message: str, sessionKey: str | None = None, label: str | None = None) -> MessageSent:
        """Send a message to an active session.

        Args:
            message: The text.
            sessionKey: The key of the session.
            label: The label of the session, if its key is not given.
        """
        session = await self._found(sessionKey, label)
        sent = await self._manager.send_message(session.key, message, metadata={SENT_BY: self._scope.caller})
        await _tell(self._on_message, session, sent)
        return MessageSent(
            sessionKey=session.key,
            seq=sent.seq,
            message=f"Message sent to session: {session.key}",
            visibility=self.rule,
        )

    @telling
    async def sessions_spawn(self, task: str, label: str | None = None, agentId: str | None = None) -> SessionSpawned:
        """Start a sub-agent session for a task. It belongs to the calling session.

        Args:
            task: What the sub-agent is to do.
            label: A name by which to find the session; not one that is in use.
            agentId: The agent that does it, one of agents_list. By default the caller's own.
        """
        agent_id = agentId or self._scope.agent_id
        if agent_id not in self._agents:
            raise Refused(f"Unknown agent id: {agent_id}. agents_list tells those that may be spawned.")
        try:
            key = await self._manager.spawn_subagent(
                agent_id, task, label or None, self._scope.caller, on_label_conflict="error", limits=self._limits
            )
        except LabelInUse:
            # Not by which session: the caller may not see it.
            raise Refused(f"Label is in use: {label}") from None
        session = await self._spawned(key)
        result = session.spawn_result(f"Sub-agent session spawned: {key}")
        return SessionSpawned(
            status=result.status,
            runId=result.run_id,
            sessionKey=result.session_key,
            message=result.message,
            visibility=self.rule,
        )

    @telling
    async def sessions_kill(self, sessionKey: str | None = None, label: str | None = None) -> SessionsKilled:
        """Stop a spawned session and all active sessions below it.

        Args:
            sessionKey: The key of the session.
            label: The label of the session, if its key is not given.
        """
        session = await self._found(sessionKey, label)
        if session.run_id is None:
            raise Refused(f"Session {session.key} was not spawned: only what was spawned can be stopped.")
        stopped = [session.key] if await self._stop(session.key) else []
        # It may have spawned another one in the meantime.
        while active := await self._scope.active_below(session.key, PAGE):
            stopped += [each.key for each in active if await self._stop(each.key)]
        below = len(stopped) - (session.key in stopped)
        told = f"Stopped session: {session.key}" if session.key in stopped else f"Session had ended: {session.key}"
        return SessionsKilled(
            sessionKey=session.key,
            stopped=stopped,
            message=f"{told}, and {below} below it" if below else told,
            visibility=self.rule,
        )

    @telling
    async def session_status(self, sessionKey: str | None = None) -> SessionsStatus:
        """Tell the status of a session; without a key, how many sessions there are.

        Args:
            sessionKey: The key of the session.
        """
        if not sessionKey:
            total = await self._scope.count(active_only=False)
            active = await self._scope.count(active_only=True)
            return SessionsStatus(
                activeSessions=active,
                totalSessions=total,
                message=f"Active sessions: {active} of {total}",
                visibility=self.rule,
            )
        session = await self._found(sessionKey, None)
        return SessionsStatus(
            note=NOTE,
            session=session_info(session, await self._scope.seen(related(session), [session])),
            message=f"Session is {session.status}: {session.key}",
            visibility=self.rule,
        )

    @telling
    async def agents_list(self) -> AgentsListed:
        """List the agents for which sessions_spawn may start a session, the caller's own first."""
        return AgentsListed(agents=[*self._agents], message="Available agents for sessions_spawn", visibility=self.rule)

    async def _found(self, key: str | None, label: str | None) -> Session:
        # Models that must fill in each parameter leave one out as an empty text.
        if key:
            session = await self._scope.find(key)
            if session is None:
                raise SessionNotFound(key)
        elif label:
            session = await self._scope.find_by_label(label)
            if session is None:
                raise Refused(f"No session found with label: {label}")
        else:
            raise Refused("Must provide sessionKey or label")
        return session

    async def _spawned(self, key: str) -> Session:
        session = await self._manager.get(key)
        if session is None:
            raise SessionNotFound(key)
        try:
            await _tell(self._on_spawn, session)
        except BaseException as error:
            # Nothing runs in it, and nobody else would end it. So too if the call was cancelled.
            await self._manager.error_session(key, f"could not be started: {type(error).__name__}")
            raise
        return session

    async def _stop(self, key: str) -> bool:
        try:
            return await self._manager.stop_session(key, "sessions_kill")
        except (SessionNotActive, SessionNotFound):
            return False


async def _tell(hook: Hook | None, *what: Session | Message) -> None:
    if hook is not None:
        told = hook(*what)
        if inspect.isawaitable(told):
            await told

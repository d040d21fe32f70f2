"""The framework's session service."""

from __future__ import annotations

import asyncio
from asyncio import AbstractEventLoop
from typing import Any
from weakref import WeakValueDictionary

from google.adk.errors import StaleSessionError
from google.adk.errors.already_exists_error import AlreadyExistsError
from google.adk.errors.session_not_found_error import SessionNotFoundError
from google.adk.events import Event
from google.adk.platform import time as platform_time
from google.adk.platform import uuid as platform_uuid
from google.adk.sessions import BaseSessionService, Session
from google.adk.sessions.base_session_service import GetSessionConfig, ListSessionsResponse

from sessions_db import validation
from sessions_db.aio import AsyncSessionManager, AsyncTransaction
from sessions_db.aio.manager import async_manager
from sessions_db.enums import SessionKind
from sessions_db.errors import InvalidInput, SessionChanged, SessionNotFound
from sessions_db.integrations.google_adk.events import (
    selected,
    serialized,
    serialized_state,
    time_of,
    to_events,
    to_new,
)
from sessions_db.integrations.google_adk.names import (
    APP,
    agent_id,
    app_place,
    owner_of,
    session_place,
    session_prefix,
    user_place,
)
from sessions_db.integrations.google_adk.state import Delta, as_metadata, details_of, shared, state_of
from sessions_db.limits import MAX_INTEGER
from sessions_db.models import Session as Conversation


class StoredSessionService(BaseSessionService):
    """Keeps the sessions of apps, with their events and state. The manager stays open.

    Args:
        manager: where they are kept. Its `message_cap` is how many events a session that is created retains.

    Raises:
        InvalidInput: it is another kind of manager.
    """

    def __init__(self, manager: AsyncSessionManager) -> None:
        self._manager = async_manager(manager)
        # Appends to one session take turns, because each must see the count that the one before it has left there.
        self._turns = WeakValueDictionary[tuple[AbstractEventLoop, str], asyncio.Lock]()

    async def create_session(
        self, *, app_name: str, user_id: str, state: dict[str, Any] | None = None, session_id: str | None = None
    ) -> Session:
        """The new session, with the state that it shares.

        Raises:
            InvalidInput: an argument can't be stored; nothing is.
            AlreadyExistsError: there is such a session.
        """
        if session_id is None or not validation.text("session_id", session_id).strip():
            session_id = platform_uuid.new_uuid()
        place = session_place(app_name, user_id, session_id)
        delta = Delta(serialized_state({} if state is None else state))
        made_by = platform_uuid.new_uuid()
        metadata = as_metadata(delta.session, made_by=made_by, created=platform_time.get_time())
        async with self._manager.transaction() as tx:
            conversation = await tx.get_or_create(*place, metadata=metadata)
            # Another call may have made it, even at the same time.
            if details_of(conversation).get("made_by") != made_by:
                raise AlreadyExistsError(f"Session with id {session_id.strip()} already exists.")
            await _share(tx, app_name, user_id, delta)
            of_both = await _shared(tx, app_name, user_id)
        return _session(conversation, app_name, user_id, session_id.strip(), of_both, [])

    async def get_session(
        self, *, app_name: str, user_id: str, session_id: str, config: GetSessionConfig | None = None
    ) -> Session | None:
        """The session with its retained events, oldest first, and the state that it shares; None if there is none.

        After trimming, the events start with one of the user's if there is one, because model APIs refuse the rest of
        a turn.

        Raises:
            InvalidInput: an argument can't be part of a conversation's key.
        """
        place = session_place(app_name, user_id, session_id)
        async with self._manager.snapshot() as tx:
            conversation = await tx.get(place.key)
            if conversation is None:
                return None
            of_both = await _shared(tx, app_name, user_id)
        events = selected(conversation.messages, config)
        return _session(conversation, app_name, user_id, session_id.strip(), of_both, events)

    async def list_sessions(self, *, app_name: str, user_id: str | None = None) -> ListSessionsResponse:
        """The sessions of the user, or of all users, with state and without events; the last updated comes last.

        Raises:
            InvalidInput: an argument can't be part of a conversation's key.
        """
        async with self._manager.snapshot() as tx:
            if user_id is None:
                sessions = await _of_all(tx, app_name)
            else:
                prefix, of_both = session_prefix(app_name, user_id), await _shared(tx, app_name, user_id)
                sessions = [
                    _session(each, app_name, user_id, each.key.removeprefix(prefix), of_both, [])
                    for each in await tx.list(key_prefix=prefix, limit=MAX_INTEGER, message_limit=1)
                ]
        sessions.sort(key=lambda session: (session.last_update_time, session.user_id, session.id))
        return ListSessionsResponse(sessions=sessions)

    async def delete_session(self, *, app_name: str, user_id: str, session_id: str) -> None:
        """Delete the session with its events and its own state, if there is such a session.

        Raises:
            InvalidInput: an argument can't be part of a conversation's key.
        """
        await self._manager.delete_session(session_place(app_name, user_id, session_id).key)

    async def get_user_state(self, *, app_name: str, user_id: str) -> dict[str, Any]:
        """The state that the user's sessions share, without the prefix of its keys.

        Raises:
            InvalidInput: an argument can't be part of a conversation's key.
        """
        return state_of(await self._manager.get(user_place(app_name, user_id).key))

    async def append_event(self, session: Session, event: Event) -> Event:
        """The event, added to the session: stored in one transaction with the changes of state that it brings.

        A partial event is not stored, and temporary state only set in `session`.

        Raises:
            InvalidInput: an argument is not the framework's, or can't be stored; nothing is.
            SessionNotFoundError: there is no such session.
            StaleSessionError: it has had other events since it was read.
        """
        if not isinstance(session, Session):
            raise InvalidInput("session", "must be the framework's session", session)
        if not isinstance(event, Event):
            raise InvalidInput("event", "must be the framework's event", event)
        if event.partial:
            return event
        key = session_place(session.app_name, session.user_id, session.id).key
        stored = serialized(event)
        new, delta = to_new(event, stored), Delta(stored["actions"]["state_delta"])
        turn = self._turns.setdefault((asyncio.get_running_loop(), key), asyncio.Lock())
        async with turn:
            if any(known == event for known in session.events if known.id == event.id):
                # As in the framework's in-memory service, a call that is repeated stores nothing.
                return event
            try:
                count = await self._expected_count(session, key)
                if delta:
                    async with self._manager.transaction() as tx:
                        await tx.add_messages(key, [new], expected_count=count)
                        if delta.session:
                            await tx.update_session(key, metadata=as_metadata(delta.session))
                        await _share(tx, session.app_name, session.user_id, delta)
                else:
                    await self._manager.add_messages(key, [new], expected_count=count)
            except SessionNotFound as error:
                raise SessionNotFoundError(f"Session {session.id} not found.") from error
            except SessionChanged as error:
                raise _stale(session) from error
            session._storage_update_marker = str(count + 1)  # noqa: SLF001  # where the framework's services keep it
            session.last_update_time = event.timestamp
            return await super().append_event(session, event)

    async def _expected_count(self, session: Session, key: str) -> int:
        """How many messages the conversation has had, if the session is not stale."""
        marker = session._storage_update_marker  # noqa: SLF001
        if marker is not None and marker.isdecimal():
            return int(marker)
        # A copy that was made by way of JSON, say.
        conversation = await self._manager.get(key)
        if conversation is None:
            raise SessionNotFound(key)
        newest = [event.id for event in to_events(conversation.messages)[-1:]]
        # One that was read in part may have no events. Times need not grow, because callers may set those of events.
        if newest != [event.id for event in session.events[-1:]] and _updated(conversation) != session.last_update_time:
            raise _stale(session)
        return conversation.message_count


async def _of_all(tx: AsyncTransaction, app_name: str) -> list[Session]:
    """The sessions of all users."""
    agent, of_app = agent_id(app_name), dict[str, Any]()
    of_users, found = dict[str, dict[str, Any]](), list[tuple[Conversation, str, str]]()
    async for each in tx.iterate((SessionKind.CONVERSATION,), agent_id=agent, message_limit=1):
        match owner_of(each.name or ""):
            case (user, str(session_id)):
                found.append((each, user, session_id))
            case (user, None):
                of_users[user] = state_of(each)
            case None if each.name == APP:
                of_app = state_of(each)
    return [
        _session(conversation, app_name, user, session_id, shared(of_app, of_users.get(user, {})), [])
        for conversation, user, session_id in found
    ]


def _session(
    conversation: Conversation,
    app_name: str,
    user_id: str,
    session_id: str,
    shared_state: dict[str, Any],
    events: list[Event],
) -> Session:
    session = Session(
        app_name=app_name,
        user_id=user_id,
        id=session_id,
        state=state_of(conversation) | shared_state,
        events=events,
        last_update_time=_updated(conversation),
    )
    session._storage_update_marker = str(conversation.message_count)  # noqa: SLF001
    return session


def _updated(conversation: Conversation) -> float:
    """The time of the newest event, or when the session was created, in seconds since the epoch."""
    if conversation.messages:
        return time_of(conversation.messages[-1])
    created = details_of(conversation).get("created")
    return created if isinstance(created, float) else conversation.created_ms / 1000


def _stale(session: Session) -> StaleSessionError:
    return StaleSessionError(f"Session {session.id} has been modified in storage since it was read: read it again.")


async def _shared(tx: AsyncTransaction, app_name: str, user_id: str) -> dict[str, Any]:
    of_app, of_user = await tx.get(app_place(app_name).key), await tx.get(user_place(app_name, user_id).key)
    return shared(state_of(of_app), state_of(of_user))


async def _share(tx: AsyncTransaction, app_name: str, user_id: str, delta: Delta) -> None:
    # In this order, after the session: transactions that lock the same rows in another order could block each other.
    for place, state in ((user_place(app_name, user_id), delta.user), (app_place(app_name), delta.app)):
        if state:
            await tx.get_or_create(*place)
            await tx.update_session(place.key, metadata=as_metadata(state))

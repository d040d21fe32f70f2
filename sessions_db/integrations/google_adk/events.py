"""Events as messages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from google.adk.events import Event, EventActions
from google.adk.sessions import State
from google.adk.sessions.base_session_service import GetSessionConfig
from google.genai.types import Content, Part
from pydantic import ValidationError

from sessions_db import validation
from sessions_db.enums import Role
from sessions_db.errors import InvalidInput
from sessions_db.integrations.payloads import json_text, payload, with_payload
from sessions_db.models import Message, NewMessage

PAYLOAD: Final = "google_adk"
"""The metadata key of an event: an object, or its JSON text if the database can't hold the object.

A conversation's metadata has its state there.
"""


def serialized(event: Event) -> dict[str, Any]:
    """The event as JSON, in the framework's form; what is temporary in it is left out.

    Raises:
        InvalidInput: it is not JSON, or could not be read back.
    """
    if not isinstance(event.actions, EventActions):
        raise InvalidInput("event", "must have the framework's actions", event)
    actions = event.actions.model_copy(update={"state_delta": _lasting(event.actions.state_delta)})
    try:
        stored = event.model_copy(update={"actions": actions}).model_dump(mode="json", exclude_none=True)
        restored = Event.model_validate(stored)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInput("event", "must be what the framework can serialize", event) from error
    # The framework gives an event that lacks one of them another each time that it is read. NaN can't be compared.
    if restored.id != event.id or restored.timestamp != event.timestamp:
        raise InvalidInput("event", "must have an id and a time", event)
    return stored


def serialized_state(state: Mapping[str, object]) -> dict[str, Any]:
    """The state as JSON, without what is temporary. Like the framework's services, it makes text of what is not JSON.

    Raises:
        InvalidInput: not even that is possible.
    """
    lasting = _lasting(state)
    try:
        dumped: dict[str, Any] = EventActions(state_delta=lasting).model_dump(mode="json")["state_delta"]
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInput("state", "must be what the framework can serialize", state) from error
    return dumped


def _lasting(state: Mapping[str, object]) -> dict[str, object]:
    if not isinstance(state, Mapping):
        raise InvalidInput("state", "must be a mapping", state)
    return {
        key: value
        for key, value in state.items()
        if not validation.text("a key of state", key).startswith(State.TEMP_PREFIX)
    }


def to_new(event: Event, stored: Mapping[str, Any]) -> NewMessage:
    """The message to store, which holds the serialized event.

    Raises:
        InvalidInput: it can't be stored.
    """
    tools = {response.name for response in event.get_function_responses()}
    role = Role.TOOL if tools else Role.USER if event.author == "user" else Role.ASSISTANT
    tool_name = tools.pop() if len(tools) == 1 else None
    return with_payload(role, "\n".join(_texts(stored)), tool_name, PAYLOAD, stored)


def _texts(event: Mapping[str, Any]) -> Iterator[str]:
    for part in event.get("content", {}).get("parts", ()):
        if "function_response" in part:
            yield json_text(part["function_response"].get("response"), ascii_only=False)
        elif "text" in part and not part.get("thought"):
            yield part["text"]
    for transcription in ("input_transcription", "output_transcription"):
        if text := event.get(transcription, {}).get("text"):
            yield text


def to_events(messages: Sequence[Message]) -> list[Event]:
    """The events that the messages hold; of other clients' messages, those that a model can hear."""
    return [event for message in messages if (event := _to_event(message)) is not None]


def _to_event(message: Message) -> Event | None:
    stored = payload(message, PAYLOAD)
    if stored is not None:
        # What is no event was stored by another client, and must not make the rest unreadable.
        with suppress(ValidationError):
            return Event.model_validate(stored)
    # Another client's, or redacted.
    if message.role is Role.TOOL:
        # No API takes a result without the id of its call.
        return None
    content = Content(role="user" if message.role is Role.USER else "model", parts=[Part(text=message.content)])
    id_ = f"message-{message.seq}"
    return Event(id=id_, author=message.role.value, content=content, timestamp=message.timestamp_ms / 1000)


def time_of(message: Message) -> float:
    """The time of the event, in seconds since the epoch."""
    timestamp = (payload(message, PAYLOAD) or {}).get("timestamp")
    return timestamp if isinstance(timestamp, float) else message.timestamp_ms / 1000


def selected(messages: Sequence[Message], config: GetSessionConfig | None) -> list[Event]:
    """The events of a session that its agent is given.

    If messages were trimmed, they start with one of the user's, if there is one: model APIs refuse the rest of a turn.
    """
    events = to_events(messages)
    if messages and messages[0].seq > 1:
        events = events[next((at for at, event in enumerate(events) if _begins_turn(event)), 0) :]
    if config is not None and config.num_recent_events is not None:
        events = events[max(0, len(events) - config.num_recent_events) :]
    if config is not None and config.after_timestamp is not None:
        events = [event for event in events if event.timestamp >= config.after_timestamp]
    return events


def _begins_turn(event: Event) -> bool:
    return event.author == "user" and not event.get_function_responses()

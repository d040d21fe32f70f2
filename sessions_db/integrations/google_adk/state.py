"""The state of a session, a user or an app, in the metadata of a conversation."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from google.adk.sessions import State

from sessions_db import validation
from sessions_db.errors import InvalidInput
from sessions_db.integrations.google_adk.events import PAYLOAD
from sessions_db.integrations.payloads import json_text
from sessions_db.models import Session as Conversation


class Delta:
    """Changes of state by whose they are, as metadata to merge; what is temporary is left out.

    Args:
        changes: JSON values, by keys with the framework's prefixes.
    """

    def __init__(self, changes: Mapping[str, Any]) -> None:
        self.session: dict[str, Any] = {}
        self.user: dict[str, Any] = {}
        self.app: dict[str, Any] = {}
        for key, value in changes.items():
            if key.startswith(State.APP_PREFIX):
                self.app[key.removeprefix(State.APP_PREFIX)] = _kept(value)
            elif key.startswith(State.USER_PREFIX):
                self.user[key.removeprefix(State.USER_PREFIX)] = _kept(value)
            elif not key.startswith(State.TEMP_PREFIX):
                self.session[key] = _kept(value)

    def __bool__(self) -> bool:
        return bool(self.session or self.user or self.app)


def as_metadata(kept: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """The metadata that sets this part of a `Delta`, and leaves the rest of the state as it is."""
    return {PAYLOAD: {**more, "state": kept}}


def state_of(conversation: Conversation | None) -> dict[str, Any]:
    """The state in a conversation, without prefixes; empty if there is no conversation."""
    kept = details_of(conversation).get("state")
    values = {key: _value(value) for key, value in kept.items()} if isinstance(kept, Mapping) else {}
    return {key: value[0] for key, value in values.items() if value}


def details_of(conversation: Conversation | None) -> Mapping[str, Any]:
    """What is kept about a session besides its events."""
    metadata = conversation.metadata if conversation is not None else None
    details = (metadata or {}).get(PAYLOAD)
    return details if isinstance(details, Mapping) else {}


def shared(app: Mapping[str, Any], user: Mapping[str, Any]) -> dict[str, Any]:
    """The state that a session shares, with prefixes."""
    state = {State.APP_PREFIX + key: value for key, value in app.items()}
    return state | {State.USER_PREFIX + key: value for key, value in user.items()}


def _kept(value: Any) -> list[Any] | str:
    """The value as the only item of a list, or as JSON text if the database can't hold it.

    Metadata is merged: objects would be merged too, and null would remove the key.
    """
    try:
        validation.metadata("state", as_metadata({"": [value]}))
    except InvalidInput:
        return json_text(value)
    return [value]


def _value(kept: object) -> Sequence[Any]:
    """The value that was kept, as the only item; nothing of what another client stored there otherwise."""
    if isinstance(kept, str):
        try:
            return [json.loads(kept)]
        except (ValueError, RecursionError):
            return []
    return kept if isinstance(kept, Sequence) else []

"""The conversations in which an app's sessions are kept, and the state that they share."""

from __future__ import annotations

from typing import Final, NamedTuple

from sessions_db import keys, validation
from sessions_db.errors import InvalidInput

APP: Final = "app"
"""The name of the conversation with the state of an app."""


class Place(NamedTuple):
    """Where something is kept: the agent and name of a conversation."""

    agent_id: str
    name: str

    @property
    def key(self) -> str:
        """The conversation's key."""
        return keys.conversation_key(self.agent_id, self.name)


def agent_id(app_name: object) -> str:
    """The agent to which the conversations of an app belong.

    Raises:
        InvalidInput: it can't be an agent's id.
    """
    try:
        return validation.agent_id(app_name)
    except InvalidInput as error:
        raise InvalidInput("app_name", error.reason, app_name) from None


def app_place(app_name: object) -> Place:
    """Where the state of an app is."""
    return Place(agent_id(app_name), APP)


def user_place(app_name: object, user_id: object) -> Place:
    """Where the state of a user is.

    Raises:
        InvalidInput: an argument can't be part of a conversation's key.
    """
    return _place(app_name, "user", user_id)


def session_place(app_name: object, user_id: object, session_id: object) -> Place:
    """Where a session is. Spaces around its id don't count, as in the framework's in-memory service.

    Raises:
        InvalidInput: an argument can't be part of a conversation's key.
    """
    return _place(app_name, "session", user_id, validation.text("session_id", session_id).strip())


def session_prefix(app_name: object, user_id: object) -> str:
    """What the keys of the user's sessions begin with, up to their ids.

    Raises:
        InvalidInput: an argument can't be part of a conversation's key.
    """
    return _place(app_name, "session", user_id, "").key


def _place(app_name: object, scope: str, user_id: object, *session_id: str) -> Place:
    name = ":".join((scope, _without_colons(validation.text("user_id", user_id)), *session_id))
    try:
        validation.conversation_name(name)
    except InvalidInput as error:
        raise InvalidInput("user_id", f"and the session's id {error.reason}", name) from None
    return Place(agent_id(app_name), name)


def _without_colons(user: str) -> str:
    # So that the user's id ends at the next one.
    return user.replace("%", "%25").replace(":", "%3A")


def owner_of(name: str) -> tuple[str, str | None] | None:
    """The user and id of the session that the conversation of this name is, or the user whose state it has.

    None for the app's state, and for what is no session of the framework.
    """
    scope, _, rest = name.partition(":")
    stored, colon, session_id = rest.partition(":")
    user = stored.replace("%3A", ":").replace("%25", "%")
    if _without_colons(user) != stored:
        return None
    match scope, colon:
        case "session", ":":
            return user, session_id
        case "user", "":
            return user, None
        case _:
            return None

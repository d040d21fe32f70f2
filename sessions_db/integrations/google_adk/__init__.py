"""The sessions of Google's Agent Development Kit: each is a conversation, whose agent is the app.

An event is a message. Its metadata holds what the event's `model_dump` gave, so that it comes back as it was; role,
content and tool name are for those who read the table. State is in the metadata of conversations: a session's in its
own, that of a user and that of the app in one more each.
"""

from sessions_db.integrations.google_adk.events import PAYLOAD
from sessions_db.integrations.google_adk.service import StoredSessionService

__all__ = ["PAYLOAD", "StoredSessionService"]

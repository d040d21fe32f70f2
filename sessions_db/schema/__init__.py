"""The schema as it stands at head, to be read in one place.

Nothing is created from here: Alembic's migrations hold their own frozen copies, and a test compares what they
made with this. The triggers run inside the statement that fires them, so what they keep true holds in every committed
state and for every writer, a `psql` or `sqlite3` shell too.
"""

from typing import Final

from sessions_db.schema import postgresql_triggers, sqlite_triggers
from sessions_db.schema.tables import (
    Json,
    archived_messages,
    event_actor,
    event_digests,
    event_seals,
    from_json,
    insert_into,
    labels,
    messages,
    metadata,
    session_events,
    sessions,
    tables_of,
    to_json,
)
from sessions_db.schema.views import VIEWS

TRIGGERS: Final = {"sqlite": sqlite_triggers.TRIGGERS, "postgresql": postgresql_triggers.TRIGGERS}
"""The statements that create each trigger, by database and name."""

__all__ = [
    "TRIGGERS",
    "VIEWS",
    "Json",
    "archived_messages",
    "event_actor",
    "event_digests",
    "event_seals",
    "from_json",
    "insert_into",
    "labels",
    "messages",
    "metadata",
    "session_events",
    "sessions",
    "tables_of",
    "to_json",
]

"""The schema as it stands at head, to be read in one place.

Nothing is created from here: Alembic's migrations hold their own frozen copies, and a test compares what they
made with this.
"""

from sessions_db.schema.tables import Json, from_json, insert_into, labels, messages, metadata, sessions, to_json
from sessions_db.schema.triggers import TRIGGERS

__all__ = ["TRIGGERS", "Json", "from_json", "insert_into", "labels", "messages", "metadata", "sessions", "to_json"]

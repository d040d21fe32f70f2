"""The current schema, in one place.

Nothing is created from here: Alembic's migrations hold their own frozen copies, and a test compares their result with
this. Triggers run within the statement that fires them, so what they enforce holds in every committed state and for
every writer, including a `psql` or `sqlite3` shell.
"""

from typing import Final

from sessions_db.schema import postgresql_transcripts, postgresql_triggers, sqlite_triggers
from sessions_db.schema.columns import metadata, tables_of
from sessions_db.schema.expressions import (
    ACT_AS,
    LEFT_OVER,
    REDACT,
    REMOVE,
    SKIP,
    STOP_ACTING,
    UNLESS_NAMED,
    WRITE_ARCHIVED,
    insert_if_free,
    insert_into,
    is_one_of,
    json_pairs,
    json_rows,
    near,
    set_actor,
)
from sessions_db.schema.json import Json, each_from_json, from_json, to_json
from sessions_db.schema.log_tables import (
    event_actor,
    event_digests,
    event_seals,
    log_policy,
    message_digests,
    message_removals,
    sealed_transcripts,
    session_events,
)
from sessions_db.schema.tables import archived_messages, labelling, labels, messages, sessions
from sessions_db.schema.text_rows import (
    TextRows,
    bound_rows_values,
    has_bound_rows,
    text_rows,
    text_rows_parameters,
)
from sessions_db.schema.verification import foreign_triggers, trigger_faults
from sessions_db.schema.views import VIEWS

TRIGGERS: Final = {"sqlite": sqlite_triggers.TRIGGERS, "postgresql": postgresql_triggers.TRIGGERS}
"""The statements that create each trigger, by database and name."""

FUNCTIONS: Final[dict[str, dict[str, str]]] = {
    "sqlite": {"labelled_sessions": sqlite_triggers.LABELLED_SESSIONS},
    "postgresql": postgresql_transcripts.FUNCTIONS,
}
"""The statements that create each function, by database and name. On SQLite a view serves as one."""

__all__ = [
    "ACT_AS",
    "FUNCTIONS",
    "LEFT_OVER",
    "REDACT",
    "REMOVE",
    "SKIP",
    "STOP_ACTING",
    "TRIGGERS",
    "UNLESS_NAMED",
    "VIEWS",
    "WRITE_ARCHIVED",
    "Json",
    "TextRows",
    "archived_messages",
    "bound_rows_values",
    "each_from_json",
    "event_actor",
    "event_digests",
    "event_seals",
    "foreign_triggers",
    "from_json",
    "has_bound_rows",
    "insert_if_free",
    "insert_into",
    "is_one_of",
    "json_pairs",
    "json_rows",
    "labelling",
    "labels",
    "log_policy",
    "message_digests",
    "message_removals",
    "messages",
    "metadata",
    "near",
    "sealed_transcripts",
    "session_events",
    "sessions",
    "set_actor",
    "tables_of",
    "text_rows",
    "text_rows_parameters",
    "to_json",
    "trigger_faults",
]

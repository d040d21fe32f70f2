"""What the triggers and functions on Postgres have in common."""

from __future__ import annotations

from typing import Final

from sessions_db.schema.tables import messages

# Milliseconds since the epoch by the database's clock.
NOW: Final = "floor(extract(epoch FROM clock_timestamp()) * 1000)"

# The name that the manager gave, or else the user who logged in: within SECURITY DEFINER `current_user` is the owner.
ACTOR: Final = "coalesce(nullif(current_setting('sessions_db.actor', true), ''), session_user)"

MESSAGE: Final = ", ".join(messages.columns.keys())


def in_its_schema(function: str) -> str:
    """Have a function find the tables of its own schema, whatever the caller's search_path or temporary tables."""
    function = function if "(" in function else f"{function}()"
    return f"""\
DO $$
BEGIN
  EXECUTE format(
    'ALTER FUNCTION {function} SET search_path = %I, pg_temp', current_schema()
  );
END
$$"""


def owners_only(function: str) -> str:
    """Have nobody execute a function that runs as its owner.

    Anyone allowed to execute a trigger function could attach it to a temporary table, and so log or move what never
    happened. Existing triggers fire without this privilege.
    """
    function = function if "(" in function else f"{function}()"
    return f"REVOKE EXECUTE ON FUNCTION {function} FROM PUBLIC"


def refusal(trigger: str, when: str, reason: str, each: str = "ROW", condition: str = "") -> str:
    """A trigger that refuses a change."""
    return f"""\
CREATE FUNCTION {trigger}() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION '{trigger}: {reason}' USING ERRCODE = 'integrity_constraint_violation';
END
$$;
CREATE TRIGGER {trigger} BEFORE {when}
FOR EACH {each}{condition} EXECUTE FUNCTION {trigger}()"""

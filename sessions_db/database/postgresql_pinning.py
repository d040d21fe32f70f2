"""Connections of Postgres that are pinned to one schema."""

from __future__ import annotations

from typing import Any, Final

# Of a pooled connection's `info`: the schema, and what the server has called its search_path since.
_PINNED: Final = "sessions_db_pinned"


def pin(connection: Any, record: Any, schema: str) -> None:
    """Have the connection find this schema, whose name is quoted, and no other."""
    connection.execute(f"SET search_path = {schema}")
    record.info[_PINNED] = schema, _search_path(connection)


def pin_again(connection: Any, record: Any) -> None:
    """Pin a connection that goes back to its pool: a caller's block may have led it to another schema."""
    schema, set_then = record.info.get(_PINNED, (None, None))
    if schema is None or connection is None or (set_then and _search_path(connection) == set_then):
        return
    try:
        connection.execute(f"SET search_path = {schema}")
    except BaseException as error:
        record.invalidate(error)
        # What the block did is done, whatever becomes of its connection.
        if not isinstance(error, Exception):
            raise


def _search_path(connection: Any) -> str | None:
    """What the server has reported of it; PostgreSQL 18 is the first that does."""
    reported: str | None = connection.info.parameter_status("search_path")
    return reported

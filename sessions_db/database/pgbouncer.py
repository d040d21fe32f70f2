"""Connections of Postgres that go through PgBouncer."""

from __future__ import annotations

import re
from typing import Any, Final

from sessions_db.errors import SchemaMismatch

REFUSALS: Final = ("no more connections allowed", "client connections exceeded", "server login has been failing")
"""What it says to a new connection while it is full, or the server is away."""

# What it says, with the code protocol_violation, to those that wait for one of its connections to the server.
_WAITED_IN_VAIN: Final = ("query_wait_timeout", "server login has been failing")

_SEARCH_PATH: Final = re.compile(r"(?:-c\s*|--)search[_-]path=((?:\\.|\S)*)")


def is_pooled(connection: Any, server_pid: object) -> bool:
    """Whether somebody is in between: PgBouncer gives its clients made-up process ids."""
    return bool(server_pid != connection.info.backend_pid)


def require_schema(connection: Any, schema: str | None, found: str | None, search_path: str) -> None:
    """Close a connection that does not lead to the schema, or where its options say: a setting would leak to others.

    PgBouncer refuses the options, or drops them: `ignore_startup_parameters`.

    Raises:
        SchemaMismatch: it leads elsewhere.
    """
    wanted = _ignored(connection, search_path) if schema is None else schema if schema != found else None
    if wanted is not None:
        connection.close()
        cure = f"{found or 'no schema'} and not to {wanted}: ALTER ROLE … SET search_path = {wanted}"
        raise SchemaMismatch(None, None, f"behind PgBouncer, search_path leads to {cure}")


def is_unsent(error: Any) -> bool:
    """Whether PgBouncer had no connection to the server for the statement."""
    return getattr(error, "sqlstate", None) == "08P01" and str(error).startswith(_WAITED_IN_VAIN)


def unfit(connection: Any, server_pid: object, search_path: object) -> str | None:
    """What the engine must be whose connection this is, if it goes through PgBouncer."""
    if not is_pooled(connection, server_pid):
        return None
    if connection.prepare_threshold is not None:
        # Another client's statement of the same name may run instead, unless PgBouncer knows of such statements.
        return "must prepare no statements behind PgBouncer: connect_args={'prepare_threshold': None}"
    if _ignored(connection, str(search_path)) is not None:
        return "must not have a search_path in options that PgBouncer ignores: set it for the role"
    return None


def _ignored(connection: Any, search_path: str) -> str | None:
    """The search_path that the options ask for, if it is not the one in force."""
    asked = _SEARCH_PATH.findall(connection.info.options)
    wanted = re.sub(r"\\(.)", r"\1", asked[-1]) if asked else search_path
    return wanted if _names(wanted) != _names(search_path) else None


def _names(search_path: str) -> str:
    return re.sub(r'[\s"]', "", search_path)

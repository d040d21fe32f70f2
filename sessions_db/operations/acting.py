"""Who is acting, for the triggers that write the log."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection

from sessions_db.schema import ACT_AS, STOP_ACTING


@contextmanager
def acting_as(conn: Connection, actor: str | None) -> Iterator[None]:
    """Have the log name this actor for what the block does. The block must be a whole transaction."""
    if actor is None:
        yield
        return
    conn.execute(ACT_AS[conn.dialect.name], {"actor": actor})
    yield
    if (stop := STOP_ACTING[conn.dialect.name]) is not None:
        conn.execute(stop)

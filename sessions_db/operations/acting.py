"""Who is acting, for the triggers that write the log."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection

from sessions_db.schema import ACT_AS, LEFT_OVER, STOP_ACTING


@contextmanager
def acting_as(conn: Connection, actor: str | None) -> Iterator[None]:
    """Have the log name this actor for what the block does. The block must be a whole transaction."""
    take_back_names(conn)
    if actor is None:
        yield
        return
    conn.execute(ACT_AS[conn.dialect.name], {"actor": actor})
    yield
    _stop(conn)


def take_back_names(conn: Connection) -> None:
    """Have the log name nobody whom another writer named, and left behind when its transaction ended."""
    # Looking takes no lock, and there is hardly ever anything to delete.
    left_over = LEFT_OVER[conn.dialect.name]
    if left_over is not None and conn.execute(left_over).first() is not None:
        _stop(conn)


def _stop(conn: Connection) -> None:
    if (stop := STOP_ACTING[conn.dialect.name]) is not None:
        conn.execute(stop)

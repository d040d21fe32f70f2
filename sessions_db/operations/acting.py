"""Who is acting, for the triggers that write the log."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection

from sessions_db.database.statement import Statement, rows_of
from sessions_db.schema import ACT_AS, LEFT_OVER, STOP_ACTING, set_actor

_ACT_AS = Statement(lambda dialect: ACT_AS[dialect])
_STOP_ACTING = Statement(lambda dialect: STOP_ACTING[dialect])
_LEFT_OVER = Statement(lambda dialect: LEFT_OVER[dialect])


@contextmanager
def acting_as(conn: Connection, actor: str | None) -> Iterator[None]:
    """Have the log name this actor for what the block does. The block must be a whole transaction."""
    take_back_names(conn)
    if actor is None:
        yield
        return
    if conn.dialect.name in ACT_AS:
        _ACT_AS.rows(conn, {"actor": actor})
    else:
        rows_of(conn, set_actor(actor), {})
    yield
    _stop(conn)


def take_back_names(conn: Connection) -> bool:
    """Have the log name nobody whom another writer named, and left behind when its transaction ended.

    Whether there was such a name.
    """
    # Looking takes no lock, and there is hardly ever anything to delete.
    found = conn.dialect.name in LEFT_OVER and bool(_LEFT_OVER.rows(conn, {}))
    if found:
        _stop(conn)
    return found


def _stop(conn: Connection) -> None:
    if conn.dialect.name in STOP_ACTING:
        _STOP_ACTING.rows(conn, {})

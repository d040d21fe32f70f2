"""Who is acting, for the triggers that write the log. Needs a transaction, and lasts as long."""

from __future__ import annotations

from sqlalchemy import Connection, delete, func, insert, select

from sessions_db.schema import event_actor


def act_as(conn: Connection, actor: str) -> None:
    """Have what the transaction does from here on logged under this name."""
    if conn.dialect.name == "sqlite":
        conn.execute(insert(event_actor).values(name=actor))
    else:
        # Local to the transaction: behind PgBouncer the next one is somebody else's.
        conn.execute(select(func.set_config("sessions_db.actor", actor, True)))


def stop_acting(conn: Connection) -> None:
    """Forget the name before the transaction is committed."""
    if conn.dialect.name == "sqlite":
        conn.execute(delete(event_actor))

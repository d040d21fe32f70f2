"""Connecting to a database. Nothing here knows of sessions."""

from sqlalchemy import Connection

from sessions_db.database.backend import Backend, EngineOptions
from sessions_db.database.postgresql import PostgreSQL
from sessions_db.database.sqlite import SQLite

BACKENDS: dict[str, Backend] = {backend.name: backend for backend in (SQLite(), PostgreSQL())}
"""The two databases, by SQLAlchemy's name of their dialect."""


def backend_of(conn: Connection) -> Backend:
    """The database that the connection leads to."""
    return BACKENDS[conn.dialect.name]


__all__ = ["BACKENDS", "Backend", "EngineOptions", "backend_of"]

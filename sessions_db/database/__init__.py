"""Connecting to a database. Nothing here knows about sessions."""

from sqlalchemy import Connection

from sessions_db.database.backend import Backend, EngineOptions
from sessions_db.database.postgresql import PostgreSQL
from sessions_db.database.sqlite import SQLite

BACKENDS: dict[str, Backend] = {backend.name: backend for backend in (SQLite(), PostgreSQL())}
"""The two databases, by SQLAlchemy's name for their dialect."""


def backend_of(conn: Connection) -> Backend:
    """The kind of database that the connection is to."""
    return BACKENDS[conn.dialect.name]


__all__ = ["BACKENDS", "Backend", "EngineOptions", "backend_of"]

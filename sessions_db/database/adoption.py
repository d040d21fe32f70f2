"""The caller's own engines: what the library can't work with, and how it leaves their connections."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Connection, Engine, event

from sessions_db.database import BACKENDS, backend_of
from sessions_db.database.fork import guard
from sessions_db.database.urls import SUPPORTED, shown
from sessions_db.errors import InvalidInput

# Postgres's longest name. SQLAlchemy gives shorter limits to the names in its statements too.
_LONGEST_NAME: Final = 63

# Of a connection's `info`: the settings that the caller's connection had.
_SETTINGS: Final = "sessions_db_settings"


def adopt(engine: Engine) -> Engine:
    """The caller's engine with its own pool and settings, its connections in autocommit mode.

    Raises:
        InvalidInput: it is not an engine for a database and driver that this library supports, or statements would not
            mean what they say with its options.
    """
    if not isinstance(engine, Engine):
        raise InvalidInput("database", "must be a URL or a sqlalchemy.Engine", engine)
    dialect, options = engine.dialect, engine.get_execution_options()
    backend = BACKENDS.get(dialect.name)
    if backend is None or backend.driver != dialect.driver:
        raise _refusal(engine, SUPPORTED)
    if None in (options.get("schema_translate_map") or {}):
        raise _refusal(engine, "must have no schema_translate_map for the default schema: not all statements follow it")
    if (dialect.label_length or dialect.max_identifier_length) < _LONGEST_NAME:
        raise _refusal(engine, f"must allow names of {_LONGEST_NAME} characters (label_length, max_identifier_length)")
    if dialect.paramstyle != (paramstyle := dialect.loaded_dbapi.paramstyle):
        raise _refusal(engine, f"must have the driver's paramstyle, {paramstyle}")
    if not dialect.use_insertmanyvalues:
        raise _refusal(engine, "must not have use_insertmanyvalues=False")
    if options.get("isolation_level", "AUTOCOMMIT") != "AUTOCOMMIT":
        # SQLAlchemy applies it after ours.
        raise _refusal(engine, "must have no isolation_level in its execution options: pass it to create_engine itself")
    in_autocommit = engine.execution_options(
        isolation_level="AUTOCOMMIT",
        # Postgres streams results in transactions only, and none of ours is long.
        stream_results=False,
        yield_per=None,
        no_parameters=False,
    )
    # On its way back to the pool, SQLAlchemy gives a connection the isolation level that the engine was made with,
    # whatever a listener, a `creator` or `connect_args` had set. The listeners of an engine run before those of the
    # engine that it was derived from.
    adopted = in_autocommit.execution_options()
    event.listen(adopted, "engine_connect", _remember_settings)
    event.listen(adopted, "checkin", _restore_settings)
    guard(adopted)
    return adopted


def require_fit(conn: Connection, *, read_only: bool) -> None:
    """Do nothing if the library can work with the connection, which is of an adopted engine.

    Raises:
        InvalidInput: it can't.
    """
    cursor: Any = conn.exec_driver_sql("SELECT 'a' AS text, 1 AS number").cursor
    if tuple(cursor.fetchone()) != ("a", 1):
        raise _refusal(conn.engine, "must have connections without a row_factory or text_factory of their own")
    if (reason := backend_of(conn).unfit(conn, read_only=read_only)) is not None:
        raise _refusal(conn.engine, reason)


def _refusal(engine: Engine, reason: str) -> InvalidInput:
    return InvalidInput("database", reason, shown(engine.url))


def _remember_settings(conn: Connection) -> None:
    driver: Any = conn.connection.driver_connection
    conn.info[_SETTINGS] = {name: getattr(driver, name) for name in backend_of(conn).transaction_settings}


def _restore_settings(driver: Any, record: Any) -> None:
    for name, value in record.info.pop(_SETTINGS, {}).items():
        if driver is not None and getattr(driver, name) != value:
            setattr(driver, name, value)

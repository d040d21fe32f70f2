"""The library's own engines. Their connections are in autocommit mode.

That makes an operation of one statement a single round trip; a transaction starts with an explicit BEGIN.
"""

from __future__ import annotations

import sqlalchemy
from sqlalchemy import URL, Engine, exc

from sessions_db.database import BACKENDS, EngineOptions
from sessions_db.database.backend import SCHEMA
from sessions_db.database.fork import guard
from sessions_db.database.statement import SENT_DIRECTLY
from sessions_db.database.urls import parse_url, shown
from sessions_db.errors import InvalidInput


def open_engine(url: str | URL, options: EngineOptions) -> Engine:
    """The library's own engine for `url`. It has not connected yet.

    Raises:
        InvalidInput: the URL can't be read, names another database or driver, or does not go with the options.
    """
    parsed = parse_url(url)
    backend = BACKENDS[parsed.get_backend_name()]
    if options.schema is not None and not backend.is_on_a_server:
        raise InvalidInput(
            "schema", "must be None on SQLite, which has no schemas: use a file for each", options.schema
        )
    parsed, arguments = backend.engine_arguments(parsed, options)
    try:
        # Called through its module: opentelemetry-instrumentation-sqlalchemy replaces the function there.
        engine = sqlalchemy.create_engine(
            parsed,
            isolation_level="AUTOCOMMIT",
            execution_options={SENT_DIRECTLY: True, SCHEMA: options.schema},
            # With psycopg, a rollback of nothing takes as long as the rest of the pool's work. A transaction that has
            # begun is rolled back by `transactions.transaction`, or its connection is dropped.
            skip_autocommit_rollback=True,
            pool_reset_on_return=None,
            hide_parameters=True,
            # `Connections` counts the connections. An exception at the wrong moment makes the pool lose count.
            max_overflow=0 if backend.is_in_memory(parsed) else -1,
            pool_timeout=options.retry_budget_s,
            **arguments,
        )
    except ModuleNotFoundError as error:
        raise InvalidInput("database", "needs psycopg: pip install 'sessions-db[postgres]'", shown(parsed)) from error
    except (exc.ArgumentError, TypeError, ValueError):
        raise InvalidInput("database", "must be a URL that the driver takes", shown(parsed)) from None
    backend.configure(engine, options)
    guard(engine)
    return engine


def engine_beside(engine: Engine) -> Engine | None:
    """An engine for the same database and with the same settings that has connections of its own.

    None for a database in memory, where another connection would open another database.
    """
    if BACKENDS[engine.dialect.name].is_in_memory(engine.url):
        return None
    beside = Engine(
        engine.pool.recreate(),
        engine.dialect,
        engine.url,
        hide_parameters=True,
        execution_options=engine.get_execution_options(),
    )
    guard(beside)
    return beside

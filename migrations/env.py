"""Runs the migrations: on the connection that `sessions_db.database.migrate` hands over, or on `alembic -x url=…`."""

from logging.config import fileConfig

from alembic import context
from sqlalchemy import Connection

from sessions_db import schema
from sessions_db.database import EngineOptions, backend_of, migrate
from sessions_db.database.engine import open_engine
from sessions_db.database.transactions import transaction
from sessions_db.database.urls import parse_url

config = context.config
if config.config_file_name is not None:
    fileConfig(config.config_file_name, disable_existing_loggers=False)


def is_ours(_item: object, name: str | None, type_: str, _reflected: object, _compared: object) -> bool:
    """Leave the tables of a host application that shares the database out of every comparison."""
    return type_ != "table" or name in [table.name for table in schema.tables_of(context.get_context().dialect.name)]


OPTIONS = {
    "target_metadata": schema.metadata,
    "version_table": migrate.VERSION_TABLE,
    "include_object": is_ours,
    "compare_server_default": True,
    # SQLite can't alter a table; Alembic's batch mode copies it.
    "render_as_batch": True,
}


def run(conn: Connection) -> None:
    """Run in one transaction, alone."""
    backend = backend_of(conn)
    with backend.replacing_tables(conn), transaction(conn):
        backend.lock_migrations(conn)
        backend.create_schema(conn)
        migrate.require_settings(conn)
        context.configure(connection=conn, **OPTIONS)
        with context.begin_transaction():
            context.run_migrations()


def url() -> str:
    """The database that the command line names."""
    given = context.get_x_argument(as_dictionary=True).get("url")
    if not given:
        raise SystemExit("Name the database: alembic -x url=sqlite:///sessions.db …")
    return given


if context.is_offline_mode():
    # `--sql` prints the statements, for somebody else to run.
    dialect = parse_url(url()).get_backend_name()
    # psycopg's own style would have every % of the scripts doubled.
    context.configure(dialect_name=dialect, dialect_opts={"paramstyle": "named"}, literal_binds=True, **OPTIONS)
    with context.begin_transaction():
        context.run_migrations()
elif (connection := config.attributes.get("connection")) is not None:
    run(connection)
else:
    engine = open_engine(url(), EngineOptions(pool_size=1))
    try:
        with engine.connect() as connection:
            run(connection)
    finally:
        engine.dispose()

"""Runs the migrations: on the connection that `sessions_db.migrate` hands over, or on `alembic -x url=…`."""

from collections.abc import Iterator
from contextlib import contextmanager
from logging.config import fileConfig

from alembic import context
from sqlalchemy import Connection

from sessions_db import migrate, schema
from sessions_db.engine import open_engine, parse_url, transaction

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


@contextmanager
def tables_replaceable(conn: Connection) -> Iterator[None]:
    """Let batch mode replace a table on SQLite without touching what refers to it.

    It copies the table, drops the original and renames the copy. With foreign keys on, the DROP deletes the rows that
    refer to the table too: messages and labels, for `sessions`. Without `legacy_alter_table`, the RENAME fails because
    views and other tables' triggers name a table that is gone at that moment.
    See https://sqlite.org/lang_altertable.html#otheralter
    """
    if conn.dialect.name != "sqlite":
        yield
        return
    # Through the driver: a statement of SQLAlchemy's could begin a transaction, in which `foreign_keys` can't be set.
    driver = conn.connection.driver_connection
    before = {name: driver.execute(f"PRAGMA {name}").fetchone()[0] for name in ("foreign_keys", "legacy_alter_table")}
    try:
        driver.execute("PRAGMA foreign_keys = OFF")
        driver.execute("PRAGMA legacy_alter_table = ON")
        yield
    finally:
        if not conn.invalidated:
            for name, value in before.items():
                driver.execute(f"PRAGMA {name} = {value}")


def run(conn: Connection) -> None:
    """Run in one transaction, alone."""
    with tables_replaceable(conn), transaction(conn):
        migrate.lock(conn)
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
    engine = open_engine(url(), synchronous="FULL", retry_budget_s=10.0, pool_size=1)
    try:
        with engine.connect() as connection:
            run(connection)
    finally:
        engine.dispose()

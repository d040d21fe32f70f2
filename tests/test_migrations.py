"""Creating, upgrading and refusing schemas."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import Any, Self, cast

import psycopg
import pytest
import sqlalchemy as sa
from alembic.config import CommandLine, Config
from alembic.script import ScriptDirectory
from sqlalchemy.schema import CreateIndex, CreateTable

from sessions_db import SchemaMismatch, SessionManager, SessionsError, schema
from sessions_db.database import migrate
from tests.stored.make import fill
from tests.support.client import PlainClient
from tests.support.processes import Processes, results, together
from tests.support.threads import run_together

ROOT = Path(__file__).parent.parent
MIGRATIONS = ROOT / "migrations"
HEAD = "0003"


def alembic(url: str, *arguments: str, later: Path | None = None) -> str:
    """What `alembic` prints in the checkout, run in this process. `later` holds migrations on top of head."""
    command = CommandLine()
    options = command.parser.parse_args(["-x", f"url={url}", *arguments])
    printed = StringIO()
    # Not alembic.ini, which would configure logging for the tests that follow.
    config = Config(cmd_opts=options, stdout=printed, output_buffer=printed)
    config.set_main_option("script_location", str(MIGRATIONS))
    if later:
        config.set_main_option("path_separator", "os")
        config.set_main_option("version_locations", os.pathsep.join(map(str, (MIGRATIONS / "versions", later))))
    command.run_cmd(config, options)
    return printed.getvalue()


@pytest.fixture
def empty(empty_url: str) -> Iterator[PlainClient]:
    """A client of an empty database."""
    client = PlainClient(empty_url)
    yield client
    client.close()


def inventory(client: PlainClient) -> dict[str, str]:
    """Everything in the schema as the database describes it, by kind and name."""
    if client.backend == "sqlite":
        rows = client(
            "SELECT type || ' ' || name, sql FROM sqlite_master"
            " WHERE sql IS NOT NULL AND name <> 'sessions_db_version' AND name NOT LIKE 'sqlite_%'"
        )
    else:
        rows = client(
            "SELECT 'column ' || table_name || '.' || column_name, concat_ws(' ', ordinal_position, data_type,"
            " collation_name, is_nullable, column_default) FROM information_schema.columns"
            " WHERE table_schema = 'public'"
            " UNION ALL SELECT 'constraint ' || conname, conrelid::regclass || ' ' || pg_get_constraintdef(oid)"
            " FROM pg_constraint WHERE connamespace = 'public'::regnamespace"
            " UNION ALL SELECT 'index ' || indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'"
            " UNION ALL SELECT 'trigger ' || tgname, pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal"
            " UNION ALL SELECT 'function ' || proname, pg_get_functiondef(oid) FROM pg_proc"
            " WHERE pronamespace = 'public'::regnamespace"
            " UNION ALL SELECT 'view ' || viewname, definition FROM pg_views WHERE schemaname = 'public'"
            " UNION ALL SELECT 'table ' || relname, coalesce(reloptions::text, '') FROM pg_class"
            " WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
        )
    return {name: re.sub(r"\s+", " ", sql).strip() for name, sql in rows if "sessions_db_version" not in name}


def declare(client: PlainClient) -> None:
    """Create what the package declares, without the migrations."""
    dialect = sa.create_engine(f"{client.backend}://").dialect
    for table in schema.tables_of(client.backend):
        client(str(CreateTable(table).compile(dialect=dialect)).replace("%%", "%"))
        for index in sorted(table.indexes, key=lambda index: str(index.name)):
            client(str(CreateIndex(index).compile(dialect=dialect)).replace("%%", "%"))
    for statement in (
        schema.FUNCTIONS[client.backend] | schema.TRIGGERS[client.backend] | schema.VIEWS[client.backend]
    ).values():
        client(statement)


# What the migrations create


def test_migrations_make_exactly_what_the_package_declares(
    create_database: Callable[..., str], empty_url: str, empty: PlainClient
) -> None:
    SessionManager(empty_url).close()
    declared = PlainClient(create_database(at_head=False))
    declare(declared)

    made, expected = inventory(empty), inventory(declared)
    declared.close()

    assert made == expected
    assert {name.split()[0] for name in made} >= {"table", "index", "trigger", "view"}
    assert len(made) >= 15


class OneStatement(psycopg.Cursor[Any]):
    """A cursor that uses the extended protocol for everything, which accepts one statement at a time."""

    def execute(self, query: Any, params: Any = None, **options: Any) -> Self:
        return super().execute(query, params, **(options | {"binary": True}))


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_migrations_send_each_statement_by_itself(empty_url: str, empty: PlainClient) -> None:
    url = sa.make_url(empty_url).set(drivername="postgresql+psycopg")
    engine = sa.create_engine(url, connect_args={"cursor_factory": OneStatement}, poolclass=sa.NullPool)
    with engine.connect() as connection, pytest.raises(sa.exc.ProgrammingError, match="multiple commands"):
        connection.exec_driver_sql("SELECT 1; SELECT 2")

    SessionManager(engine).close()

    assert "view audit_lineage" in inventory(empty)


def test_every_constraint_and_index_is_named(url: str) -> None:
    engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    inspector = sa.inspect(engine)
    for table in (table.name for table in schema.tables_of(engine.dialect.name)):
        if (engine.dialect.name, table) != ("sqlite", "session_events"):  # a primary key with AUTOINCREMENT has no name
            assert str(inspector.get_pk_constraint(table)["name"]).startswith("pk_"), table
        found = [
            *inspector.get_unique_constraints(table),
            *inspector.get_check_constraints(table),
            *inspector.get_foreign_keys(table),
            *inspector.get_indexes(table),
        ]
        for item in found:
            assert re.match(r"(uq|ck|fk|ix)_", str(item["name"])), item
    engine.dispose()


def test_alembic_check_finds_no_difference(url: str) -> None:
    assert "No new upgrade operations detected" in alembic(url, "check")


def revisions() -> list[str]:
    """All of them as Alembic finds them, oldest first."""
    return [script.revision for script in ScriptDirectory(str(MIGRATIONS)).walk_revisions()][::-1]


def test_package_knows_the_revisions_that_alembic_finds_and_their_order() -> None:
    assert migrate.head_revision() == revisions()[-1]
    assert [*migrate._revisions()] == revisions()[::-1]


@pytest.mark.parametrize("backend", ["sqlite"])
def test_database_at_head_is_opened_and_written_without_alembic(url: str) -> None:
    code = (
        "import sys; from sessions_db import SessionManager\n"
        "with SessionManager(sys.argv[1]) as manager:\n"
        "    manager.send_message(manager.get_or_create_main('main').key, 'Hello')\n"
        "print(*sorted({'alembic', 'mako'} & sys.modules.keys()))"
    )

    assert subprocess.check_output([sys.executable, "-c", code, url], text=True) == "\n"


def test_alembic_upgrades_and_downgrades_step_by_step(empty_url: str, empty: PlainClient) -> None:
    steps: list[dict[str, str]] = [{}]
    for revision in revisions():
        alembic(empty_url, "upgrade", revision)
        steps.append(inventory(empty))

    assert all(before != after for before, after in pairwise(steps))
    for expected in steps[-2::-1]:
        alembic(empty_url, "downgrade", "-1")
        assert inventory(empty) == expected
    alembic(empty_url, "upgrade", "head")
    assert inventory(empty) == steps[-1]


def test_alembic_prints_the_statements_for_somebody_else_to_run(empty_url: str, empty: PlainClient) -> None:
    script = alembic(empty_url, "upgrade", "head", "--sql")
    if empty.backend == "sqlite":
        empty._connection.executescript(script)
    else:
        empty(script)

    with SessionManager(empty_url) as manager:
        key = manager.get_or_create_main("main").key
        assert manager.send_message(key, "Hello").seq == 1


def test_printed_statements_are_those_that_are_run() -> None:
    for scheme in ("postgres", "postgresql"):
        script = alembic(f"{scheme}://nobody@127.0.0.1:1/nothing", "upgrade", "head", "--sql")

        assert "NOT LIKE '%:%'" in script
        assert "SET search_path = %I" in script


def test_alembic_writes_a_migration_for_a_changed_declaration(url: str, tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    for part in ("sessions_db", "migrations"):
        shutil.copytree(ROOT / part, checkout / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "alembic.ini", checkout)
    tables = checkout / "sessions_db" / "schema" / "tables.py"
    changed = tables.read_text().replace('Column("task", Text),', 'Column("task", Text),\n    Column("mood", Text),')
    tables.write_text(changed)

    arguments = ["revision", "--autogenerate", "-m", "add mood", "--rev-id", "9999"]
    command = [sys.executable, "-m", "alembic", "-x", f"url={url}", *arguments]
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    subprocess.run(command, cwd=checkout, env=environment, check=True, capture_output=True)

    written = (checkout / "migrations" / "versions" / "9999_add_mood.py").read_text()
    assert "add_column(sa.Column('mood', sa.Text(), nullable=True))" in written
    assert written.count("add_column") == 1
    assert "create_table" not in written
    assert "drop_table" not in written


def test_alembic_asks_for_the_database(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "alembic", "-c", str(ROOT / "alembic.ini"), "upgrade", "head"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert result.returncode != 0
    assert "Name the database: alembic -x url=" in result.stderr


# Opening


def test_empty_database_is_created_at_head(empty_url: str, empty: PlainClient) -> None:
    SessionManager(empty_url).close()

    assert empty("SELECT version_num FROM sessions_db_version") == [(HEAD,)]


def test_opening_again_changes_nothing(url: str) -> None:
    with SessionManager(url) as manager:
        manager.get_or_create_main("main")

    with SessionManager(url) as manager:
        assert manager.get("agent:main:main") is not None


def test_database_that_is_behind_is_refused_with_the_cure(empty_url: str, empty: PlainClient) -> None:
    alembic(empty_url, "upgrade", "0001")
    before = inventory(empty)

    with pytest.raises(SchemaMismatch) as caught:
        SessionManager(empty_url)

    assert (caught.value.found, caught.value.expected) == ("0001", HEAD)
    assert str(caught.value) == (
        f"The database's schema is at revision 0001, this release needs {HEAD}: "
        "run `sessions-db upgrade` on it, or open it with migrate=True"
    )
    assert inventory(empty) == before


def test_database_that_is_behind_is_upgraded_on_request(empty_url: str, empty: PlainClient) -> None:
    alembic(empty_url, "upgrade", "0001")

    with SessionManager(empty_url, migrate=True) as manager:
        key = manager.get_or_create_main("main").key
        manager.send_message(key, "Hello")

        assert manager.found_revision == "0001"
    assert empty("SELECT version_num FROM sessions_db_version") == [(HEAD,)]


@pytest.mark.parametrize("migrate_", [False, True])
def test_database_that_is_ahead_is_refused(empty_url: str, empty: PlainClient, migrate_: bool) -> None:
    SessionManager(empty_url).close()
    empty("UPDATE sessions_db_version SET version_num = '9999'")

    with pytest.raises(SchemaMismatch, match="a newer release has migrated it") as caught:
        SessionManager(empty_url, migrate=migrate_)

    assert (caught.value.found, caught.value.expected) == ("9999", HEAD)


def test_downgraded_database_is_recreated(empty_url: str, empty: PlainClient) -> None:
    alembic(empty_url, "upgrade", "head")
    alembic(empty_url, "downgrade", "base")

    SessionManager(empty_url).close()

    assert "trigger messages_append" in inventory(empty)


def test_tables_of_a_host_application_are_left_alone(empty_url: str, empty: PlainClient) -> None:
    empty("CREATE TABLE alembic_version (version_num TEXT)")
    empty("INSERT INTO alembic_version VALUES ('theirs')")
    empty("CREATE TABLE users (id INTEGER)")

    SessionManager(empty_url).close()

    assert empty("SELECT version_num FROM alembic_version") == [("theirs",)]
    assert "No new upgrade operations detected" in alembic(empty_url, "check")


def test_table_of_the_same_name_is_not_touched(empty_url: str, empty: PlainClient) -> None:
    empty("CREATE TABLE messages (id INTEGER)")
    before = inventory(empty)

    with pytest.raises(SchemaMismatch, match=r"messages\"? already exists; it is not this library's"):
        SessionManager(empty_url)

    assert inventory(empty) == before


def test_table_that_was_dropped_is_named(empty_url: str, empty: PlainClient) -> None:
    with SessionManager(empty_url) as manager:
        empty(f"DROP TABLE labels{' CASCADE' if empty.backend == 'postgresql' else ''}")

        with pytest.raises(SchemaMismatch, match="labels"):
            manager.get_by_label("research")


def open_and_write(url: str) -> None:
    together()
    with SessionManager(url) as manager:
        manager.send_message(manager.get_or_create_main("main").key, "Hello")


def test_processes_that_open_an_empty_database_at_once_all_succeed(empty_url: str) -> None:
    with Processes(6) as processes:
        results([processes.submit(open_and_write, empty_url) for _ in range(6)])

    with SessionManager(empty_url) as manager:
        assert manager.get_or_create_main("main").message_count == 6


def test_threads_that_open_empty_databases_at_once_all_succeed(create_database: Callable[..., str]) -> None:
    shared = create_database(at_head=False)
    urls = [create_database(at_head=False) for _ in range(3)] + [shared] * 3
    barrier = threading.Barrier(len(urls))
    opened: list[str] = []

    def open_and_write(url: str) -> None:
        barrier.wait()
        with SessionManager(url) as manager:
            manager.send_message(manager.get_or_create_main("main").key, "Hello")
        opened.append(url)

    run_together([threading.Thread(target=open_and_write, args=(url,)) for url in urls])

    assert sorted(opened) == sorted(urls)


def test_version_table_with_several_rows_is_reported(empty_url: str, empty: PlainClient) -> None:
    SessionManager(empty_url).close()
    empty("INSERT INTO sessions_db_version VALUES ('0001')")

    with pytest.raises(SchemaMismatch, match="sessions_db_version with several rows"):
        SessionManager(empty_url)


def test_failed_upgrade_changes_nothing(empty_url: str, empty: PlainClient) -> None:
    # The very last object can't be created; everything before it can.
    empty("CREATE TABLE audit_lineage (id INTEGER)")
    before = inventory(empty)

    with pytest.raises(SessionsError, match="already exists"):
        SessionManager(empty_url)

    assert inventory(empty) == before


# Upgrading a database that is in use

# As in CONTRIBUTING's "Write a migration", for tables that Alembic copies on SQLite.
LATER = """
from contextlib import contextmanager

import sqlalchemy as sa
from alembic import op

revision = "later"
down_revision = "{head}"
branch_labels = None
depends_on = None


@contextmanager
def change(table, **table_kwargs):
    conn = op.get_bind()
    triggers, numbers = [], []
    if conn.dialect.name == "sqlite":
        triggers = conn.exec_driver_sql(
            "SELECT sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name = ?", (table,)
        ).scalars().all()
        numbers = conn.exec_driver_sql("SELECT name, seq FROM sqlite_sequence WHERE name = ?", (table,)).all()
    with op.batch_alter_table(table, table_kwargs=table_kwargs) as batch:
        yield batch
    for name, seq in numbers:
        conn.exec_driver_sql("DELETE FROM sqlite_sequence WHERE name = ?", (name,))
        conn.exec_driver_sql("INSERT INTO sqlite_sequence VALUES (?, ?)", (name, seq))
    for statement in triggers:
        op.execute(statement)


def upgrade():
    with change("sessions") as batch:
        batch.add_column(sa.Column("mood", sa.Text(), nullable=False, server_default="calm"))
        batch.create_check_constraint("ck_sessions_mood", "mood <> ''")
    with change("session_events", sqlite_autoincrement=True) as batch:
        batch.add_column(sa.Column("host", sa.Text()))
        batch.create_check_constraint("ck_session_events_host", "host <> ''")


def downgrade():
    with change("session_events", sqlite_autoincrement=True) as batch:
        batch.drop_constraint("ck_session_events_host", type_="check")
        batch.drop_column("host")
    with change("sessions") as batch:
        batch.drop_constraint("ck_sessions_mood", type_="check")
        batch.drop_column("mood")
"""
COPIED = ("sessions", "session_events")


def rows(client: PlainClient) -> dict[str, list[tuple[str | None, ...]]]:
    """Every row of every table that head declares, with all values as text."""
    found = {}
    for table in schema.tables_of(client.backend):
        columns = ", ".join(f"CAST({column.name} AS TEXT)" for column in table.columns)
        found[table.name] = sorted(client(f"SELECT {columns} FROM {table.name}"), key=str)
    return found


def shape(client: PlainClient) -> dict[str, str]:
    """The inventory, with copied tables on SQLite parsed: the copy's statement is equivalent, not the same."""
    found = inventory(client)
    if client.backend == "sqlite":
        for table in COPIED:
            sql = found.pop(f"table {table}")
            constraints = re.sub(r" ?\) (WITHOUT|STRICT).*", "", sql).split("CONSTRAINT ")[1:]
            found[f"copied {table}"] = str(
                client("SELECT wr, strict FROM pragma_table_list WHERE schema = 'main' AND name = ?", table)
                + client("SELECT * FROM pragma_table_xinfo(?)", table)
                + sorted(constraint.strip(" ,") for constraint in constraints)
                + re.findall("AUTOINCREMENT", sql)
            )
    return found


@pytest.fixture
def later(tmp_path: Path) -> Path:
    """A directory with a migration on top of head."""
    (tmp_path / "later.py").write_text(LATER.format(head=HEAD))
    return tmp_path


@pytest.fixture
def filled(empty_url: str, empty: PlainClient) -> PlainClient:
    """A client of a database at head with rows in every table."""
    with SessionManager(empty_url) as manager:
        fill(manager)
    return empty


def test_every_table_of_a_filled_database_has_rows(filled: PlainClient) -> None:
    # Those of SQLite have a row only while a transaction runs, that of Postgres only on Citus.
    empty = [table for table, found in rows(filled).items() if not found]
    assert empty in (["event_numbers"], ["event_actor", "message_removals"])


def test_migration_that_copies_tables_keeps_all_rows_and_triggers(
    filled: PlainClient, empty_url: str, later: Path
) -> None:
    if filled.backend == "sqlite":
        # As if the newest event had been deleted.
        filled("UPDATE sqlite_sequence SET seq = 1000 WHERE name = 'session_events'")
    stored, before = rows(filled), shape(filled)
    for _ in range(2):
        alembic(empty_url, "upgrade", "head", later=later)
        others = {name: sql for name, sql in before.items() if not name.startswith("copied ")}

        assert rows(filled) == stored
        assert filled("SELECT DISTINCT mood FROM sessions") == [("calm",)]
        assert others.items() <= shape(filled).items()

        alembic(empty_url, "downgrade", HEAD, later=later)

        assert rows(filled) == stored
        assert shape(filled) == before
    if filled.backend == "sqlite":
        assert filled("SELECT * FROM sqlite_sequence") == [("session_events", 1000)]


def test_database_keeps_working_after_tables_were_changed_and_changed_back(
    filled: PlainClient, empty_url: str, later: Path
) -> None:
    alembic(empty_url, "upgrade", "head", later=later)
    alembic(empty_url, "downgrade", HEAD, later=later)

    with SessionManager(empty_url) as manager:
        key = manager.get_or_create_main("support").key
        assert manager.send_message(key, "Hello").seq == 131
        assert len(manager.history(key) or []) == 100
        manager.delete_session(key)
    for table in ("messages", "archived_messages"):
        assert filled(f"SELECT count(*) FROM {table} WHERE session_key = ?", key) == [(0,)]
    if filled.backend == "sqlite":
        assert filled("PRAGMA foreign_key_check") == []


@pytest.mark.parametrize("foreign_keys", [0, 1])
def test_upgrade_leaves_the_settings_of_a_callers_sqlite_connection(tmp_path: Path, foreign_keys: int) -> None:
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'own.db'}", pool_size=1, max_overflow=0)

    @sa.event.listens_for(engine, "connect")
    def configure(connection: sqlite3.Connection, _record: object) -> None:
        connection.execute(f"PRAGMA foreign_keys = {foreign_keys}")

    SessionManager(engine).close()

    with engine.connect() as connection:
        assert connection.scalar(sa.text("PRAGMA foreign_keys")) == foreign_keys
        assert connection.scalar(sa.text("PRAGMA legacy_alter_table")) == 0
    engine.dispose()


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_upgrade_does_not_wait_forever_on_a_connection_without_a_lock_timeout(empty_url: str) -> None:
    parsed = sa.make_url(empty_url).set(drivername="postgresql+psycopg")
    engine, set_to = sa.create_engine(parsed, connect_args={"prepare_threshold": None}), list[object]()

    @sa.event.listens_for(engine, "after_cursor_execute")
    def look(conn: sa.Connection, _cursor: object, statement: str, *_others: object) -> None:
        if "CREATE TABLE sessions " in statement:
            set_to.append(cast(Any, conn.connection.driver_connection).execute("SHOW lock_timeout").fetchone()[0])

    SessionManager(engine).close()
    with engine.connect() as connection:
        set_to.append(connection.execute(sa.text("SHOW lock_timeout")).scalar())
    engine.dispose()

    assert set_to == ["10s", "0"]


def test_upgrade_of_a_database_without_its_triggers_is_not_opened(empty_url: str, empty: PlainClient) -> None:
    alembic(empty_url, "upgrade", "0002")
    empty(f"DROP TRIGGER messages_append{' ON messages' if empty.backend == 'postgresql' else ''}")

    for _ in range(2):
        with pytest.raises(SchemaMismatch, match="trigger messages_append is missing"):
            SessionManager(empty_url, migrate=True)

"""Making, upgrading and refusing schemas."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from io import StringIO
from itertools import pairwise
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.config import CommandLine, Config
from alembic.script import ScriptDirectory
from sqlalchemy import make_url
from sqlalchemy.schema import CreateIndex, CreateTable

from sessions_db import SchemaMismatch, SessionManager, SessionsError, schema
from tests.support.client import PlainClient
from tests.support.processes import Processes, results, together
from tests.support.threads import run_together

ROOT = Path(__file__).parent.parent
STORED = Path(__file__).parent / "stored"
HEAD = "0005"


def alembic(url: str, *arguments: str) -> str:
    """The output of `alembic -x url=…` with these arguments, run in this process.

    Without alembic.ini, whose logging would stay for the tests that follow.
    """
    command_line = CommandLine()
    options = command_line.parser.parse_args(["-x", f"url={url}", *arguments])
    output = StringIO()
    config = Config(stdout=output, output_buffer=output, cmd_opts=options)
    config.set_main_option("script_location", str(ROOT / "migrations").replace("%", "%%"))
    command_line.run_cmd(config, options)
    return output.getvalue()


@pytest.fixture
def empty(empty_url: str) -> Iterator[PlainClient]:
    """A client of an empty database."""
    client = PlainClient(empty_url)
    yield client
    client.close()


def inventory(client: PlainClient) -> dict[str, str]:
    """Everything that the schema is made of, as the database itself describes it, by kind and name."""
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
    """Make what the package declares, without the migrations."""
    dialect = sa.create_engine(f"{client.backend}://").dialect
    for table in schema.tables_of(client.backend):
        client(str(CreateTable(table).compile(dialect=dialect)).replace("%%", "%"))
        for index in sorted(table.indexes, key=lambda index: str(index.name)):
            client(str(CreateIndex(index).compile(dialect=dialect)).replace("%%", "%"))
    for statement in (schema.TRIGGERS[client.backend] | schema.VIEWS[client.backend]).values():
        client(statement)


# What the migrations make


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


def test_every_constraint_and_index_is_named(url: str) -> None:
    engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    inspector = sa.inspect(engine)
    for table in (table.name for table in schema.tables_of(engine.dialect.name)):
        if (engine.dialect.name, table) != ("sqlite", "session_events"):  # nothing with AUTOINCREMENT has a name
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


def test_alembic_upgrades_and_downgrades_step_by_step(empty_url: str, empty: PlainClient) -> None:
    steps: list[dict[str, str]] = [{}]
    revisions = [script.revision for script in ScriptDirectory(str(ROOT / "migrations")).walk_revisions()][::-1]
    for revision in revisions:
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

    assert empty("SELECT version_num FROM sessions_db_version") == [(HEAD,)]


CORE_COLUMNS = {
    "sessions": "key, agent_id, kind, status, label, task, run_id, parent_key, created_ms, finished_ms, end_reason,"
    " CAST(metadata AS TEXT), message_cap, last_seq, last_activity_ms",
    "messages": "session_key, seq, role, content, tool_name, CAST(metadata AS TEXT), timestamp_ms, idempotency_key",
    "labels": "label, session_key, assigned_ms",
}


def core_rows(client: PlainClient) -> dict[str, list[tuple[object, ...]]]:
    return {table: sorted(client(f"SELECT {columns} FROM {table}"), key=str) for table, columns in CORE_COLUMNS.items()}


@pytest.fixture
def stored(empty_url: str, backend: str) -> Iterator[PlainClient]:
    """A client of a database as the core's revision left it (see tests/stored/make.py)."""
    asset = STORED / f"0002.{'sqlite' if backend == 'sqlite' else 'sql'}"
    if backend == "sqlite":
        shutil.copy(asset, str(make_url(empty_url).database))
    else:
        loader = PlainClient(empty_url)
        loader(asset.read_text())
        loader.close()
    client = PlainClient(empty_url)
    yield client
    client.close()


def test_stored_database_of_the_core_upgrades_with_nothing_lost(
    stored: PlainClient, empty_url: str, create_database: Callable[..., str]
) -> None:
    before = core_rows(stored)
    assert {table: len(rows) for table, rows in before.items()} == {"sessions": 9, "messages": 116, "labels": 2}

    with SessionManager(empty_url, migrate=True) as manager:
        assert manager.found_revision == "0002"
        assert core_rows(stored) == before
        main = manager.get("agent:support:main")
        assert main is not None
        assert (main.message_count, len(main.messages)) == (130, 100)
        report = manager.get_by_label("report")
        assert report is not None
        assert report.messages[0].content == "Größe: 10 µm, 中文, \u202eعربى, 🦀"
        assert [*(report.metadata or {})] == ["z", "a"]
        manager.send_message(main.key, "Hello")
    assert stored("SELECT event FROM session_events") == []
    assert len(stored("SELECT session_key FROM audit_sessions")) == 9
    declared = PlainClient(create_database(at_head=False))
    declare(declared)
    made, expected = inventory(stored), inventory(declared)
    declared.close()
    assert made == expected


def test_stored_database_of_the_core_goes_up_and_down_and_up_again(stored: PlainClient, empty_url: str) -> None:
    before = core_rows(stored)
    objects = inventory(stored)
    for _ in range(2):
        alembic(empty_url, "upgrade", "head")
        assert core_rows(stored) == before
        alembic(empty_url, "downgrade", "0002")
        assert core_rows(stored) == before
        assert inventory(stored) == objects


@pytest.mark.parametrize("migrate_", [False, True])
def test_database_that_is_ahead_is_refused(empty_url: str, empty: PlainClient, migrate_: bool) -> None:
    SessionManager(empty_url).close()
    empty("UPDATE sessions_db_version SET version_num = '9999'")

    with pytest.raises(SchemaMismatch, match="a newer release has migrated it") as caught:
        SessionManager(empty_url, migrate=migrate_)

    assert (caught.value.found, caught.value.expected) == ("9999", HEAD)


def test_downgraded_database_is_created_anew(empty_url: str, empty: PlainClient) -> None:
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


def test_version_table_with_several_rows_is_told(empty_url: str, empty: PlainClient) -> None:
    SessionManager(empty_url).close()
    empty("INSERT INTO sessions_db_version VALUES ('0001')")

    with pytest.raises(SchemaMismatch, match="sessions_db_version with several rows"):
        SessionManager(empty_url)


def test_upgrade_that_fails_leaves_nothing(empty_url: str, empty: PlainClient) -> None:
    # The last trigger of all can't be made, everything before it can.
    if empty.backend == "sqlite":
        empty("CREATE TABLE labels_update (id INTEGER)")
        empty("CREATE TABLE other (id INTEGER)")
        empty("CREATE TRIGGER labels_update AFTER INSERT ON other BEGIN SELECT 1; END")
    else:
        empty("CREATE FUNCTION sessions_message_cap() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'")
    before = inventory(empty)

    with pytest.raises(SessionsError, match="already exists"):
        SessionManager(empty_url)

    assert inventory(empty) == before

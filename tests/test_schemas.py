"""Schemas of one Postgres database, each with sessions of its own, and views over all of them."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from sessions_db import AsyncSessionManager, InvalidInput, SchemaMismatch, SessionManager, SpawnLimits
from sessions_db.database import EngineOptions, migrate
from sessions_db.database.engine import open_engine
from sessions_db.doctor import examine
from sessions_db.enums import Severity
from sessions_db.schemas import find_schemas, make_audit_views
from tests.support.client import PlainClient
from tests.support.commands import ok, ok_json, run
from tests.support.threads import run_together

pytestmark = pytest.mark.parametrize("backend", ["postgresql"], indirect=True)

STRANGE = 'Team "B", 100% ä\\\'; x'
LONGEST = "ä" * 31 + "b"


@pytest.fixture
def owner(empty_url: str) -> Iterator[PlainClient]:
    with closing(PlainClient(empty_url)) as client:
        yield client


def new_connections(manager: SessionManager) -> int:
    """How many sessions each of some new connections finds, if it is one number."""
    with ExitStack() as stack:
        (count,) = {len(stack.enter_context(manager.snapshot()).list()) for _ in range(4)}
    return count


def test_tenants_see_nothing_of_each_other(empty_url: str, owner: PlainClient) -> None:
    with SessionManager(empty_url, schema="team_a") as a, SessionManager(empty_url, schema=STRANGE) as b:
        keys = [manager.spawn_subagent("clerk", "Look", label="look") for manager in (a, b)]
        a.send_message(keys[0], "Hello")
        a.get_or_create_main("clerk")
        seals = [manager.seal_log() for manager in (a, b)]
        b.delete_session(keys[1])

        assert [len(manager.list()) for manager in (a, b)] == [2, 0]
        assert (a.get(keys[1]), b.get(keys[0]), b.get_by_label("look")) == (None, None, None)
        assert [seal.event_count for seal in seals if seal] == [3, 2]
        assert [manager.verify_log().fault for manager in (a, b)] == [None, None]
        assert [[event.event for event in manager.events()] for manager in (a, b)] == [
            ["created", "label_assigned", "created"],
            ["created", "label_assigned", "deleted", "label_removed"],
        ]
        assert b.history(keys[0]) is None
        assert (new_connections(a), new_connections(b)) == (2, 0)
    assert owner("SELECT count(*) FROM pg_tables WHERE tablename = 'sessions'") == [(2,)]
    assert owner("SELECT to_regclass('public.sessions')") == [(None,)]
    for name in ("team_a", STRANGE):
        findings = [*examine(empty_url, schema=name)]
        assert len(findings) > 10
        assert [finding for finding in findings if finding.outcome is Severity.FAILURE] == []


@pytest.mark.parametrize("name", ["select", "Team A", LONGEST, "public"])
def test_any_name_that_postgres_takes_is_created_and_found_again(empty_url: str, owner: PlainClient, name: str) -> None:
    with SessionManager(empty_url, schema=name) as manager:
        key = manager.get_or_create_main("clerk").key
        assert (manager.found_revision, f"schema {name!r}" in repr(manager)) == (None, True)

    async def read() -> bool:
        async with AsyncSessionManager(empty_url, schema=name, read_only=True) as manager:
            return await manager.get(key) is not None

    assert asyncio.run(read())
    assert owner(
        "SELECT nspname FROM pg_class JOIN pg_namespace AS n ON n.oid = relnamespace WHERE relname = 'labels'"
    ) == [(name,)]


@pytest.mark.parametrize(
    "name",
    ["", "pg_team", "information_schema", "$user", "a\x00b", "a\nb", "ä" * 32, 1],
    ids=lambda name: repr(name)[:20],
)
def test_name_that_no_schema_can_have_is_refused(empty_url: str, name: str) -> None:
    with pytest.raises(InvalidInput, match=r"^schema must"):
        SessionManager(empty_url, schema=name)


def test_schema_and_another_way_to_choose_one_are_refused_together(empty_url: str) -> None:
    with_options = sa.make_url(empty_url).update_query_dict({"options": "-c search_path=other"})
    engine = sa.create_engine(sa.make_url(empty_url).set(drivername="postgresql+psycopg"))

    for database in (with_options, engine):
        with pytest.raises(InvalidInput, match=r"^schema must be None"):
            SessionManager(database, schema="team_a")
    with pytest.raises(InvalidInput, match=r"^schema must be None on SQLite"):
        SessionManager("sqlite://", schema="team_a")


def test_pin_outweighs_the_search_path_that_the_role_gets_later(empty_url: str, owner: PlainClient) -> None:
    SessionManager(empty_url, schema="team_b").close()
    database = sa.make_url(empty_url).database
    with SessionManager(empty_url, schema="team_a") as manager:
        manager.get_or_create_main("clerk")
        owner(f"ALTER DATABASE {database} SET search_path = team_b")

        assert new_connections(manager) == 1
    with SessionManager(empty_url) as manager:
        assert manager.list() == []
    owner("CREATE SCHEMA before")
    owner(f"ALTER DATABASE {database} SET search_path = before, team_a")
    with SessionManager(empty_url, schema="team_a") as manager:
        assert len(manager.list()) == 1


@pytest.mark.parametrize("statement", ["RESET search_path", "SET search_path = public"])
def test_search_path_that_a_block_sets_ends_with_the_block(empty_url: str, statement: str) -> None:
    SessionManager(empty_url).close()
    with SessionManager(empty_url, schema="team_a") as manager:
        manager.get_or_create_main("clerk")
        with ExitStack() as stack:
            for _ in range(4):
                stack.enter_context(manager.transaction()).connection.exec_driver_sql(statement)

        assert new_connections(manager) == 1


def test_spawns_with_limits_in_one_schema_do_not_wait_for_those_in_another(empty_url: str) -> None:
    limits = SpawnLimits(max_active=1)
    with (
        SessionManager(empty_url, schema="team_a") as a,
        SessionManager(empty_url, schema="team_b") as b,
        a.transaction() as tx,
    ):
        tx.spawn_subagent("clerk", "Look", limits=limits)

        assert b.spawn_subagent("clerk", "Look", limits=limits)


def test_managers_that_open_a_new_schema_at_once_make_it_once(empty_url: str) -> None:
    opened: list[str] = []

    def open_it() -> None:
        with SessionManager(empty_url, schema="team_a") as manager:
            opened.append(manager.get_or_create_main("clerk").key)

    run_together(threading.Thread(target=open_it) for _ in range(4))

    assert opened == ["agent:clerk:main"] * 4
    assert [(each.name, each.revision) for each in find_schemas(empty_url)] == [("team_a", migrate.head_revision())]


def test_read_only_manager_creates_no_schema(empty_url: str, owner: PlainClient) -> None:
    with pytest.raises(SchemaMismatch, match="nothing has created it yet"):
        SessionManager(empty_url, schema="team_a", read_only=True)

    assert owner("SELECT to_regnamespace('team_a')") == [(None,)]


def test_each_schema_is_upgraded_by_itself(empty_url: str) -> None:
    for name, revision in (("team_a", "0001"), ("team_b", "0001")):
        engine = open_engine(empty_url, EngineOptions(schema=name))
        migrate.upgrade(engine, revision)
        engine.dispose()

    upgraded = ok("upgrade", "--schema", "team_a", db=empty_url)

    assert "upgraded from revision 0001" in upgraded
    assert [(each["name"], each["revision"]) for each in ok_json("schemas", db=empty_url)] == [
        ("team_a", migrate.head_revision()),
        ("team_b", "0001"),
    ]
    with pytest.raises(SchemaMismatch, match="run `sessions-db upgrade`"):
        SessionManager(empty_url, schema="team_b")
    with pytest.raises(SchemaMismatch, match="`sessions-db upgrade --schema` on 'team_b'"):
        make_audit_views(empty_url)


def test_every_command_takes_a_schema(empty_url: str, tmp_path: Path) -> None:
    (tmp_path / "sessions.db").touch()
    ok("--schema", STRANGE, "upgrade", db=empty_url)
    with SessionManager(empty_url, schema=STRANGE) as manager:
        key = manager.get_or_create_main("clerk").key

    assert [session["key"] for session in ok_json("list", "--schema", STRANGE, db=empty_url)] == [key]
    assert run("doctor", "--schema", STRANGE, "--quick", db=empty_url).exit_code == 0
    assert "nothing has created it yet" in run("list", db=empty_url).stderr
    assert STRANGE in ok("schemas", db=empty_url)
    assert "schema must be None on SQLite" in run("list", "--schema", STRANGE, db=f"{tmp_path}/sessions.db").stderr


def test_schemas_are_asked_of_postgres_only(empty_url: str, owner: PlainClient) -> None:
    owner("CREATE TABLE sessions_db_version (of_something_else int)")
    assert ok("schemas", db=empty_url) == "No schema holds sessions.\n"
    for call in (find_schemas, make_audit_views):
        with pytest.raises(InvalidInput, match=r"^database must be on Postgres"):
            call("sqlite://")
    with pytest.raises(SchemaMismatch, match="no schema holds sessions yet"):
        make_audit_views(empty_url)


def test_views_over_all_schemas_have_the_rows_of_each(empty_url: str, owner: PlainClient) -> None:
    with SessionManager(empty_url, schema="team_a") as a, SessionManager(empty_url, schema=STRANGE) as b:
        for manager in (a, b):
            manager.send_message(manager.get_or_create_main("clerk").key, "Hello")
        first = json.loads(ok("audit", "all-schemas", "--into", "The audit", "--json", db=empty_url))
        owner('GRANT SELECT ON "The audit".all_sessions TO PUBLIC')
        SessionManager(empty_url, schema="team_c").close()
        ok("audit", "all-schemas", "--into", "The audit", db=empty_url)
        a.seal_log()

    rights = owner("SELECT relacl::text FROM pg_class WHERE relname = 'all_sessions'")[0][0]
    owner('SET search_path = "The audit"')
    assert first == {"into": "The audit", "schemas": [STRANGE, "team_a"]}
    assert "=r/" in rights
    assert owner('SELECT schema_name, agent_id FROM all_sessions ORDER BY schema_name COLLATE "C"') == [
        (STRANGE, "clerk"),
        ("team_a", "clerk"),
    ]
    assert owner("SELECT schema_name FROM all_seals") == [("team_a",)]
    assert [owner(f"SELECT count(*) FROM all_{name}") for name in ("messages", "events", "lineage", "transcripts")] == [
        [(2,)],
        [(2,)],
        [(2,)],
        [(1,)],
    ]


def test_views_whose_columns_have_changed_are_made_anew(empty_url: str, owner: PlainClient) -> None:
    columns = "SELECT attname FROM pg_attribute WHERE attrelid = 'audit.all_seals'::regclass ORDER BY attnum"
    SessionManager(empty_url, schema="team_a").close()
    make_audit_views(empty_url)
    before = owner(columns)
    owner("DROP VIEW audit.all_seals")
    owner("CREATE VIEW audit.all_seals AS SELECT 1 AS schema_name, 2 AS other")

    make_audit_views(empty_url)

    assert owner(columns) == before

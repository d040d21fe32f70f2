"""On Postgres, the tables that are found must be those that are written to, and their triggers must fire."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Final

import pytest
import sqlalchemy as sa

from sessions_db import SchemaMismatch, SessionManager
from sessions_db.doctor import examine
from sessions_db.enums import Severity
from tests.support.client import PlainClient
from tests.support.commands import run
from tests.test_migrations import alembic

pytestmark = pytest.mark.parametrize("backend", ["postgresql"], indirect=True)

ADVICE: Final = (
    "the tables are in the schema {found}, but search_path begins with {first}: set it to {found} alone, "
    "or to {first} alone and create the tables there"
)


def with_options(url: str, options: str) -> str:
    return sa.make_url(url).update_query_dict({"options": options}).render_as_string(hide_password=False)


def with_path(url: str, path: str) -> str:
    return with_options(url, f"-csearch_path={path}")


def use_new_connections(manager: SessionManager) -> None:
    with ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(manager.snapshot()).list()


@pytest.fixture
def client(empty_url: str) -> Iterator[PlainClient]:
    client = PlainClient(empty_url)
    client("CREATE SCHEMA a")
    client('CREATE SCHEMA "The B"')
    yield client
    client.close()


@pytest.mark.parametrize(("path", "found", "first"), [("a", "a", '"The B"'), ("public", "public", "a")])
def test_tables_in_a_later_schema_are_refused(
    empty_url: str, client: PlainClient, path: str, found: str, first: str
) -> None:
    SessionManager(with_path(empty_url, path)).close()
    both = with_path(empty_url, f"{first},{found}".replace(" ", "\\ "))
    advice = ADVICE.format(found=found, first=first)
    engine = sa.create_engine(sa.make_url(both).set(drivername="postgresql+psycopg"), poolclass=sa.NullPool)

    for database, read_only in ((both, False), (both, True), (engine, False), (engine, True)):
        with pytest.raises(SchemaMismatch) as caught:
            SessionManager(database, read_only=read_only)
        assert caught.value.cure == advice
    for command in ("upgrade", "list"):
        refused = run(command, db=both)
        assert (refused.exit_code, refused.stdout) == (1, "")
        assert advice in " ".join(refused.stderr.split())
    assert [(finding.check, finding.outcome) for finding in examine(both)] == [
        ("connection", Severity.OK),
        ("revision", Severity.FAILURE),
    ]
    assert advice in [*examine(both)][-1].detail
    assert client("SELECT count(*) FROM pg_tables WHERE tablename = 'sessions'") == [(1,)]


def test_alembic_creates_nothing_in_another_schema_than_that_of_the_tables(empty_url: str, client: PlainClient) -> None:
    alembic(with_path(empty_url, "a"), "upgrade", "0001")

    with pytest.raises(SchemaMismatch, match="the tables are in the schema a, but search_path begins with public"):
        alembic(with_path(empty_url, "public,a"), "upgrade", "head")

    assert client("SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal") == [(0,)]


def test_each_of_two_schemas_is_used_where_it_comes_first(empty_url: str, client: PlainClient) -> None:
    for path in ("public", "a"):
        SessionManager(with_path(empty_url, path)).close()

    for path, agent_id in (("a,public", "a"), ("public,a", "b")):
        with SessionManager(with_path(empty_url, path)) as manager:
            manager.get_or_create_main(agent_id)

    assert client("SELECT agent_id FROM a.sessions") == [("a",)]
    assert client("SELECT agent_id FROM public.sessions") == [("b",)]


def test_schema_of_the_users_name_does_not_take_over_while_a_service_runs(empty_url: str, client: PlainClient) -> None:
    with SessionManager(empty_url) as manager:
        key = manager.get_or_create_main("main").key
        client("DO $$ BEGIN EXECUTE format('CREATE SCHEMA %I', current_user); END $$")
        ((user,),) = client("SELECT quote_ident(current_user)")
        # It is empty: nothing changes for a running service, but one that starts would create later tables there.
        with manager.transaction() as tx:
            assert tx.get(key) == manager.get(key)
        with pytest.raises(SchemaMismatch, match="the tables are in the schema public, but search_path begins with"):
            SessionManager(empty_url)
        SessionManager(with_path(empty_url, user)).close()

        with pytest.raises(SchemaMismatch) as caught:
            use_new_connections(manager)

    led = f"search_path leads to the schema {user} now, and led to public before"
    assert caught.value.cure == f"{led}: set it to one of them"


def test_search_path_that_the_role_gets_later_does_not_take_over(empty_url: str, client: PlainClient) -> None:
    SessionManager(with_path(empty_url, "a")).close()
    database = sa.make_url(empty_url).database
    with SessionManager(empty_url) as manager:
        key = manager.get_or_create_main("main").key
        client(f"ALTER DATABASE {database} SET search_path = a")
        with pytest.raises(SchemaMismatch, match="search_path leads to the schema a now, and led to public before"):
            use_new_connections(manager)

        assert manager.pool_status().in_use == 0
        assert manager.get(key) is not None
    assert client("SELECT count(*) FROM a.sessions") == [(0,)]


def test_connection_in_which_no_trigger_fires_is_refused(empty_url: str) -> None:
    replica = with_options(empty_url, "-csession_replication_role=replica")
    for _ in range(2):
        with pytest.raises(SchemaMismatch, match="session_replication_role is replica, so no trigger fires: reset it"):
            SessionManager(replica)
        SessionManager(empty_url).close()

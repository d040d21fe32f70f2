"""The behaviour suite on each installed version of Postgres, and through PgBouncer."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from sessions_db import DatabaseUnavailable, InvalidInput, SchemaMismatch, SessionManager
from tests.support.client import PlainClient
from tests.support.retrying import RetryingWriters
from tests.support.servers import pgbouncer, postgres, wait_until

ROOT = Path(__file__).parents[2]


def behaviour_passes(url: str, files: list[str], figures: Counter[str]) -> None:
    """Run the Postgres half of the behaviour suite on the server at `url`."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "postgresql", *files]
    # Without the options and the coverage of the surrounding run.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV"))}
    environment = {**inherited, "SESSIONS_DB_TEST_POSTGRES_URL": url}
    result = subprocess.run(
        command, cwd=ROOT, env=environment, timeout=1800, check=False, capture_output=True, text=True
    )

    assert result.returncode == 0, result.stdout[-20_000:]
    counted = re.search(r"(\d+) passed", result.stdout)
    assert counted is not None, result.stdout
    assert "skipped" not in result.stdout.splitlines()[-1]
    figures["tests passed"] += int(counted[1])


ALL = ["tests/behaviour"]
SOME = ["tests/behaviour/test_messages.py", "tests/behaviour/test_transactions.py"]


@pytest.mark.parametrize(
    ("version", "files"),
    [
        # The suite's own server is an 18.
        pytest.param(16, SOME, id="16"),
        *(pytest.param(version, ALL, marks=pytest.mark.full, id=f"{version}-full") for version in range(14, 19)),
    ],
)
def test_behaviour_is_the_same_on_each_version_of_postgres(
    version: int, files: list[str], figures: Counter[str]
) -> None:
    with postgres(version) as server:
        assert str(server.execute("SHOW server_version_num")[0][0]).startswith(str(version))
        behaviour_passes(server.url(), files, figures)


@pytest.mark.parametrize("files", [pytest.param(SOME, id="some"), pytest.param(ALL, marks=pytest.mark.full, id="full")])
def test_behaviour_is_the_same_through_pgbouncer_in_transaction_mode(files: list[str], figures: Counter[str]) -> None:
    # Connections to the server are closed soon, because databases are dropped at the end of a test. The options of a
    # URL only make a race harder.
    settings = {"server_idle_timeout": 0.2, "ignore_startup_parameters": "options"}
    with postgres() as server, pgbouncer("127.0.0.1", server.port, **settings) as bouncer:
        behaviour_passes(bouncer.url(), files, figures)


def own_engine(url: str, prepare_threshold: int | None) -> sa.Engine:
    parsed = sa.make_url(url).set(drivername="postgresql+psycopg")
    return sa.create_engine(parsed, poolclass=sa.NullPool, connect_args={"prepare_threshold": prepare_threshold})


def test_behind_pgbouncer_a_schema_is_checked_and_not_pinned() -> None:
    ignored = r"?options=-csearch_path%3DTeam\%20A"
    with postgres() as server, pgbouncer("127.0.0.1", server.port, ignore_startup_parameters="options") as bouncer:
        SessionManager(server.url(), schema="Team A").close()
        with pytest.raises(SchemaMismatch) as caught:
            SessionManager(bouncer.url(), schema="Team A")
        with pytest.raises(SchemaMismatch, match="and not to Team A: ALTER ROLE"):
            SessionManager(bouncer.url() + ignored)
        for threshold, reason in ((5, "must prepare no statements"), (None, "must not have a search_path")):
            with pytest.raises(InvalidInput, match=reason):
                SessionManager(own_engine(bouncer.url() + ignored, threshold))
        server.execute("ALTER ROLE postgres SET search_path = 'Team A'")
        server.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
        with SessionManager(bouncer.url(), schema="Team A") as manager:
            manager.get_or_create_main("clerk")
        for database in (bouncer.url() + ignored, own_engine(bouncer.url() + ignored, None)):
            with SessionManager(database) as manager:
                assert manager.count() == 1

        leads = 'behind PgBouncer, search_path leads to public and not to "Team A"'
        assert caught.value.cure == f'{leads}: ALTER ROLE … SET search_path = "Team A"'
        assert server.execute('SELECT agent_id FROM "Team A".sessions') == [("clerk",)]


def test_append_that_pgbouncer_has_no_connection_for_is_known_not_to_be_stored_and_is_retried(
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings = {"default_pool_size": 1, "query_wait_timeout": 0.1}
    with (
        postgres() as server,
        pgbouncer("127.0.0.1", server.port, **settings) as bouncer,
        SessionManager(bouncer.url(), retry_budget_s=0.1) as hasty,
        SessionManager(bouncer.url()) as patient,
    ):
        key = hasty.get_or_create_main("clerk").key
        patient.count()
        append = threading.Thread(target=lambda: patient.send_message(key, "stored"))
        with psycopg.connect(bouncer.url()) as connection:
            connection.execute("SELECT 1")
            with pytest.raises(DatabaseUnavailable, match="query_wait_timeout") as caught:
                hasty.send_message(key, "refused")
            caplog.clear()
            append.start()
            wait_until(lambda: "A connection broke" in caplog.text)
        append.join()

        assert not caught.value.outcome_unknown
        assert [message.content for message in patient.history(key) or []] == ["stored"]


@pytest.mark.parametrize("face", ["sync", "async"])
def test_appends_continue_and_are_stored_once_while_the_server_behind_pgbouncer_restarts(
    open_manager: Callable[..., SessionManager], full: bool, figures: Counter[str]
) -> None:
    with postgres() as server, pgbouncer("127.0.0.1", server.port, server_login_retry=0.1) as bouncer:
        with open_manager(bouncer.url(), message_cap=1_000_000, pool_size=4) as manager:
            keys = [manager.spawn_subagent("main", "Test") for _ in range(3)]
            with RetryingWriters(manager, keys, figures) as writers:
                for _ in range(20 if full else 1):
                    writers.go_on(50)
                    server.kill()
                    server.start()
                    figures["restarts"] += 1
                writers.go_on(50)

        plain = PlainClient(server.url())
        writers.check(plain)
        plain.close()

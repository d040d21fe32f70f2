"""What the doctor finds: nothing in a sound database, and each fault by name in any other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url

from sessions_db import NewMessage, SessionManager, schema
from tests.support.client import PlainClient
from tests.support.commands import run


def findings(url: str, *options: str) -> dict[str, tuple[str, str]]:
    """What the command prints about each check, and that its exit code says whether one failed."""
    result = run("doctor", "--json", *options, db=url)
    found = {item["check"]: (item["outcome"], item["detail"]) for item in json.loads(result.stdout)}
    failed = any(outcome == "failure" for outcome, _ in found.values())
    assert (result.exit_code, result.stderr) == (int(failed), "")
    return found


def failures(url: str) -> dict[str, str]:
    return {check: detail for check, (outcome, detail) in findings(url).items() if outcome == "failure"}


@pytest.fixture
def own_url(empty_url: str) -> str:
    """A database at head that the test may damage."""
    with SessionManager(empty_url) as manager:
        key = manager.spawn_subagent("main", "Test", "research", message_cap=3)
        manager.add_messages(key, [NewMessage("user", str(number)) for number in range(5)])
    return empty_url


@pytest.fixture
def own(own_url: str) -> Any:
    client = PlainClient(own_url)
    yield client
    client.close()


def test_sound_database_has_no_failure(own_url: str, own: PlainClient) -> None:
    found = findings(own_url)

    assert failures(own_url) == {}
    # The tests' server need not survive a crash, and the machine's SQLite may have the WAL-reset bug.
    assert {check for check, (outcome, _) in found.items() if outcome == "warning"} <= {"durability", "SQLite version"}
    assert {
        "connection",
        "revision",
        "tables",
        "triggers",
        "views",
        "cap",
        "counters",
        "gaps",
        "orphans",
        "labels",
    } <= {*found}
    if own.backend == "sqlite":
        assert found["journal mode"] == ("ok", "WAL")
    quick = findings(own_url, "--quick")
    assert "triggers" in quick
    assert "cap" not in quick


def test_lines_are_printed_as_checks_are_made(own_url: str) -> None:
    result = run("doctor", db=own_url)

    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert "ok      triggers: all are there, as this release made them" in lines
    assert all(line.startswith(("ok      ", "warning ")) for line in lines)


def trigger_names(backend: str) -> list[str]:
    return [
        words[2]
        for sql in schema.TRIGGERS[backend].values()
        for words in (line.split() for line in sql.splitlines())
        if words[:2] == ["CREATE", "TRIGGER"]
    ]


def test_every_missing_trigger_is_named(own_url: str, own: PlainClient) -> None:
    names = trigger_names(own.backend)
    for name in names:
        if own.backend == "sqlite":
            own(f"DROP TRIGGER {name}")
        else:
            ((table,),) = own("SELECT tgrelid::regclass FROM pg_trigger WHERE tgname = ?", name)
            own(f"DROP TRIGGER {name} ON {table}")

    assert failures(own_url) == {
        "triggers": f"not as they should be: {', '.join(f'{name} is missing' for name in names)}"
    }


def test_changed_and_disabled_triggers_are_named(own_url: str, own: PlainClient) -> None:
    if own.backend == "sqlite":
        own("DROP TRIGGER messages_append")
        own("CREATE TRIGGER messages_append AFTER INSERT ON messages BEGIN SELECT 1; END")
        expected = "messages_append is changed"
    else:
        own("CREATE OR REPLACE FUNCTION messages_append() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'")
        own("ALTER TABLE session_events DISABLE TRIGGER session_events_update")
        expected = "messages_append is changed, session_events_update is disabled"

    assert failures(own_url) == {"triggers": f"not as they should be: {expected}"}


@pytest.mark.parametrize("name", schema.VIEWS["sqlite"])
def test_missing_view_is_named(own_url: str, own: PlainClient, name: str) -> None:
    own(f"DROP VIEW {name}")

    assert failures(own_url) == {"views": f"missing: {name}"}


def test_missing_tables_and_indexes_are_named(own_url: str, own: PlainClient) -> None:
    own("DROP INDEX ix_sessions_finished")
    own(f"DROP TABLE archived_messages{' CASCADE' if own.backend == 'postgresql' else ''}")

    found = failures(own_url)
    assert found["tables"] == "missing: index ix_sessions_finished, table archived_messages"
    assert "archived_messages" in found["orphans"]


DAMAGE = {
    "cap": ("UPDATE sessions SET message_cap = 2", "failure", "1 sessions retain more messages than their message_cap"),
    "counters": (
        "UPDATE sessions SET last_seq = 4",
        "failure",
        "1 sessions have a message beyond last_seq or after last_activity_ms",
    ),
    "gaps": (
        "DELETE FROM messages WHERE seq = 4",
        "warning",
        "1 sessions lack messages in between: somebody deleted them",
    ),
    "orphans": ("DELETE FROM sessions", "failure", "4 rows belong to no session"),
    "labels": (
        "UPDATE labels SET label = 'other'",
        "warning",
        "1 labels point to a session that was given another",
    ),
}


@pytest.mark.parametrize("check", DAMAGE)
def test_faults_in_the_content_are_counted(own_url: str, own: PlainClient, check: str) -> None:
    statement, outcome, detail = DAMAGE[check]
    if own.backend == "sqlite":
        own("DROP TRIGGER sessions_message_cap")
        own("DROP TRIGGER sessions_delete")
    else:
        own("SET session_replication_role = replica")
    key = own("SELECT key FROM sessions")[0][0]
    own(statement)

    assert findings(own_url)[check] == (outcome, f"{detail}, {key} for one")


def test_database_of_another_revision_is_a_failure(own_url: str, own: PlainClient) -> None:
    own("UPDATE sessions_db_version SET version_num = '0002'")

    assert failures(own_url)["revision"].startswith("0002, this release needs 0003: run `sessions-db upgrade`")


def test_empty_database_is_a_failure_and_stays_empty(empty_url: str, backend: str) -> None:
    if backend == "sqlite":
        Path(str(make_url(empty_url).database)).touch()

    assert failures(empty_url)["revision"].startswith("none, this release needs")
    client = PlainClient(empty_url)
    catalogue = "sqlite_master" if backend == "sqlite" else "pg_tables WHERE schemaname = 'public'"
    assert client(f"SELECT count(*) FROM {catalogue}") == [(0,)]
    client.close()


def test_missing_database_is_one_failure(url: str) -> None:
    absent = make_url(url).set(database=f"{make_url(url).database}_absent").render_as_string(hide_password=False)

    assert [*findings(absent)] == ["connection"]
    assert [*failures(absent)] == ["connection"]


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_name_left_in_event_actor_is_a_warning(own_url: str, own: PlainClient) -> None:
    own("INSERT INTO event_actor VALUES ('somebody')")

    assert findings(own_url)["actor"][0] == "warning"


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_other_journal_mode_is_a_warning(own_url: str, own: PlainClient) -> None:
    own("PRAGMA journal_mode = DELETE")

    assert findings(own_url)["journal mode"][0] == "warning"


@pytest.mark.parametrize(
    ("version", "outcome"), [((3, 51, 2), "warning"), ((3, 37, 0), "warning"), ((3, 51, 3), "ok"), ((3, 60, 0), "ok")]
)
@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_sqlite_with_the_wal_reset_bug_is_a_warning(
    own_url: str, monkeypatch: pytest.MonkeyPatch, version: tuple[int, ...], outcome: str
) -> None:
    monkeypatch.setattr("sqlite3.sqlite_version_info", version)

    assert findings(own_url)["SQLite version"][0] == outcome


def test_doctor_changes_nothing(own_url: str, own: PlainClient) -> None:
    before = own("SELECT * FROM session_events")
    findings(own_url)

    assert own("SELECT * FROM session_events") == before

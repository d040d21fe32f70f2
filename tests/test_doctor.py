"""What the doctor finds: nothing in a sound database, and each fault by name in any other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url

from sessions_db import NewMessage, SchemaMismatch, SessionManager, schema
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
def own_url(own_url: str) -> str:
    """A database with a session that the test may damage."""
    with SessionManager(own_url) as manager:
        key = manager.spawn_subagent("main", "Test", "research", message_cap=3)
        manager.add_messages(key, [NewMessage("user", str(number)) for number in range(5)])
    return own_url


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


CREATE_LOG_UPDATE = "CREATE TRIGGER sessions_log_update {} FOR EACH ROW {} EXECUTE FUNCTION {}()"
CONDITION = "WHEN (NEW.status IS DISTINCT FROM OLD.status OR NEW.end_reason IS DISTINCT FROM OLD.end_reason)"
FULL_CONDITION = CONDITION[:-1] + " OR NEW.finished_ms IS DISTINCT FROM OLD.finished_ms)"
COLUMNS = "AFTER UPDATE OF status, finished_ms, end_reason ON sessions"

CHANGES = {
    "condition": CREATE_LOG_UPDATE.format(COLUMNS, CONDITION, "sessions_log"),
    "no condition": CREATE_LOG_UPDATE.format(COLUMNS, "", "sessions_log"),
    "columns": CREATE_LOG_UPDATE.format("AFTER UPDATE OF status ON sessions", FULL_CONDITION, "sessions_log"),
    "timing": CREATE_LOG_UPDATE.format(COLUMNS.replace("AFTER", "BEFORE"), FULL_CONDITION, "sessions_log"),
    "function": CREATE_LOG_UPDATE.format(COLUMNS, FULL_CONDITION, "labels_log"),
    "table": "CREATE TRIGGER sessions_log_update AFTER UPDATE ON labels FOR EACH ROW EXECUTE FUNCTION sessions_log()",
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_trigger_with_another_definition_is_refused(own_url: str, own: PlainClient, change: str) -> None:
    own("DROP TRIGGER sessions_log_update ON sessions")
    own(CHANGES[change])

    fault = f"sessions_log_update is {'missing' if change == 'table' else 'changed'}"
    assert failures(own_url) == {"triggers": f"not as they should be: {fault}"}
    with pytest.raises(SchemaMismatch, match=fault):
        SessionManager(own_url)


@pytest.mark.parametrize(
    "change",
    [
        "SECURITY INVOKER",
        "RESET search_path",
        "SET search_path = pg_temp, public",
        "SET work_mem = '1MB'",
    ],
)
@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_function_with_other_options_is_refused(own_url: str, own: PlainClient, change: str) -> None:
    own(f"ALTER FUNCTION labels_log() {change}")

    fault = "labels_log is changed, labels_log_update is changed"
    assert failures(own_url) == {"triggers": f"not as they should be: {fault}"}
    with pytest.raises(SchemaMismatch, match="labels_log is changed"):
        SessionManager(own_url)


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_function_of_another_schema_is_refused(own_url: str, own: PlainClient) -> None:
    own("CREATE SCHEMA other")
    own("ALTER FUNCTION messages_place() SET SCHEMA other")

    assert failures(own_url) == {"triggers": "not as they should be: messages_place is changed"}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("WHEN NEW.message_cap <> OLD.message_cap", "WHEN NEW.message_cap < 1"),
        ("UPDATE OF message_cap ON sessions", "UPDATE OF task ON sessions"),
        ("AFTER UPDATE", "BEFORE UPDATE"),
    ],
)
@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_trigger_with_another_statement_is_refused(own_url: str, own: PlainClient, old: str, new: str) -> None:
    own("DROP TRIGGER sessions_message_cap")
    own(schema.TRIGGERS["sqlite"]["sessions_message_cap"].replace(old, new))

    assert failures(own_url) == {"triggers": "not as they should be: sessions_message_cap is changed"}
    with pytest.raises(SchemaMismatch, match="sessions_message_cap is changed"):
        SessionManager(own_url)


def test_trigger_of_somebody_else_is_a_warning(own_url: str, own: PlainClient) -> None:
    if own.backend == "sqlite":
        own("CREATE TRIGGER quiet BEFORE INSERT ON session_events BEGIN SELECT RAISE(IGNORE); END")
    else:
        own("CREATE FUNCTION quiet() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'")
        own("CREATE TRIGGER quiet BEFORE INSERT ON session_events FOR EACH ROW EXECUTE FUNCTION quiet()")

    detail = "not this release's, they may undo what it promises: quiet on session_events"
    assert findings(own_url)["triggers"] == ("warning", detail)


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_rule_on_a_table_is_a_warning(own_url: str, own: PlainClient) -> None:
    own("CREATE RULE quiet AS ON INSERT TO session_events DO INSTEAD NOTHING")

    detail = "not this release's, they may undo what it promises: quiet on session_events"
    assert findings(own_url)["triggers"] == ("warning", detail)


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_schema_with_a_name_that_needs_quotes_is_as_it_should_be(empty_url: str) -> None:
    url = make_url(empty_url)
    client = PlainClient(empty_url)
    client('CREATE SCHEMA "Our Schema"')
    client(f"ALTER DATABASE {url.database} SET search_path = 'Our Schema'")
    client.close()
    SessionManager(empty_url).close()

    SessionManager(empty_url).close()
    assert findings(empty_url)["triggers"][0] == "ok"


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
        "1 messages are gone and the log does not say why, number 4 of",
    ),
    "orphans": ("DELETE FROM sessions", "failure", "4 rows belong to no session"),
    "log": (
        "UPDATE sessions SET status = 'stopped', finished_ms = 1",
        "warning",
        "1 sessions are not as the log has it: somebody kept a change out of it",
    ),
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
        own("DROP TRIGGER sessions_log_update")
        own("DROP TRIGGER sessions_last_seq")
        own("DROP TRIGGER messages_removed")
    else:
        own("SET session_replication_role = replica")
    key = own("SELECT key FROM sessions")[0][0]
    own(statement)

    assert findings(own_url)[check] == (outcome, f"{detail}{'' if check == 'gaps' else ','} {key} for one")


def test_database_of_another_revision_is_a_failure(own_url: str, own: PlainClient) -> None:
    cures = {"0002": "run `sessions-db upgrade`", "9999": "a newer release has migrated it, install that one"}
    for revision, cure in cures.items():
        own(f"UPDATE sessions_db_version SET version_num = '{revision}'")

        assert failures(own_url) == {"revision": f"{revision}, this release needs 0003: {cure}"}
        assert [*findings(own_url)] == ["connection", "revision"]


def test_version_table_with_several_rows_is_one_failure(own_url: str, own: PlainClient) -> None:
    own("INSERT INTO sessions_db_version VALUES ('0001')")

    assert failures(own_url) == {"revision": "sessions_db_version has several rows: restore a backup"}


def test_empty_database_is_a_failure_and_stays_empty(empty_url: str, backend: str) -> None:
    if backend == "sqlite":
        Path(str(make_url(empty_url).database)).touch()

    assert failures(empty_url) == {"revision": "none, this release needs 0003: run `sessions-db upgrade`"}
    client = PlainClient(empty_url)
    catalogue = "sqlite_master" if backend == "sqlite" else "pg_tables WHERE schemaname = 'public'"
    assert client(f"SELECT count(*) FROM {catalogue}") == [(0,)]
    client.close()


def test_missing_database_is_one_failure(url: str) -> None:
    absent = make_url(url).set(database=f"{make_url(url).database}_absent").render_as_string(hide_password=False)

    assert [*findings(absent)] == ["connection"]
    assert "does not exist" in failures(absent)["connection"]


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_name_left_in_event_actor_is_a_warning(own_url: str, own: PlainClient) -> None:
    own("INSERT INTO event_actor VALUES ('somebody')")

    assert findings(own_url)["actor"][0] == "warning"


UNLOGGED = {
    "made": (
        "INSERT INTO sessions (key, agent_id, kind, status, created_ms, last_activity_ms)"
        " VALUES ('agent:a:main', 'a', 'main', 'active', 9000000000000, 9000000000000)"
    ),
    "ended": "UPDATE sessions SET status = 'stopped', finished_ms = 1",
    "deleted": "DELETE FROM sessions",
}


@pytest.mark.parametrize("change", UNLOGGED)
@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_what_a_temporary_trigger_kept_out_of_the_log_is_a_warning(own_url: str, own: PlainClient, change: str) -> None:
    assert findings(own_url)["log"][0] == "ok"
    own("CREATE TEMP TRIGGER quiet BEFORE INSERT ON main.session_events BEGIN SELECT RAISE(IGNORE); END")
    own(UNLOGGED[change])

    outcome, detail = findings(own_url)["log"]
    assert outcome == "warning"
    assert detail.startswith("1 sessions are not as the log has it: somebody kept a change out of it, agent:")


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_log_without_numbers_left_is_a_failure(own_url: str, own: PlainClient) -> None:
    own("UPDATE sqlite_sequence SET seq = 9223372036854775807 WHERE name = 'session_events'")

    assert [*failures(own_url)] == ["numbers"]


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

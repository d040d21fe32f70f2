"""The statements that must stay fast use an index, on both databases, among ten thousand sessions."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest

from sessions_db import NewMessage, Session, SessionKind, SessionManager, SessionStatus, SpawnLimits
from sessions_db.operations.waiting import changes
from tests.support.client import PlainClient
from tests.support.clock import at, ms
from tests.support.databases import PostgresDatabases, SQLiteDatabases
from tests.support.statements import driver_connection, traced

TARGET = "agent:agent-7:subagent:7"

# A hundred of those that are there.
KEYS = [f"agent:agent-7:subagent:{number}" for number in range(7, 10_000, 100)]

# Limits that nothing here reaches.
FAR = {"max_depth": 100, "max_children": 10_000, "max_active": 10_000}

# The last session of some page.
LAST = Session(
    key="agent:agent-0:subagent:5000",
    agent_id="agent-0",
    kind=SessionKind.SUBAGENT,
    status=SessionStatus.ACTIVE,
    created_ms=5000,
    message_count=1,
    last_activity_ms=5000,
)


def kind(number: str) -> str:
    """SQL for the kind of a session: every fiftieth is a cron session."""
    return f"CASE ({number} % 50) WHEN 0 THEN 'cron' ELSE 'subagent' END"


def key(number: str) -> str:
    """SQL for the key of a session: there are a hundred agents."""
    return f"'agent:agent-' || ({number} % 100) || ':' || {kind(number)} || ':' || {number}"


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def filled(request: pytest.FixtureRequest) -> Iterator[tuple[SessionManager, PlainClient]]:
    """A manager and a client of a database in which reading a whole table would be slower."""
    fixture = "sqlite_databases" if request.param == "sqlite" else "postgres_databases"
    databases: SQLiteDatabases | PostgresDatabases = request.getfixturevalue(fixture)
    url = databases.create(at_head=False)
    with SessionManager(url) as manager, closing(PlainClient(url)) as client:
        client(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10000)"
            " INSERT INTO sessions (key, agent_id, kind, status, finished_ms, label, run_id, parent_key, created_ms,"
            f" last_activity_ms) SELECT {key('i')}, 'agent-' || (i % 100), {kind('i')},"
            " CASE (i % 20) WHEN 0 THEN 'active' ELSE 'completed' END, CASE (i % 20) WHEN 0 THEN NULL ELSE i END,"
            f" 'label-' || i, 'run-' || i, {key('(i / 5)')}, i, i FROM n"
        )
        client("INSERT INTO labels SELECT label, key, created_ms FROM sessions")
        client(
            "INSERT INTO messages (session_key, seq, role, content, timestamp_ms)"
            " SELECT key, 1, 'user', 'some words to fill the page', 1 FROM sessions"
        )
        columns = "session_key, seq, role, content, timestamp_ms"
        client(f"INSERT INTO archived_messages ({columns}, archived_ms) SELECT {columns}, 1 FROM messages")
        client("ANALYZE")
        yield manager, client
    databases.drop(url)


READS: dict[str, tuple[Callable[[SessionManager], object], list[str]]] = {
    "list": (lambda m: m.list(limit=20), ["ix_sessions_created"]),
    "list of an agent": (lambda m: m.list(limit=20, agent_id="agent-7"), ["ix_sessions_agent_created"]),
    "list of a kind": (lambda m: m.list(["cron"], limit=20), ["ix_sessions_kind_created"]),
    "list of active": (lambda m: m.list(active_only=True, limit=20), ["ix_sessions_status_created"]),
    "list of children": (lambda m: m.list(parent_key=TARGET), ["ix_sessions_parent_created"]),
    "list with messages": (lambda m: m.list(limit=5, message_limit=5), ["ix_sessions_created", "pk_messages"]),
    "list, next page": (lambda m: m.list(limit=20, before=LAST), ["ix_sessions_created"]),
    "get": (lambda m: m.get(TARGET), ["pk_sessions", "pk_messages"]),
    "get_by_label": (lambda m: m.get_by_label("label-7"), ["pk_labels", "pk_sessions", "pk_messages"]),
    "find_keys": (lambda m: m.find_keys(TARGET), ["pk_sessions"]),
    "find_keys by label": (lambda m: m.find_keys("label-70"), ["pk_sessions", "pk_labels"]),
    "list of two agents": (lambda m: m.list(limit=20, agent_id=["agent-7", "agent-8"]), ["ix_sessions_"]),
    "history": (lambda m: m.history(TARGET, 50), ["pk_messages"]),
    "history of a page": (lambda m: m.history(TARGET, 50, after_seq=0, before_seq=9), ["pk_messages"]),
    "history with the archive": (
        lambda m: m.history(TARGET, 50, archived=True),
        ["pk_messages", "pk_archived_messages"],
    ),
    "wait_for_messages": (lambda m: m.wait_for_messages(TARGET, 0, timeout=0), ["pk_sessions", "pk_messages"]),
    "wait_for_end": (lambda m: m.wait_for_end([TARGET], timeout=0), ["pk_sessions"]),
    "poll": (lambda m: m._run(changes, json.dumps(KEYS), json.dumps(dict.fromkeys(KEYS, 1))), ["pk_sessions"]),
    "children": (lambda m: m.children(TARGET), ["ix_sessions_parent_created"]),
    "descendants": (lambda m: m.descendants(TARGET), ["ix_sessions_parent_created"]),
    "prune": (lambda m: m.prune(before=at(20), dry_run=True), ["ix_sessions_finished"]),
    "append": (lambda m: m.send_message("agent:agent-20:subagent:20", "Hello"), ["pk_sessions"]),
    "batch": (lambda m: m.add_messages(TARGET, [NewMessage("user", "Hello")]), ["pk_sessions"]),
    "idempotent append": (
        lambda m: [m.add_message(TARGET, "user", "Hello", idempotency_key="1") for _ in range(2)],
        ["pk_sessions"],
    ),
    "end": (lambda m: m.stop_session("agent:agent-20:subagent:20"), ["pk_sessions"]),
    "timeout_idle": (lambda m: m.timeout_idle(ms(1), dry_run=True), ["ix_sessions_status_created"]),
    "timeout_idle of an agent": (
        lambda m: m.timeout_idle(ms(1), agent_id="agent-7", dry_run=True),
        ["ix_sessions_agent_created"],
    ),
    "prune of an agent's failures": (
        lambda m: m.prune(before=at(20), agent_id="agent-7", status="error", dry_run=True),
        ["ix_sessions_"],
    ),
    "list of keys": (lambda m: m.list(keys=[TARGET, "agent:agent-7:subagent:107"]), ["pk_sessions"]),
    "list of keys that begin so": (lambda m: m.list(key_prefix="agent:agent-7:cron:"), ["pk_sessions"]),
    "count of keys that begin so": (lambda m: m.count(key_prefix="agent:agent-7:cron:"), ["pk_sessions"]),
    "spawn within limits": (
        lambda m: m.spawn_subagent("agent-7", "Test", parent_key=TARGET, limits=SpawnLimits(**FAR)),
        ["pk_sessions", "ix_sessions_parent_created"],
    ),
    "list under a session": (lambda m: m.list(under=TARGET, limit=20), ["ix_sessions_parent_created"]),
    "list of a span of time": (
        lambda m: m.list(created_after=at(5000), created_before=at(6000), limit=20),
        ["ix_sessions_created"],
    ),
    "iterate": (lambda m: next(m.iterate(agent_id="agent-7")), ["ix_sessions_agent_created"]),
    "count under a session": (lambda m: m.count(under=TARGET), ["ix_sessions_parent_created"]),
    # On Postgres any index that ends with the time and the key will do for so few.
    "count of a span of time": (lambda m: m.count(created_after=at(5000), created_before=at(5010)), ["ix_sessions_"]),
    "get_or_create": (lambda m: m.get_or_create("agent-7", "talk"), ["pk_sessions", "pk_messages"]),
    "idempotent send_message": (
        lambda m: [m.send_message("agent:agent-0:cron:2000", "Hello", idempotency_key="1") for _ in range(2)],
        ["pk_sessions"],
    ),
    "append that expects a count": (
        lambda m: m.add_message("agent:agent-7:subagent:107", "user", "Hello", expected_count=1),
        ["pk_sessions"],
    ),
    "batch that expects a count": (
        lambda m: m.add_messages("agent:agent-7:subagent:207", [NewMessage("user", "Hello")] * 2, expected_count=1),
        ["pk_sessions"],
    ),
    "touch": (lambda m: m.touch("agent:agent-40:subagent:40"), ["pk_sessions"]),
    "update_session": (
        lambda m: m.update_session(TARGET, metadata={"a": 1}, label="new", task="new"),
        ["pk_sessions", "pk_labels"],
    ),
    "fork_session": (
        lambda m: m.fork_session(TARGET, 1, label="branch", idempotency_key="1"),
        ["pk_sessions", "pk_messages"],
    ),
}

# Postgres expects a few thousand descendants, and joins them by hashing so small a table.
WALKS = ("descendants", "list under a session", "count under a session")

# SQLite names a primary key's index after its table.
SQLITE_NAMES = {
    "pk_sessions": "SEARCH sessions USING PRIMARY KEY",
    "pk_labels": "SEARCH labels USING PRIMARY KEY",
    "pk_messages": "SEARCH messages USING PRIMARY KEY",
    "pk_archived_messages": "SEARCH archived_messages USING PRIMARY KEY",
}


def plans(manager: SessionManager, client: PlainClient, operation: Callable[[SessionManager], object]) -> str:
    """The plans of all statements that the operation sends."""
    explain = "EXPLAIN QUERY PLAN" if client.backend == "sqlite" else "EXPLAIN"
    sent: list[tuple[str, Any]] = []
    with traced(driver_connection(manager), lambda *statement: sent.append(statement)):
        operation(manager)

    with manager.transaction() as tx:
        found = [
            " ".join(map(str, row))
            for statement, parameters in sent
            if not statement.startswith(("BEGIN", "COMMIT"))
            for row in tx.connection.exec_driver_sql(f"{explain} {statement}", parameters)
        ]
    assert found
    return "\n".join(found)


def test_reads_and_writes_use_their_indexes(filled: tuple[SessionManager, PlainClient]) -> None:
    manager, client = filled
    for name, (operation, indexes) in READS.items():
        plan = plans(manager, client, operation)

        for index in indexes:
            assert (SQLITE_NAMES.get(index, index) if client.backend == "sqlite" else index) in plan, (name, plan)
        # No table is scanned: SQLite says SCAN (also for the rows of a batch, not a table), Postgres Seq Scan.
        for table in ("sessions", "messages", "labels") if name not in WALKS else ():
            assert f"SCAN {table}\n" not in f"{plan}\n", (name, plan)
            assert f"Seq Scan on {table}" not in plan, (name, plan)


def test_pages_of_list_come_from_the_index_in_their_order(filled: tuple[SessionManager, PlainClient]) -> None:
    manager, client = filled
    for name in ("list", "list of an agent", "list of a kind", "list of active", "list, next page"):
        plan = plans(manager, client, READS[name][0])

        assert "Sort" not in plan, (name, plan)
        assert "TEMP B-TREE" not in plan, (name, plan)


def test_append_and_trim_read_neither_table_whole(filled: tuple[SessionManager, PlainClient]) -> None:
    _, client = filled
    update = "UPDATE sessions SET last_seq = 2 WHERE key = 'x' AND last_seq = 1"
    trim = "DELETE FROM messages WHERE session_key = 'x' AND seq <= 5"
    explain = "EXPLAIN QUERY PLAN" if client.backend == "sqlite" else "EXPLAIN"

    for statement, index in ((update, "pk_sessions"), (trim, "pk_messages")):
        plan = "\n".join(" ".join(map(str, row)) for row in client(f"{explain} {statement}"))

        assert (SQLITE_NAMES[index] if client.backend == "sqlite" else index) in plan


@pytest.mark.parametrize("filled", ["postgresql"], indirect=True)
def test_trim_of_the_trigger_reads_no_table_whole(filled: tuple[SessionManager, PlainClient]) -> None:
    manager, _ = filled
    key = manager.spawn_subagent("main", "Test", message_cap=5)
    scans = "SELECT sum(seq_scan) FROM pg_stat_xact_user_tables WHERE relname IN ('sessions', 'messages')"
    with manager.transaction() as tx:
        before = tx.connection.exec_driver_sql(scans).scalar()
        for number in range(20):
            tx.send_message(key, str(number))
        tx.add_messages(key, [NewMessage("user", str(number)) for number in range(20)])

        assert tx.connection.exec_driver_sql(scans).scalar() == before


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_appends_update_the_session_in_place(empty_url: str) -> None:
    updates = "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_xact_user_tables WHERE relname = 'sessions'"
    with SessionManager(empty_url) as manager, manager.transaction() as tx:
        key = tx.spawn_subagent("main", "Test")
        for number in range(10):
            tx.send_message(key, str(number))

        assert tx.connection.exec_driver_sql(updates).one() == (10, 10)

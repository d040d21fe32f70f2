"""Messages that do not change: what redacts and removes them, what is refused, and what the log says."""

from __future__ import annotations

import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import psycopg
import pytest

from sessions_db import InvalidInput, NewMessage, SessionManager
from tests.support.client import PlainClient

REFUSAL = (sqlite3.IntegrityError, psycopg.IntegrityError)


@pytest.fixture
def key(manager: SessionManager) -> str:
    """A session of which numbers 1 and 2 are archived, and 3 to 6 are retained."""
    key = manager.spawn_subagent("main", "Test", message_cap=4, archive_trimmed=True)
    manager.add_messages(key, [NewMessage("tool", f"said {n}", "search", {"n": n}, f"key {n}") for n in range(1, 7)])
    return key


def logged(plain: PlainClient) -> list[tuple[object, ...]]:
    return plain(
        "SELECT event, reason, message_count, first_seq, last_seq FROM session_events"
        " WHERE event IN ('messages_removed', 'message_redacted') ORDER BY id"
    )


@pytest.mark.parametrize(("seq", "table"), [(1, "archived_messages"), (5, "messages")])
def test_redacted_message_keeps_its_place_and_loses_what_it_said(
    manager: SessionManager, plain: PlainClient, key: str, seq: int, table: str
) -> None:
    before = plain(f"SELECT seq, role, timestamp_ms, idempotency_key FROM {table} WHERE seq = ?", seq)

    redacted = manager.redact_message(key, seq, reason='asked "for"')
    again = manager.redact_message(key, seq, reason="once more")

    assert redacted is not None
    assert (redacted.content, redacted.tool_name, redacted.metadata) == (
        "[redacted]",
        "[redacted]",
        {"redacted": 'asked "for"'},
    )
    assert again == redacted
    assert plain(f"SELECT seq, role, timestamp_ms, idempotency_key FROM {table} WHERE seq = ?", seq) == before
    assert logged(plain) == [("message_redacted", 'asked "for"', None, seq, seq)]
    assert plain("SELECT seq FROM audit_messages WHERE redacted = 1") == [(seq,)]


def test_repeated_append_of_a_redacted_message_returns_it(manager: SessionManager, key: str) -> None:
    redacted = manager.redact_message(key, 5, reason="asked for")
    new = NewMessage("tool", "said 5", "search", {"n": 5}, "key 5")

    one = manager.add_message(
        key, new.role, new.content, tool_name="search", metadata={"n": 5}, idempotency_key="key 5"
    )
    (other,) = manager.add_messages(key, [new])

    assert one == other == redacted


def test_only_a_message_that_is_there_is_redacted(manager: SessionManager, key: str) -> None:
    with pytest.raises(InvalidInput, match="seq"):
        manager.redact_message(key, 7, reason="asked for")
    with pytest.raises(InvalidInput, match="reason"):
        manager.redact_message(key, 5, reason="")

    assert manager.redact_message("agent:main:subagent:none", 1, reason="asked for") is None


MARKED = """content = '[redacted]', tool_name = '[redacted]', metadata = '{"redacted": "by hand"}'"""


OTHER_CHANGES = [
    "content = 'other'",
    "content = content",
    "role = 'user'",
    "timestamp_ms = 1",
    "idempotency_key = NULL",
    f"{MARKED}, role = 'user'",
    MARKED.replace("tool_name = '[redacted]'", "tool_name = NULL"),
    MARKED.replace("by hand", ""),
    MARKED.replace("by hand", 'by hand", "n": "1'),
    MARKED.replace("content = '[redacted]'", "content = 'other'"),
]


@pytest.mark.parametrize("table", ["messages", "archived_messages"])
@pytest.mark.usefixtures("key")
def test_any_other_change_is_refused(plain: PlainClient, table: str, subtests: pytest.Subtests) -> None:
    before = plain(f"SELECT * FROM {table}")

    for change in OTHER_CHANGES:
        with subtests.test(change):
            with pytest.raises(REFUSAL, match=f"{table}_redacted"):
                plain(f"UPDATE {table} SET {change}")

            assert plain(f"SELECT * FROM {table}") == before
            assert logged(plain) == []


@pytest.mark.usefixtures("key")
def test_redaction_by_hand_is_logged_alike(plain: PlainClient) -> None:
    plain(f"UPDATE messages SET {MARKED} WHERE seq = 3")
    with pytest.raises(REFUSAL, match="messages_redacted"):
        plain(f"UPDATE messages SET {MARKED} WHERE seq = 3")

    assert logged(plain) == [("message_redacted", "by hand", None, 3, 3)]


def test_popped_messages_are_the_newest_and_their_numbers_are_not_given_again(
    manager: SessionManager, plain: PlainClient, key: str
) -> None:
    popped = manager.pop_messages(key, 2)
    again = manager.add_message(key, "user", "again")

    assert popped is not None
    assert [message.seq for message in popped] == [5, 6]
    assert again.seq == 7
    assert [message.seq for message in manager.history(key, include_tools=True) or ()] == [4, 7]
    everything = manager.history(key, include_tools=True, archived=True) or ()
    assert [message.seq for message in everything] == [1, 2, 3, 4, 5, 6, 7]
    assert [message.seq for message in everything if message.archived_ms is not None] == [1, 2, 3, 5, 6]
    assert logged(plain) == [("messages_removed", None, 2, 5, 6)]
    assert plain("SELECT trimmed_count, removed_count, archived_count FROM audit_sessions") == [(3, 2, 5)]


def test_each_message_is_popped_by_one_of_many(manager: SessionManager) -> None:
    key = manager.spawn_subagent("main", "Test")
    manager.add_messages(key, [NewMessage("user", str(number)) for number in range(40)])

    with ThreadPoolExecutor(8) as threads:
        popped = [*threads.map(lambda _: manager.pop_messages(key), range(50))]

    assert sorted(message.seq for found in popped for message in found or ()) == [*range(1, 41)]
    assert popped.count([]) == 10


def test_list_gives_as_many_messages_after_some_were_popped(manager: SessionManager, key: str) -> None:
    manager.pop_messages(key, 2)
    manager.add_message(key, "user", "again")

    (session,) = manager.list(message_limit=2)

    assert [message.seq for message in session.messages] == [4, 7]


def test_fork_has_no_message_that_was_taken_back(manager: SessionManager, key: str) -> None:
    manager.pop_messages(key, 2)
    manager.add_message(key, "user", "again")

    fork = manager.fork_session(key, 7)

    messages = manager.history(fork, include_tools=True, archived=True) or ()
    kept = [m for m in manager.history(key, include_tools=True, archived=True) or () if m.seq not in (5, 6)]
    assert [message.content for message in messages] == [message.content for message in kept]


def test_fork_has_what_was_taken_back_from_an_earlier_session_of_the_key_only(manager: SessionManager) -> None:
    new = [NewMessage("user", str(number)) for number in range(1, 5)]
    for count in (2, 0):
        key = manager.get_or_create("main", "talk", message_cap=2, archive_trimmed=True).key
        manager.add_messages(key, new)
        manager.pop_messages(key, count)
        fork = manager.fork_session(key, 4)
        messages = manager.history(fork, archived=True) or ()
        assert [message.content for message in messages] == [message.content for message in new[: 4 - count]]
        manager.delete_session(key)


def test_all_messages_are_popped_with_a_count_of_none(manager: SessionManager, plain: PlainClient, key: str) -> None:
    plain("DELETE FROM messages WHERE seq = 4")

    popped = manager.pop_messages(key, None)

    assert popped is not None
    assert [message.seq for message in popped] == [3, 5, 6]
    assert manager.pop_messages(key) == []
    assert manager.pop_messages("agent:main:subagent:none") is None
    assert [row[1:] for row in logged(plain)] == [(None, 1, 4, 4), (None, 1, 3, 3), (None, 2, 5, 6)]


def test_neither_the_trim_query_nor_the_end_of_a_session_is_logged_as_a_removal(
    manager: SessionManager, plain: PlainClient, key: str
) -> None:
    manager.add_messages(key, [NewMessage("user", "more")] * 3)
    manager.delete_session(key)

    assert logged(plain) == []


@pytest.mark.usefixtures("key")
def test_changed_cap_explains_the_gap_that_it_makes(plain: PlainClient) -> None:
    plain("UPDATE sessions SET message_cap = 3")
    plain("UPDATE sessions SET message_cap = 9")

    assert logged(plain) == [
        ("messages_removed", "trimmed as message_cap went from 4 to 3", 1, 3, 3),
        ("messages_removed", "trimmed before message_cap went from 3 to 9", 0, 1, 3),
    ]


@pytest.mark.usefixtures("key")
def test_counter_does_not_go_back_and_what_it_passes_over_is_logged(plain: PlainClient) -> None:
    with pytest.raises(REFUSAL, match="sessions_last_seq"):
        plain("UPDATE sessions SET last_seq = 5")
    plain("UPDATE sessions SET last_seq = 8")

    assert logged(plain) == [("messages_removed", "never stored here", 0, 7, 8)]


def test_event_that_explains_a_transcript_is_kept_as_long_as_its_session(
    manager: SessionManager, plain: PlainClient, key: str
) -> None:
    plain(
        "INSERT INTO session_events (at_ms, event, session_key, message_count, first_seq, last_seq)"
        " VALUES (1, 'messages_removed', ?, 1, 5, 5)",
        key,
    )
    with pytest.raises(REFUSAL, match="session_events_delete"):
        plain("DELETE FROM session_events WHERE at_ms = 1")
    manager.delete_session(key)
    plain("DELETE FROM session_events WHERE at_ms = 1")

    assert plain("SELECT count(*) FROM session_events WHERE at_ms = 1") == [(0,)]


def test_retention_of_the_log_is_a_policy_and_its_change_an_event(manager: SessionManager, plain: PlainClient) -> None:
    assert manager.log_retention().days == 180
    manager.set_log_retention(90)
    with pytest.raises(REFUSAL, match="log_policy"):
        plain("DELETE FROM log_policy")
    with pytest.raises(REFUSAL):
        plain("UPDATE log_policy SET retention_days = 0")
    with pytest.raises(InvalidInput, match="days"):
        manager.set_log_retention(0)

    assert manager.log_retention().days == 90
    assert [(event.event, event.session_key, event.reason) for event in manager.events()] == [
        ("retention_changed", None, "180 -> 90 days")
    ]


def test_event_that_was_deleted_while_the_log_was_kept_for_less_is_no_fault_later(
    manager: SessionManager, plain: PlainClient
) -> None:
    long_ago_ms = time.time_ns() // 1_000_000 - timedelta(days=100) // timedelta(milliseconds=1)
    plain("INSERT INTO session_events (at_ms, event, session_key) VALUES (?, 'created', 'agent:a:main')", long_ago_ms)
    manager.seal_log()

    manager.set_log_retention(90)
    plain("DELETE FROM session_events WHERE at_ms = ?", long_ago_ms)
    manager.set_log_retention(180)

    verdict = manager.verify_log()
    assert (verdict.fault, verdict.expired) == (None, 1)

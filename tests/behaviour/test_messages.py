"""Appending and reading messages."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from sessions_db import (
    IdempotencyConflict,
    InvalidInput,
    Message,
    NewMessage,
    Role,
    SessionManager,
    SessionNotActive,
    SessionNotFound,
    SessionStatus,
)
from sessions_db.limits import MAX_GROUP_MESSAGES
from sessions_db.operations import message_rows
from sessions_db.validation import JsonValue
from tests.support.client import PlainClient
from tests.support.clock import Clock
from tests.support.locks import wait_for_lock
from tests.support.threads import run_together

UNKNOWN = "agent:nobody:main"


@pytest.fixture
def key(manager: SessionManager) -> str:
    """An active session."""
    return manager.spawn_subagent("main", "Test")


def contents(messages: list[Message] | None) -> list[str]:
    assert messages is not None
    return [message.content for message in messages]


def texts(first: int, last: int) -> list[NewMessage]:
    """User messages "first" to "last"."""
    return [NewMessage("user", str(number)) for number in range(first, last + 1)]


# Appending


def test_sent_message_has_the_role_user(manager: SessionManager, key: str, clock: Clock) -> None:
    sent = manager.send_message(key, "Hello")

    assert sent == Message(role=Role.USER, content="Hello", timestamp_ms=clock.now_ms, seq=1)
    assert manager.history(key) == [sent]


@pytest.mark.parametrize("role", list(Role))
def test_added_message_is_stored_as_given(manager: SessionManager, key: str, clock: Clock, role: Role) -> None:
    metadata: dict[str, JsonValue] = {
        "z": [1, {"y": None}],
        "a": 2.5,
        "text": 'quote " backslash \\u0000 \\ ü 🙂',
        "big": 2**70,
    }
    added = manager.add_message(key, role.value, "text", tool_name="search", metadata=metadata)

    assert added == Message(
        role=role, content="text", timestamp_ms=clock.now_ms, tool_name="search", seq=1, metadata=metadata
    )
    history = manager.history(key, include_tools=True)
    assert history == [added]
    assert list(history[0].metadata or {}) == list(metadata)
    assert isinstance(history[0].role, Role)


def test_message_is_added_whatever_the_status(manager: SessionManager, key: str) -> None:
    manager.error_session(key)

    manager.add_message(key, "system", "post mortem")

    assert contents(manager.history(key)) == ["post mortem"]


def test_message_is_sent_only_to_an_active_session(manager: SessionManager, key: str) -> None:
    manager.complete_session(key)

    with pytest.raises(SessionNotActive, match=r"^Session is not active: Completed \(agent:") as caught:
        manager.send_message(key, "Hello")

    assert (caught.value.key, caught.value.status) == (key, SessionStatus.COMPLETED)
    assert manager.history(key) == []


@pytest.mark.parametrize(
    "append",
    [
        lambda manager: manager.send_message(UNKNOWN, "Hello"),
        lambda manager: manager.add_message(UNKNOWN, "user", "Hello"),
        lambda manager: manager.add_message(UNKNOWN, "user", "Hello", idempotency_key="1"),
        lambda manager: manager.add_messages(UNKNOWN, [NewMessage("user", "Hello")]),
        lambda manager: manager.add_messages(UNKNOWN, [NewMessage("user", "Hello", idempotency_key="1")]),
        lambda manager: manager.add_messages(UNKNOWN, []),
    ],
)
def test_unknown_session_accepts_no_message(
    manager: SessionManager, append: Callable[[SessionManager], object]
) -> None:
    with pytest.raises(SessionNotFound, match=r"^Session not found: agent:nobody:main$") as caught:
        append(manager)

    assert caught.value.key == UNKNOWN


def test_caller_cannot_change_stored_metadata_afterwards(manager: SessionManager, key: str) -> None:
    metadata = {"list": [1]}
    new = NewMessage("user", "Hello", metadata=metadata)
    metadata["list"].append(2)

    assert manager.add_messages(key, [new])[0].metadata == {"list": [1]}


def test_activity_never_steps_back(manager: SessionManager, clock: Clock, key: str) -> None:
    manager.send_message(key, "now")
    latest = clock.now_ms
    clock.now_ms -= 60_000
    manager.send_message(key, "from a clock that was set back")
    manager.add_messages(key, texts(1, 2))

    session = manager.get(key)
    assert session is not None
    assert session.last_activity_ms == latest
    assert [message.seq for message in session.messages] == [1, 2, 3, 4]
    assert session.messages[1].timestamp_ms == latest - 60_000


# The cap


def test_101st_message_drops_the_oldest(manager: SessionManager, key: str) -> None:
    for number in range(1, 102):
        manager.send_message(key, str(number))

    session = manager.get(key)
    assert session is not None
    assert contents(list(session.messages)) == [str(number) for number in range(2, 102)]
    assert [message.seq for message in session.messages] == list(range(2, 102))
    assert session.message_count == 101


def test_batch_larger_than_the_cap_leaves_its_newest_messages(manager: SessionManager, key: str) -> None:
    manager.send_message(key, "before")

    stored = manager.add_messages(key, texts(1, 250))

    assert contents(stored) == [str(number) for number in range(1, 251)]
    assert [message.seq for message in stored] == list(range(2, 252))
    assert contents(manager.history(key)) == [str(number) for number in range(151, 251)]
    session = manager.get(key)
    assert session is not None
    assert session.message_count == 251


def test_cap_applies_to_each_session_separately(manager: SessionManager) -> None:
    first = manager.spawn_subagent("main", "Test", message_cap=2)
    second = manager.spawn_subagent("main", "Test", message_cap=3)
    for key in (first, second):
        manager.add_messages(key, texts(1, 5))

    assert contents(manager.history(first)) == ["4", "5"]
    assert contents(manager.history(second)) == ["3", "4", "5"]


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_writer_that_waited_behind_a_large_batch_keeps_the_cap(manager: SessionManager, plain: PlainClient) -> None:
    key = manager.spawn_subagent("main", "Test")
    with manager.transaction() as tx:
        tx.add_messages(key, texts(1, 150))
        writer = threading.Thread(target=manager.send_message, args=(key, "waited"))
        writer.start()
        wait_for_lock(plain)
    writer.join()

    assert plain("SELECT count(*), min(seq), max(seq) FROM messages WHERE session_key = ?", key) == [(100, 52, 151)]
    assert contents(manager.history(key, 1)) == ["waited"]


def test_sequence_has_no_gap_and_no_repeat_after_8_threads_of_200_appends(manager: SessionManager) -> None:
    key = manager.spawn_subagent("main", "Test", message_cap=5000)
    barrier = threading.Barrier(8)
    numbers: list[int] = []

    def append(writer: int) -> None:
        barrier.wait()
        numbers.extend(manager.add_message(key, "user", f"{writer}/{number}").seq for number in range(200))

    run_together([threading.Thread(target=append, args=(writer,)) for writer in range(8)])

    session = manager.get(key)
    assert session is not None
    assert sorted(numbers) == list(range(1, 1601))
    assert [message.seq for message in session.messages] == list(range(1, 1601))
    assert session.message_count == 1600
    for writer in range(8):
        own = [message.content for message in session.messages if message.content.startswith(f"{writer}/")]
        assert own == [f"{writer}/{number}" for number in range(200)]


def test_no_committed_state_has_more_than_the_cap(manager: SessionManager, plain: PlainClient) -> None:
    key = manager.spawn_subagent("main", "Test", message_cap=10)
    writing = threading.Event()

    def append() -> None:
        try:
            for number in range(60):
                manager.add_messages(key, texts(1, 1 + number % 25))
        finally:
            writing.set()

    writers = [threading.Thread(target=append) for _ in range(2)]
    for thread in writers:
        thread.start()
    counts = set()
    while not writing.is_set():
        counts |= set(plain("SELECT count(*) FROM messages WHERE session_key = ?", key))
    for thread in writers:
        thread.join()
    counts |= set(plain("SELECT count(*) FROM messages WHERE session_key = ?", key))

    assert max(counts) == (10,)


# Batches


def test_batch_keeps_its_order_and_everything_in_it(manager: SessionManager, key: str) -> None:
    batch = [
        NewMessage("system", "", None, {"b": 1, "a": [True, None, "é"]}),
        NewMessage(Role.TOOL, "[1, 2]", tool_name="search"),
        NewMessage("assistant", 'quote " backslash \\ newline \n tab \t 🙂'),
        NewMessage("user", "last"),
    ]

    stored = manager.add_messages(key, iter(batch))

    assert [(m.role, m.content, m.tool_name, m.metadata, m.seq) for m in stored] == [
        (new.role, new.content, new.tool_name, new.metadata, position) for position, new in enumerate(batch, start=1)
    ]
    assert manager.history(key, include_tools=True) == stored


def test_empty_batch_stores_nothing(manager: SessionManager, key: str) -> None:
    assert manager.add_messages(key, []) == []
    assert manager.history(key) == []


def test_batch_may_hold_10_000_messages(manager: SessionManager, key: str) -> None:
    stored = manager.add_messages(key, texts(1, 10_000))

    assert [message.seq for message in stored] == list(range(1, 10_001))
    assert contents(manager.history(key, 1)) == ["10000"]


def test_batch_that_no_statement_can_hold_is_refused_and_stores_nothing(
    manager: SessionManager, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(message_rows, "MAX_BATCH_BYTES", 1_000)

    with pytest.raises(InvalidInput, match="messages must be at most 1000 bytes together"):
        manager.add_messages(key, [NewMessage("user", "é" * 100)] * (MAX_GROUP_MESSAGES + 1))

    assert manager.history(key) == []
    assert len(manager.add_messages(key, [NewMessage("user", "é" * 100)] * 3)) == 3


@pytest.mark.parametrize("keyed", [False, True])
def test_batch_keeps_texts_that_mean_something_to_databases(manager: SessionManager, key: str, keyed: bool) -> None:
    odd = [
        "",
        " ",
        "NULL",
        "null",
        '"',
        "\\",
        '\\"',
        "\\\\",
        "{a,b}",
        "[1]",
        ",",
        "\n\t\r",
        "é\u2028",
        "'",
        "%s",
        "$1",
        "\x01",
    ]
    batch = [NewMessage("tool", text, text, {text: text}) for text in odd]
    batch += [NewMessage("user", text, None, None, text if keyed else None) for text in odd if text]

    manager.add_messages(key, batch)

    stored = manager.history(key, include_tools=True) or []
    assert [(each.content, each.tool_name, each.metadata) for each in stored] == [
        (new.content, new.tool_name, new.metadata) for new in batch
    ]


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_batch_that_waited_while_its_session_was_recreated_is_stored(
    manager: SessionManager, plain: PlainClient
) -> None:
    key = manager.get_or_create_main("main").key
    stored: list[Message] = []
    thread = threading.Thread(target=lambda: stored.extend(manager.add_messages(key, texts(1, 3))))
    with manager.transaction() as tx:
        tx.delete_session(key)
        tx.get_or_create_main("main")
        thread.start()
        wait_for_lock(plain)
    thread.join()

    assert [message.seq for message in stored] == [1, 2, 3]
    assert contents(manager.history(key)) == ["1", "2", "3"]


# Idempotency


def test_second_append_with_an_idempotency_key_returns_the_first_message(manager: SessionManager, key: str) -> None:
    first = manager.add_message(key, "tool", "result", tool_name="search", metadata={"a": 1}, idempotency_key="call-1")
    manager.send_message(key, "between")

    second = manager.add_message(key, "tool", "result", tool_name="search", metadata={"a": 1}, idempotency_key="call-1")

    assert second == first
    assert contents(manager.history(key, include_tools=True)) == ["result", "between"]


REPEATED = NewMessage("tool", "result", "search", {"a": 1, "b": [{"c": None}]}, "call-1")


@pytest.mark.parametrize(
    ("change", "differing"),
    [
        ({"content": "another"}, ("content",)),
        ({"role": "assistant", "tool_name": None}, ("role", "tool_name")),
        ({"metadata": None}, ("metadata",)),
        ({"metadata": {"a": 1.0, "b": [{"c": None}]}}, ("metadata",)),
        ({"metadata": {"a": True, "b": [{"c": None}]}}, ("metadata",)),
    ],
)
def test_idempotency_key_that_comes_again_with_another_message_is_refused(
    manager: SessionManager, key: str, change: dict[str, Any], differing: tuple[str, ...]
) -> None:
    other = replace(REPEATED, **change)
    manager.add_messages(key, [REPEATED])
    retained = manager.history(key, include_tools=True)

    for call in (
        lambda: manager.add_message(
            key, other.role, other.content, tool_name=other.tool_name, metadata=other.metadata, idempotency_key="call-1"
        ),
        lambda: manager.add_messages(key, [NewMessage("user", "lost"), other]),
        lambda: manager.add_messages(key, [NewMessage("user", "x", idempotency_key="new"), REPEATED, other]),
    ):
        with pytest.raises(IdempotencyConflict, match="'call-1'") as caught:
            call()

        assert vars(caught.value) == {"idempotency_key": "call-1", "session_key": key, "differing": differing}
    assert manager.history(key, include_tools=True) == retained


def test_idempotency_key_with_two_messages_in_one_batch_is_refused(manager: SessionManager, key: str) -> None:
    with pytest.raises(IdempotencyConflict) as caught:
        manager.add_messages(key, [NewMessage("user", text, idempotency_key="1") for text in ("a", "b")])

    assert (caught.value.idempotency_key, caught.value.differing) == ("1", ("content",))
    assert manager.history(key) == []


def test_order_of_the_keys_in_metadata_makes_no_other_message(manager: SessionManager, key: str) -> None:
    first = manager.add_message(key, "user", "Hello", metadata={"a": {"b": 1, "c": 2}, "d": 3}, idempotency_key="1")

    again: dict[str, JsonValue] = {"d": 3, "a": {"c": 2, "b": 1}}
    assert manager.add_message(key, "user", "Hello", metadata=again, idempotency_key="1") == first


def test_idempotency_key_applies_to_its_session_only(manager: SessionManager, key: str) -> None:
    other = manager.spawn_subagent("main", "Test")
    manager.add_message(key, "user", "one", idempotency_key="1")
    manager.add_message(other, "user", "two", idempotency_key="1")

    assert contents(manager.history(key)) == ["one"]
    assert contents(manager.history(other)) == ["two"]


def test_idempotency_key_is_free_again_once_its_message_was_trimmed(manager: SessionManager) -> None:
    key = manager.spawn_subagent("main", "Test", message_cap=1)
    manager.add_message(key, "user", "first", idempotency_key="1")
    manager.send_message(key, "between")

    assert manager.add_message(key, "user", "again", idempotency_key="1").seq == 3


def test_batch_stores_only_the_messages_that_are_new(manager: SessionManager, key: str) -> None:
    known = manager.add_message(key, "user", "known", idempotency_key="1")

    stored = manager.add_messages(
        key,
        [
            NewMessage("user", "new", idempotency_key="2"),
            NewMessage("user", "known", idempotency_key="1"),
            NewMessage("user", "without"),
            NewMessage("user", "new", idempotency_key="2"),
        ],
    )

    assert [(message.seq, message.content) for message in stored] == [
        (2, "new"),
        (1, "known"),
        (3, "without"),
        (2, "new"),
    ]
    assert stored[1] == known
    assert contents(manager.history(key)) == ["known", "new", "without"]


def test_repeated_batch_returns_the_first_messages(manager: SessionManager, key: str) -> None:
    batch = [NewMessage("user", text, idempotency_key=text) for text in ("a", "b")]

    assert manager.add_messages(key, batch) == manager.add_messages(key, batch)
    assert contents(manager.history(key)) == ["a", "b"]


def test_threads_that_race_with_one_idempotency_key_store_one_message(manager: SessionManager, key: str) -> None:
    barrier = threading.Barrier(8)
    stored: list[Message] = []

    def append(writer: int) -> None:
        barrier.wait()
        if writer % 2:
            stored.append(manager.add_message(key, "user", "once", idempotency_key="1"))
        else:
            stored.extend(manager.add_messages(key, [NewMessage("user", "once", idempotency_key="1")]))

    run_together([threading.Thread(target=append, args=(writer,)) for writer in range(8)])

    assert len(stored) == 8
    assert len(set(map(repr, stored))) == 1
    assert contents(manager.history(key)) == ["once"]


# History


def test_history_of_an_unknown_session_is_none(manager: SessionManager) -> None:
    assert manager.history(UNKNOWN) is None
    assert manager.history(UNKNOWN, 0) is None


def test_history_of_a_session_without_messages_is_empty(manager: SessionManager, key: str) -> None:
    assert manager.history(key) == []


def test_history_returns_the_newest_messages_oldest_first(manager: SessionManager, key: str) -> None:
    manager.add_messages(key, texts(1, 5))

    assert contents(manager.history(key, 2)) == ["4", "5"]
    assert contents(manager.history(key, 100)) == ["1", "2", "3", "4", "5"]
    assert manager.history(key, 0) == []


def test_history_drops_tool_messages_before_applying_the_limit(manager: SessionManager, key: str) -> None:
    for role in ("user", "tool", "assistant", "tool", "tool"):
        manager.add_message(key, role, role)

    assert contents(manager.history(key, 2)) == ["user", "assistant"]
    assert contents(manager.history(key, 2, include_tools=True)) == ["tool", "tool"]


def test_history_of_only_tool_messages_is_empty_without_tools(manager: SessionManager, key: str) -> None:
    manager.add_message(key, "tool", "result")

    assert manager.history(key) == []


# Pages of the history


@pytest.mark.parametrize("archived", [False, True])
def test_history_is_paged_forward_and_back(manager: SessionManager, archived: bool) -> None:
    key = manager.spawn_subagent("main", "Test", message_cap=5, archive_trimmed=True)
    roles = ("user", "assistant", "tool")
    manager.add_messages(key, [NewMessage(roles[number % 3], str(number)) for number in range(1, 13)])
    numbers = [*range(1 if archived else 8, 13)]

    for include_tools in (True, False):
        expected = [number for number in numbers if include_tools or number % 3 != 2]

        def page(**bounds: int) -> list[int]:
            found = manager.history(key, 2, include_tools, archived=archived, **bounds)  # noqa: B023  # called here
            return [message.seq for message in found or []]

        forward, back = page(after_seq=0), page()
        while more := page(after_seq=forward[-1]):
            forward += more
        while more := page(before_seq=back[0]):
            back = more + back

        assert forward == back == expected
        assert page(after_seq=8, before_seq=11) == [number for number in expected if 8 < number < 11][:2]


def test_archived_message_says_when_it_was_archived_and_a_retained_one_does_not(manager: SessionManager) -> None:
    key = manager.spawn_subagent("main", "Test", message_cap=1, archive_trimmed=True)
    manager.add_messages(key, [NewMessage("user", "one", metadata={"a": 1}), NewMessage("user", "two")])

    (one, two) = manager.history(key, archived=True) or []

    assert (one.content, one.metadata, one.archived_ms is None) == ("one", {"a": 1}, False)
    assert (two.content, two.archived_ms) == ("two", None)
    assert manager.history(key, after_seq=2, archived=True) == []
    assert manager.history("agent:nobody:main", after_seq=2, archived=True) is None

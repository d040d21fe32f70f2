"""What agents need besides: safe sending, conversations, updates, expectations, signs of life, trees, branches."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import pytest

from sessions_db import (
    EventKind,
    IdempotencyConflict,
    InvalidInput,
    LabelInUse,
    Message,
    NewMessage,
    Session,
    SessionChanged,
    SessionKind,
    SessionManager,
    SessionNotActive,
    SessionNotFound,
    SessionStatus,
)
from tests.support.client import PlainClient
from tests.support.clock import Clock, at, ms
from tests.support.soundness import faults
from tests.support.threads import run_together

NOBODY = "agent:nobody:main"


def get(manager: SessionManager, key: str) -> Session:
    """The session, which must exist."""
    session = manager.get(key)
    assert session is not None
    return session


def contents(manager: SessionManager, key: str) -> list[str]:
    return [message.content for message in get(manager, key).messages]


# Sending


def test_message_that_is_sent_again_with_its_key_is_stored_once(manager: SessionManager) -> None:
    key = manager.spawn_subagent("main", "Test")
    first = manager.send_message(key, "Go", metadata={"from": "main"}, idempotency_key="go")

    again = manager.send_message(key, "Go", metadata={"from": "main"}, idempotency_key="go")

    assert again == first == Message(1, first.role, "Go", first.timestamp_ms, None, {"from": "main"})
    assert contents(manager, key) == ["Go"]
    with pytest.raises(IdempotencyConflict):
        manager.send_message(key, "Stop", idempotency_key="go")


def test_message_sent_again_after_the_end_is_returned_and_another_one_refused(manager: SessionManager) -> None:
    key = manager.spawn_subagent("main", "Test")
    first = manager.send_message(key, "Go", idempotency_key="go")
    manager.complete_session(key)

    assert manager.send_message(key, "Go", idempotency_key="go") == first
    with pytest.raises(SessionNotActive):
        manager.send_message(key, "Go on", idempotency_key="on")
    assert contents(manager, key) == ["Go"]


# Named conversations


def test_conversation_is_found_again_by_agent_and_name(manager: SessionManager, clock: Clock) -> None:
    first = manager.get_or_create("main", "telegram:4711", metadata={"user": "ann"}, message_cap=2)
    clock.now_ms += 1000
    for text in "abc":
        manager.send_message(first.key, text)

    again = manager.get_or_create("main", "telegram:4711", metadata={"user": "bob"}, message_cap=50)
    other = manager.get_or_create("helper", "telegram:4711")

    assert (first.key, first.kind) == ("agent:main:conversation:telegram:4711", SessionKind.CONVERSATION)
    assert (first.name, first.run_id, first.metadata) == ("telegram:4711", None, {"user": "ann"})
    assert again.metadata == {"user": "ann"}
    assert [message.content for message in again.messages] == ["b", "c"]
    assert other.key == "agent:helper:conversation:telegram:4711"
    assert get(manager, manager.spawn_cron("main", "Test")).name is None


@pytest.mark.parametrize("name", [":", " ", "a > b", "main", "Ünïcode 🦜", "x" * 255, "🦜" * 63, "'; DROP TABLE x; --"])
def test_any_short_name_is_a_conversation_of_its_own(manager: SessionManager, name: str) -> None:
    # The longest keys of all must fit into an index, as the key and as the parent.
    agent = "🦜" * 255
    session = manager.get_or_create(agent, name)
    child = manager.spawn_subagent(agent, "Test", parent_key=session.key)

    assert session.name == name
    assert manager.get_or_create(agent, name) == session
    assert [each.key for each in manager.children(session.key)] == [child]
    assert [event.session_key for event in manager.events(session_key=session.key)] == [session.key]


@pytest.mark.parametrize("name", ["", "x" * 256, "🦜" * 64, "a\nb", "a\x00b", "\ud800", None, 1])
def test_other_names_are_refused(manager: SessionManager, name: Any) -> None:
    with pytest.raises(InvalidInput) as caught:
        manager.get_or_create("main", name)

    assert caught.value.argument == "name"
    assert manager.list() == []


def test_threads_that_race_for_a_conversation_get_the_same_one(manager: SessionManager) -> None:
    barrier = threading.Barrier(8)
    made: list[Session] = []

    def create() -> None:
        barrier.wait()
        made.append(manager.get_or_create("main", "talk"))

    run_together([threading.Thread(target=create) for _ in range(8)])

    assert len({*map(repr, made)}) == 1
    assert manager.count() == 1


def test_sweeps_leave_conversations_alone_unless_asked(manager: SessionManager, clock: Clock) -> None:
    quiet, ended = (manager.get_or_create("main", name).key for name in ("quiet", "ended"))
    run = manager.spawn_subagent("main", "Test")
    manager.complete_session(ended)
    manager.complete_session(run)
    clock.now_ms += 60_000

    assert manager.timeout_idle(ms(1)) == []
    assert manager.prune(ms(1)) == [run]
    assert manager.timeout_idle(ms(1), ["conversation"]) == [quiet]
    assert manager.prune(before=at(clock.now_ms), kinds=["conversation"]) == [ended]


def test_main_session_takes_its_settings_when_it_is_created(manager: SessionManager) -> None:
    key = manager.get_or_create_main("main", metadata={"a": 1}, message_cap=1, archive_trimmed=True).key
    for text in "ab":
        manager.send_message(key, text)

    session = manager.get_or_create_main("main", metadata={"a": 2}, message_cap=9)
    assert (session.metadata, [message.content for message in session.messages]) == ({"a": 1}, ["b"])
    assert [message.content for message in manager.history(key, archived=True) or []] == ["a", "b"]


# Updates


def test_metadata_is_merged_or_replaced(manager: SessionManager) -> None:
    key = manager.spawn_subagent("main", "Test", metadata={"a": 1, "b": {"c": 2, "d": 3}, "e": [1]})

    merged = manager.update_session(key, metadata={"a": None, "b": {"c": None, "f": {"g": None}}, "e": [2], "h": True})
    replaced = manager.update_session(key, metadata={"a": None}, replace_metadata=True)
    removed = manager.update_session(key, metadata=None)
    begun = manager.update_session(key, metadata={"z": {"y": None, "x": 1}})

    assert merged.metadata == {"b": {"d": 3, "f": {}}, "e": [2], "h": True}
    assert replaced.metadata == {"a": None}
    assert removed.metadata is None
    assert begun.metadata == {"z": {"x": 1}}
    assert begun == get(manager, key)


def test_update_changes_what_is_given_and_the_log_says_what(manager: SessionManager) -> None:
    key = manager.spawn_subagent("main", "Test", "old", metadata={"a": 1})
    manager.send_message(key, "Hello")
    before = get(manager, key)

    untouched = manager.update_session(key)
    same = manager.update_session(key, task="Test", label="old", metadata={"a": 1})
    changed = manager.update_session(key, task=None, metadata={"b": 2})

    assert untouched == same == before
    assert (changed.task, changed.label, changed.metadata, changed.messages) == (
        None,
        "old",
        {"a": 1, "b": 2},
        before.messages,
    )
    (event,) = manager.events(session_key=key, kind=EventKind.SESSION_UPDATED)
    assert (event.reason, event.from_status, event.to_status, event.message_count) == (
        "task, metadata",
        SessionStatus.ACTIVE,
        SessionStatus.ACTIVE,
        1,
    )


def test_label_that_is_changed_is_given_up_and_taken_over(manager: SessionManager, url: str) -> None:
    first = manager.spawn_subagent("main", "Test", "research")
    second = manager.spawn_subagent("main", "Test", "prices")

    with pytest.raises(LabelInUse) as caught:
        manager.update_session(first, label="prices", task="lost", on_label_conflict="error")
    assert (caught.value.session_key, get(manager, first).task) == (second, "Test")

    assert manager.update_session(first, label="prices").label == "prices"
    found = manager.get_by_label("prices")
    assert found is not None
    assert found.key == first
    assert manager.get_by_label("research") is None
    assert get(manager, second).label == "prices"

    # Its own label again, which it lost: it takes it back.
    manager.update_session(second, label="prices")
    assert manager.get_by_label("prices") == get(manager, second)
    assert manager.update_session(second, label=None).label is None
    assert manager.get_by_label("prices") is None
    assert faults(url) == []


def test_update_of_an_unknown_session_is_refused(manager: SessionManager) -> None:
    with pytest.raises(SessionNotFound):
        manager.update_session(NOBODY, task="Test")


def test_threads_that_merge_different_keys_lose_none(manager: SessionManager) -> None:
    key = manager.get_or_create_main("main").key
    barrier = threading.Barrier(6)

    def merge(name: str) -> None:
        barrier.wait()
        manager.update_session(key, metadata={name: 1})

    run_together([threading.Thread(target=merge, args=(name,)) for name in "abcdef"])

    assert get(manager, key).metadata == dict.fromkeys("abcdef", 1)


def test_spawn_that_is_repeated_after_an_update_returns_the_session(manager: SessionManager) -> None:
    job: dict[str, Any] = {"task": "Job", "label": "job", "idempotency_key": "job-42"}
    key = manager.spawn_cron("main", **job)
    manager.update_session(key, label="done")

    assert manager.spawn_cron("main", **job) == key
    with pytest.raises(IdempotencyConflict, match="task"):
        manager.spawn_cron("main", **job | {"task": "Another"})


# Expectations


def test_append_that_expects_another_count_stores_nothing(manager: SessionManager) -> None:
    key = manager.get_or_create_main("main").key
    assert manager.add_message(key, "user", "a", expected_count=0).seq == 1
    two = [NewMessage("user", "b"), NewMessage("user", "c")]
    assert [message.seq for message in manager.add_messages(key, two, expected_count=1)] == [2, 3]

    for expected in (0, 2, 4):
        with pytest.raises(SessionChanged) as caught:
            manager.add_message(key, "user", "d", expected_count=expected)
        assert vars(caught.value) == {"key": key, "expected_count": expected, "count": 3}
        with pytest.raises(SessionChanged):
            manager.add_messages(key, two, expected_count=expected)
        with pytest.raises(SessionChanged):
            manager.add_messages(key, [], expected_count=expected)
    with pytest.raises(SessionNotFound):
        manager.add_message(NOBODY, "user", "d", expected_count=0)
    empty = manager.get_or_create_main("empty").key
    with pytest.raises(SessionChanged):
        manager.add_messages(empty, [], expected_count=1)
    assert manager.add_messages(key, [], expected_count=3) == []
    assert contents(manager, key) == ["a", "b", "c"]


def test_append_with_a_key_is_repeated_whatever_count_it_expected(manager: SessionManager) -> None:
    key = manager.get_or_create_main("main").key
    keyed = [NewMessage("user", text, idempotency_key=text) for text in "bc"]
    first = manager.add_message(key, "user", "a", idempotency_key="a", expected_count=0)
    batch = manager.add_messages(key, keyed, expected_count=1)

    assert manager.add_message(key, "user", "a", idempotency_key="a", expected_count=0) == first
    assert manager.add_messages(key, keyed, expected_count=1) == batch
    with pytest.raises(SessionChanged):
        manager.add_messages(key, [*keyed, NewMessage("user", "d")], expected_count=1)
    assert contents(manager, key) == ["a", "b", "c"]


def test_one_of_many_threads_that_expect_the_same_count_appends(manager: SessionManager) -> None:
    key = manager.get_or_create_main("main").key
    barrier = threading.Barrier(8)
    stored: list[str] = []
    refused: list[int] = []

    def run(name: str) -> None:
        for turn in range(5):
            barrier.wait()
            count = get(manager, key).message_count
            barrier.wait()
            # Those that expect nothing go in the same groups.
            if name == "0":
                manager.add_message(get_other, "user", name)
            try:
                manager.add_message(key, "user", f"{name} {turn}", expected_count=count)
                stored.append(f"{name} {turn}")
            except SessionChanged as changed:
                refused.append(changed.count)

    get_other = manager.get_or_create_main("other").key
    run_together([threading.Thread(target=run, args=(str(name),)) for name in range(8)])

    assert sorted(contents(manager, key)) == sorted(stored)
    assert sorted(text.split()[1] for text in stored) == ["0", "1", "2", "3", "4"]
    assert len(refused) == 35


# Signs of life


def test_touch_keeps_a_quiet_worker_from_being_timed_out(manager: SessionManager, clock: Clock) -> None:
    quiet, lively = (manager.spawn_subagent("main", "Test") for _ in range(2))
    clock.now_ms += 60_000
    manager.touch(lively)
    clock.now_ms -= 30_000
    manager.touch(lively)

    assert get(manager, lively).last_activity_ms == clock.now_ms + 30_000
    clock.now_ms += 30_000
    assert manager.timeout_idle(ms(60_000)) == [quiet]
    with pytest.raises(SessionNotActive) as caught:
        manager.touch(quiet)
    assert caught.value.status is SessionStatus.TIMEOUT
    with pytest.raises(SessionNotFound):
        manager.touch(NOBODY)


def test_sweeps_can_be_limited_to_an_agent_and_to_an_end(manager: SessionManager, clock: Clock) -> None:
    mine, other = (manager.spawn_subagent(agent, "Test") for agent in ("mine", "other"))
    failed, done = (manager.spawn_subagent("mine", "Test") for _ in range(2))
    manager.error_session(failed)
    manager.complete_session(done)
    clock.now_ms += 60_000

    assert manager.timeout_idle(ms(1), agent_id="mine", dry_run=True) == [mine]
    assert manager.timeout_idle(ms(1), agent_id="mine") == [mine]
    assert get(manager, other).status is SessionStatus.ACTIVE
    assert manager.prune(ms(1), agent_id="other") == []
    assert manager.prune(ms(1), agent_id="mine", status="error") == [failed]
    assert manager.prune(ms(1), status=["completed", "active"], dry_run=True) == [done]
    assert manager.prune(ms(1), status=[]) == []


# Trees and spans of time


def test_filters_are_the_same_for_list_iterate_and_count(manager: SessionManager, clock: Clock) -> None:
    root = manager.get_or_create_main("main").key
    clock.now_ms += 1
    child = manager.spawn_subagent("main", "Test", parent_key=root)
    clock.now_ms += 1
    grandchild = manager.spawn_cron("helper", "Test", parent_key=child)
    manager.spawn_subagent("other", "Test")
    manager.complete_session(grandchild)
    start = clock.now_ms - 2

    for filters, expected in (
        ({"under": root}, [grandchild, child]),
        ({"under": child, "kinds": ["cron"]}, [grandchild]),
        ({"under": root, "agent_id": "other"}, []),
        ({"under": NOBODY}, []),
        ({"key_prefix": "agent:main:"}, [child, root]),
        ({"key_prefix": root, "under": root}, []),
        ({"key_prefix": "agent:helper:cron:", "keys": [child, grandchild]}, [grandchild]),
        ({"created_after": at(start + 1), "created_before": at(start + 2)}, [child]),
        ({"created_after": at(start) + timedelta(microseconds=1), "created_before": at(start + 2)}, [child]),
        ({"created_before": at(start) + timedelta(microseconds=1)}, [root]),
        ({"status": "completed"}, [grandchild]),
        ({"parent_key": root, "active_only": True, "active_within_ms": 1}, [child]),
    ):
        given: Any = filters
        assert [session.key for session in manager.list(**given)] == expected
        assert [session.key for session in manager.iterate(**given)] == expected
        assert manager.count(**given) == len(expected)


def test_a_prefix_is_compared_character_by_character(manager: SessionManager) -> None:
    names = ["a", "ab", "a%", "a_c", "A", "a\U0010ffff", "a\U0010ffffb", "a\ud7ff", "a\ud7ffc", "a\ue000", "b"]
    begin = "agent:main:conversation:"
    for name in names:
        manager.get_or_create("main", name)

    for prefix in [*names, "", "a\ud7ffcc", "\U0010ffff"]:
        expected = {begin + name for name in names if name.startswith(prefix)}
        assert {session.key for session in manager.list(key_prefix=begin + prefix)} == expected
    assert manager.count(key_prefix="") == len(names)
    assert manager.count(key_prefix="\U0010ffff") == 0


@pytest.mark.parametrize("key_prefix", [None, "agent:main:"])
def test_iterate_reads_all_sessions_while_they_change(
    manager: SessionManager, monkeypatch: pytest.MonkeyPatch, key_prefix: str | None
) -> None:
    monkeypatch.setattr("sessions_db.store.runner.PLACES", 120)
    with manager.transaction() as tx:
        keys = [tx.spawn_subagent("main", str(number)) for number in range(250)]
        tx.send_message(keys[0], "Hello")
    ordered, found = [session.key for session in manager.list(limit=250)], []

    for session in manager.iterate(key_prefix=key_prefix, message_limit=1):
        found.append(session)
        manager.delete_session(session.key)
        if len(found) == 1:
            manager.spawn_subagent("main", "too late")

    assert [session.key for session in found] == ordered
    assert [m.content for session in found for m in session.messages] == ["Hello"]
    assert [session.task for session in manager.iterate()] == ["too late"]


# Branches


def test_fork_begins_with_the_messages_up_to_a_number(manager: SessionManager, clock: Clock) -> None:
    origin = manager.spawn_cron("main", "Test", "label", metadata={"a": 1}, message_cap=50)
    for text in "abc":
        clock.now_ms += 1000
        manager.add_message(origin, "tool", text, tool_name="t", metadata={"n": text}, idempotency_key=text)
    manager.complete_session(origin)
    before = get(manager, origin)

    key = manager.fork_session(origin, 2)

    fork = get(manager, key)
    assert fork == Session(
        key=key,
        agent_id="main",
        kind=SessionKind.SUBAGENT,
        status=SessionStatus.ACTIVE,
        task="Test",
        created_ms=clock.now_ms,
        messages=before.messages[:2],
        run_id=fork.run_id,
        parent_key=origin,
        forked_at_seq=2,
        message_count=2,
        last_activity_ms=clock.now_ms,
        metadata={"a": 1},
    )
    assert get(manager, origin) == before
    # An idempotency key belongs to the session in which it was used.
    assert manager.add_message(key, "tool", "new", idempotency_key="a").seq == 3
    assert [session.key for session in manager.children(origin)] == [key]


def test_fork_has_settings_of_its_own(manager: SessionManager) -> None:
    origin = manager.get_or_create("main", "talk").key
    for text in "abc":
        manager.send_message(origin, text)
    owner = manager.spawn_subagent("main", "Test", "again")

    with pytest.raises(LabelInUse):
        manager.fork_session(origin, 3, label="again", on_label_conflict="error")
    key = manager.fork_session(origin, 3, task="Again", label="again", metadata={"b": 2}, message_cap=2)
    empty = manager.fork_session(origin, 0)

    fork = get(manager, key)
    assert (fork.task, fork.metadata, fork.message_count) == ("Again", {"b": 2}, 2)
    assert [(message.seq, message.content) for message in fork.messages] == [(1, "b"), (2, "c")]
    assert manager.get_by_label("again") == fork
    assert get(manager, owner).label == "again"
    assert (get(manager, empty).messages, get(manager, empty).forked_at_seq) == ((), 0)
    assert manager.count() == 4


def test_fork_takes_messages_from_the_archive(manager: SessionManager, url: str) -> None:
    archiving = manager.spawn_subagent("main", "Test", message_cap=2, archive_trimmed=True)
    manager.add_messages(archiving, [NewMessage("user", text) for text in "abcde"])

    kept, cut = manager.fork_session(archiving, 4), manager.fork_session(archiving, 4, archive_trimmed=False)

    archived = manager.history(kept, archived=True, before_seq=3)
    assert [(m.seq, m.content) for m in archived or []] == [(1, "a"), (2, "b")]
    assert [(m.seq, m.content) for m in get(manager, kept).messages] == [(3, "c"), (4, "d")]
    assert [(m.seq, m.content) for m in get(manager, cut).messages] == [(1, "c"), (2, "d")]
    assert [m.seq for m in manager.history(cut, archived=True) or []] == [1, 2]
    assert faults(url) == []


def test_fork_of_what_is_not_there_is_refused(manager: SessionManager) -> None:
    key = manager.get_or_create_main("main").key
    manager.send_message(key, "Hello")

    with pytest.raises(InvalidInput, match="at_seq must be at most 1"):
        manager.fork_session(key, 2)
    for unknown in (NOBODY, "x", ""):
        with pytest.raises(SessionNotFound):
            manager.fork_session(unknown, 0)
        with pytest.raises(SessionNotFound):
            manager.fork_session(unknown, 0, idempotency_key="once")
    assert manager.count() == 1


def test_fork_that_is_repeated_with_its_key_is_made_once(manager: SessionManager) -> None:
    origin = manager.spawn_subagent("main", "Test")
    manager.send_message(origin, "Hello")
    first = manager.fork_session(origin, 1, label="again", idempotency_key="once")
    manager.send_message(first, "More")
    manager.update_session(origin, task="Changed", metadata={"a": 1})
    manager.update_session(first, label="other")

    assert manager.fork_session(origin, 1, label="again", idempotency_key="once") == first
    for changed in ({"at_seq": 0}, {"label": None, "task": "Another"}):
        given: Any = {"key": origin, "at_seq": 1, "label": "again", "idempotency_key": "once"} | changed
        with pytest.raises(IdempotencyConflict):
            manager.fork_session(**given)
    with pytest.raises(IdempotencyConflict, match="forked_at_seq"):
        manager.spawn_subagent("main", "Test", "again", origin, idempotency_key="once")
    manager.delete_session(origin)
    assert manager.fork_session(origin, 1, label="again", idempotency_key="once") == first
    assert contents(manager, first) == ["Hello", "More"]


def test_all_of_it_works_in_a_transaction_and_is_undone_with_it(manager: SessionManager, plain: PlainClient) -> None:
    key = manager.get_or_create_main("main").key
    manager.send_message(key, "Hello")
    before = manager.list(message_limit=9)

    def change_and_fail() -> None:
        with manager.transaction() as tx:
            fork = tx.fork_session(key, 1)
            tx.update_session(fork, label="again", metadata={"a": 1})
            tx.touch(fork)
            tx.send_message(fork, "More", idempotency_key="more")
            with pytest.raises(SessionChanged):
                tx.add_message(fork, "user", "late", expected_count=1)
            talk = tx.get_or_create("main", "talk").key
            assert {session.key for session in tx.iterate()} == {key, fork, talk}
            assert tx.count(under=key) == 1
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        change_and_fail()

    assert manager.list(message_limit=9) == before
    assert plain("SELECT count(*) FROM labels") == [(0,)]

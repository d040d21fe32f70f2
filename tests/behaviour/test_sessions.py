"""Starting, finding and listing sessions."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import sessions_db
from sessions_db import (
    IdempotencyConflict,
    LabelInUse,
    Message,
    Role,
    Session,
    SessionKind,
    SessionManager,
    SessionNotFound,
    SessionStatus,
    session_manager,
)
from tests.support.client import PlainClient
from tests.support.clock import Clock
from tests.support.rows import insert_cycle
from tests.support.threads import run_together

UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"


def get(manager: SessionManager, key: str) -> Session:
    """The session, which must exist."""
    session = manager.get(key)
    assert session is not None
    return session


# Main sessions


def test_main_session_is_created_once(manager: SessionManager, clock: Clock) -> None:
    first = manager.get_or_create_main("main")
    clock.now_ms += 1000
    second = manager.get_or_create_main("main")

    assert first == second
    assert first == Session(
        key="agent:main:main",
        agent_id="main",
        kind=SessionKind.MAIN,
        status=SessionStatus.ACTIVE,
        created_ms=1_700_000_000_000,
        message_count=0,
        last_activity_ms=1_700_000_000_000,
    )


def test_main_session_comes_with_its_messages(manager: SessionManager) -> None:
    key = manager.get_or_create_main("main").key
    manager.send_message(key, "hello")

    assert [message.content for message in manager.get_or_create_main("main").messages] == ["hello"]


def test_ended_main_session_is_returned_as_it_is(manager: SessionManager) -> None:
    key = manager.get_or_create_main("main").key
    manager.stop_session(key)

    assert manager.get_or_create_main("main").status is SessionStatus.STOPPED


def test_threads_that_race_for_a_main_session_get_the_same_one(manager: SessionManager) -> None:
    barrier = threading.Barrier(8)
    made: list[Session] = []

    def create() -> None:
        barrier.wait()
        made.append(manager.get_or_create_main("main"))

    run_together([threading.Thread(target=create) for _ in range(8)])

    assert len(made) == 8
    assert len(set(map(repr, made))) == 1
    assert len(manager.list()) == 1


# Spawning


@pytest.mark.parametrize("kind", [SessionKind.SUBAGENT, SessionKind.CRON])
def test_spawned_session_has_what_it_was_given(manager: SessionManager, clock: Clock, kind: SessionKind) -> None:
    parent = manager.get_or_create_main("main").key
    spawn = manager.spawn_subagent if kind is SessionKind.SUBAGENT else manager.spawn_cron

    key = spawn("helper", "Research", "research", parent, metadata={"b": 1, "a": [None, 1.5, "ü"]})

    session = get(manager, key)
    assert re.fullmatch(f"agent:helper:{kind}:{UUID}", key)
    assert session.run_id is not None
    assert re.fullmatch(UUID, session.run_id)
    assert session.run_id not in key
    assert session == Session(
        key=key,
        agent_id="helper",
        kind=kind,
        status=SessionStatus.ACTIVE,
        label="research",
        task="Research",
        created_ms=clock.now_ms,
        run_id=session.run_id,
        parent_key=parent,
        message_count=0,
        last_activity_ms=clock.now_ms,
        metadata={"b": 1, "a": [None, 1.5, "ü"]},
    )
    assert list(session.metadata or {}) == ["b", "a"]


def test_spawns_in_one_millisecond_are_different_sessions(manager: SessionManager, clock: Clock) -> None:
    keys = {manager.spawn_subagent("main", "Test") for _ in range(50)}

    assert len(keys) == 50
    assert {session.created_ms for session in manager.list()} == {clock.now_ms}
    assert len({session.run_id for session in manager.list()}) == 50


def test_unknown_parent_is_refused_and_nothing_stored(manager: SessionManager) -> None:
    with pytest.raises(SessionNotFound) as caught:
        manager.spawn_subagent("main", "Test", label="lost", parent_key="agent:main:main")

    assert caught.value.key == "agent:main:main"
    assert manager.list() == []
    assert manager.get_by_label("lost") is None


def test_message_cap_can_differ_by_session(manager: SessionManager) -> None:
    key = manager.spawn_subagent("main", "Test", message_cap=2)
    for content in "abc":
        manager.send_message(key, content)

    assert [message.content for message in get(manager, key).messages] == ["b", "c"]


def test_message_cap_of_the_manager_is_the_default_for_its_sessions(url: str) -> None:
    with SessionManager(url, message_cap=1) as manager:
        keys = [manager.get_or_create_main("main").key, manager.spawn_cron("main", "Test")]
        for key in keys:
            manager.send_message(key, "first")
            manager.send_message(key, "second")

        assert [len(get(manager, key).messages) for key in keys] == [1, 1]


def test_repeated_spawn_with_an_idempotency_key_returns_the_first_session(manager: SessionManager) -> None:
    parent = manager.get_or_create_main("main").key
    first = manager.spawn_subagent("main", "Job", "job", parent, idempotency_key="job-42")
    manager.spawn_subagent("main", "Newer", "job")
    manager.delete_session(parent)

    second = manager.spawn_subagent("main", "Job", "job", parent, idempotency_key="job-42")

    assert second == first
    assert len(manager.list()) == 2
    by_label = manager.get_by_label("job")
    assert by_label is not None
    assert by_label.task == "Newer"


@pytest.mark.parametrize("manager_setting", [{}, {"message_cap": 7, "archive_trimmed": True}])
@pytest.mark.parametrize(
    ("change", "differing"),
    [
        ({"task": "Another"}, ("task",)),
        ({"label": None}, ("label",)),
        ({"label": "other", "parent_key": None}, ("label", "parent_key")),
        ({"metadata": {"a": "1"}}, ("metadata",)),
    ],
)
def test_spawn_idempotency_key_that_comes_again_for_another_session_is_refused(
    manager: SessionManager, manager_setting: dict[str, Any], change: dict[str, Any], differing: tuple[str, ...]
) -> None:
    parent = manager.get_or_create_main("main").key
    job: dict[str, Any] = {"task": "Job", "label": "job", "parent_key": parent, "metadata": {"a": 1}}
    first = manager.spawn_cron("main", **job, idempotency_key="job-42")
    before = manager.list()

    assert manager.spawn_cron("main", **job, **manager_setting, idempotency_key="job-42") == first
    with pytest.raises(IdempotencyConflict, match="'job-42'") as caught:
        manager.spawn_cron("main", **job | change, **manager_setting, idempotency_key="job-42")

    assert vars(caught.value) == {"idempotency_key": "job-42", "session_key": first, "differing": differing}
    assert manager.list() == before
    assert manager.get_by_label("other") is None


def test_threads_that_spawn_different_sessions_with_one_idempotency_key_make_one(manager: SessionManager) -> None:
    barrier = threading.Barrier(8)
    spawned: list[str] = []
    refused: list[str] = []

    def spawn(writer: int) -> None:
        barrier.wait()
        try:
            spawned.append(manager.spawn_subagent("main", f"Job {writer}", idempotency_key="job-42"))
        except IdempotencyConflict as conflict:
            refused.append(conflict.session_key)

    run_together([threading.Thread(target=spawn, args=(writer,)) for writer in range(8)])

    (session,) = manager.list()
    assert spawned == [session.key]
    assert refused == [session.key] * 7


def test_spawn_idempotency_key_applies_to_its_agent_and_kind_only(manager: SessionManager) -> None:
    keys = {
        manager.spawn_subagent("main", "Job", idempotency_key="job-42"),
        manager.spawn_subagent("other", "Job", idempotency_key="job-42"),
        manager.spawn_cron("main", "Job", idempotency_key="job-42"),
        manager.spawn_subagent("main", "Job", idempotency_key="job-43"),
    }

    assert len(keys) == 4


# Labels


def test_newest_spawn_owns_a_label_and_the_older_session_keeps_its_field(manager: SessionManager) -> None:
    older = manager.spawn_subagent("main", "Test", "research")
    newer = manager.spawn_subagent("main", "Test", "research")

    by_label = manager.get_by_label("research")
    assert by_label is not None
    assert by_label.key == newer
    assert get(manager, older).label == "research"


def test_label_finds_a_finished_session_with_its_messages(manager: SessionManager) -> None:
    key = manager.spawn_subagent("main", "Test", "research")
    manager.add_message(key, "tool", "result", tool_name="search", metadata={"id": 1})
    manager.complete_session(key)

    by_label = manager.get_by_label("research")

    assert by_label == get(manager, key)
    assert by_label is not None
    assert [message.tool_name for message in by_label.messages] == ["search"]


def test_unknown_label_finds_nothing(manager: SessionManager) -> None:
    manager.spawn_subagent("main", "Test", "research")

    assert manager.get_by_label("Research") is None


def test_label_in_use_is_refused_on_request_and_nothing_stored(manager: SessionManager) -> None:
    owner = manager.spawn_subagent("main", "Test", "research")

    with pytest.raises(LabelInUse) as caught:
        manager.spawn_subagent("main", "Test", "research", on_label_conflict="error")

    assert (caught.value.label, caught.value.session_key) == ("research", owner)
    assert [session.key for session in manager.list()] == [owner]


def test_free_label_is_assigned_when_takeover_is_refused(manager: SessionManager) -> None:
    key = manager.spawn_subagent("main", "Test", "research", on_label_conflict="error")

    by_label = manager.get_by_label("research")
    assert by_label is not None
    assert by_label.key == key


# Snapshots


def test_unknown_key_returns_none(manager: SessionManager) -> None:
    assert manager.get("agent:main:main") is None


def test_session_object_does_not_reflect_later_changes(manager: SessionManager) -> None:
    before = manager.get_or_create_main("main")
    manager.send_message(before.key, "hello")

    assert before.messages == ()
    assert before.message_count == 0
    with pytest.raises(AttributeError):
        before.status = SessionStatus.COMPLETED  # type: ignore[misc]


def test_append_updates_count_and_activity(manager: SessionManager, clock: Clock) -> None:
    key = manager.get_or_create_main("main").key
    clock.now_ms += 5000
    manager.send_message(key, "hello")

    session = get(manager, key)

    assert session.message_count == 1
    assert session.last_activity_ms == session.created_ms + 5000


def test_session_as_json_has_the_camel_case_names_and_leaves_none_out(manager: SessionManager, clock: Clock) -> None:
    key = manager.spawn_subagent("main", "Research", "research", metadata={"tier": 1})
    manager.add_message(key, "tool", "42", tool_name="calc")
    manager.complete_session(key)
    session = get(manager, key)

    assert session.to_dict() == {
        "key": key,
        "agentId": "main",
        "kind": "subagent",
        "status": "completed",
        "label": "research",
        "task": "Research",
        "createdMs": clock.now_ms,
        "finishedMs": clock.now_ms,
        "messages": [
            {"role": "tool", "content": "42", "timestampMs": clock.now_ms, "toolName": "calc", "seq": 1},
        ],
        "runId": session.run_id,
        "messageCount": 1,
        "lastActivityMs": clock.now_ms,
        "metadata": {"tier": 1},
    }
    assert type(session.to_dict()["status"]) is str


def test_runtime_of_an_ended_session_is_fixed(manager: SessionManager, clock: Clock) -> None:
    key = manager.spawn_subagent("main", "Test")
    clock.now_ms += 2999
    manager.complete_session(key)
    clock.now_ms += 60_000

    assert get(manager, key).runtime_secs() == 2
    assert get(manager, key).runtime_secs(now_ms=clock.now_ms) == 2


def test_runtime_of_an_active_session_keeps_growing(manager: SessionManager, clock: Clock) -> None:
    session = manager.get_or_create_main("main")
    clock.now_ms += 3000

    assert session.runtime_secs() == 3
    assert session.runtime_secs(now_ms=session.created_ms + 7000) == 7


def test_runtime_is_never_negative_when_the_clock_steps_back(manager: SessionManager, clock: Clock) -> None:
    key = manager.spawn_subagent("main", "Test")
    clock.now_ms -= 60_000
    active = get(manager, key)
    manager.complete_session(key)

    assert active.runtime_secs() == 0
    assert get(manager, key).runtime_secs() == 0


def test_spawn_result_tells_the_spawning_agent_what_it_needs(manager: SessionManager) -> None:
    session = get(manager, manager.spawn_subagent("main", "Test"))

    assert session.spawn_result("Spawned").to_dict() == {
        "status": "active",
        "runId": session.run_id,
        "sessionKey": session.key,
        "message": "Spawned",
    }


def test_main_session_has_no_spawn_result(manager: SessionManager) -> None:
    with pytest.raises(sessions_db.InvalidInput, match="must be a spawned session"):
        manager.get_or_create_main("main").spawn_result("Spawned")


# Listing


def test_list_is_newest_first(manager: SessionManager, clock: Clock) -> None:
    keys = []
    for _ in range(3):
        keys.append(manager.spawn_subagent("main", "Test"))
        clock.now_ms += 1

    assert [session.key for session in manager.list()] == keys[::-1]


def test_list_orders_sessions_of_one_millisecond_by_key_descending(manager: SessionManager, clock: Clock) -> None:
    keys = [manager.spawn_subagent(agent, "Test") for agent in ("b", "a", "c")]

    assert [session.key for session in manager.list()] == sorted(keys, reverse=True)
    assert {session.created_ms for session in manager.list()} == {clock.now_ms}


def test_list_returns_50_sessions_by_default(manager: SessionManager) -> None:
    for _ in range(51):
        manager.spawn_subagent("main", "Test")

    assert len(manager.list()) == 50
    assert len(manager.list(limit=51)) == 51
    assert manager.list(limit=0) == []


def test_list_filters(manager: SessionManager) -> None:
    main = manager.get_or_create_main("main").key
    other = manager.get_or_create_main("other").key
    sub = manager.spawn_subagent("main", "Test", parent_key=main)
    cron = manager.spawn_cron("other", "Test", parent_key=main)
    manager.complete_session(sub)

    def keys(*args: object, **filters: object) -> set[str]:
        return {session.key for session in manager.list(*args, **filters)}  # type: ignore[arg-type]

    assert keys() == {main, other, sub, cron}
    assert keys([SessionKind.SUBAGENT]) == {sub}
    assert keys(["main", "cron"]) == {main, other, cron}
    assert keys([]) == set()
    assert keys(None, True) == {main, other, cron}
    assert keys(agent_id="main") == {main, sub}
    assert keys(parent_key=main) == {sub, cron}
    assert keys(status="completed") == {sub}
    assert keys(status="completed", active_only=True) == set()
    assert keys(status=["completed", SessionStatus.TIMEOUT]) == {sub}
    assert keys(status={"completed", "active"}) == keys()
    assert keys(status={"completed", "active"}, active_only=True) == keys(active_only=True)
    assert keys(status=[]) == set()
    assert keys(["cron"], True, agent_id="other", parent_key=main, status=SessionStatus.ACTIVE) == {cron}


def test_list_filters_before_applying_the_limit(manager: SessionManager, clock: Clock) -> None:
    main = manager.get_or_create_main("main").key
    for _ in range(5):
        clock.now_ms += 1
        manager.spawn_subagent("main", "Test")

    assert [session.key for session in manager.list([SessionKind.MAIN], limit=1)] == [main]


def test_list_active_within_counts_from_the_last_activity(manager: SessionManager, clock: Clock) -> None:
    idle = manager.spawn_subagent("main", "Test")
    busy = manager.spawn_subagent("main", "Test")
    clock.now_ms += 10_000
    manager.send_message(busy, "hello")
    clock.now_ms += 1000

    assert [session.key for session in manager.list(active_within_ms=1000)] == [busy]
    assert manager.list(active_within_ms=999) == []
    assert {session.key for session in manager.list(active_within_ms=11_000)} == {idle, busy}


def test_list_comes_with_the_newest_messages_of_each_session(manager: SessionManager) -> None:
    talkative = manager.spawn_subagent("main", "Test", message_cap=4)
    for number in range(1, 7):
        manager.send_message(talkative, str(number))
    quiet = manager.spawn_subagent("main", "Test")
    manager.add_message(quiet, "system", "only", metadata={"a": 1})
    empty = manager.spawn_subagent("main", "Test")

    listed = {session.key: session for session in manager.list(message_limit=3)}

    assert [message.content for message in listed[talkative].messages] == ["4", "5", "6"]
    assert [(message.content, message.metadata) for message in listed[quiet].messages] == [("only", {"a": 1})]
    assert listed[empty].messages == ()
    assert [len(session.messages) for session in manager.list(message_limit=100)] == [0, 1, 4]
    assert all(session.messages == () for session in manager.list())


def test_pages_follow_each_other_without_gap_or_repeat(manager: SessionManager, clock: Clock) -> None:
    expected = []
    for number in range(11):
        clock.now_ms += number % 2
        expected.append(manager.spawn_subagent("main", "Test"))

    paged: list[Session] = []
    while page := manager.list(limit=4, before=paged[-1] if paged else None):
        manager.spawn_subagent("main", "made while somebody reads")
        clock.now_ms += 1
        paged += page

    assert sorted(session.key for session in paged) == sorted(expected)
    assert paged == sorted(paged, key=lambda session: (session.created_ms, session.key), reverse=True)


# Families


def test_children_and_descendants_are_oldest_first(manager: SessionManager, clock: Clock) -> None:
    root = manager.get_or_create_main("main").key
    keys = []
    for parent in (root, root, None):
        clock.now_ms += 1
        keys.append(manager.spawn_subagent("main", "Test", parent_key=parent))
    clock.now_ms += 1
    grandchild = manager.spawn_cron("main", "Test", parent_key=keys[0])

    assert [session.key for session in manager.children(root)] == keys[:2]
    assert [session.key for session in manager.descendants(root)] == [*keys[:2], grandchild]
    assert manager.children(grandchild) == []
    assert manager.descendants("agent:nobody:main") == []


def test_children_of_a_deleted_parent_are_still_found(manager: SessionManager) -> None:
    root = manager.get_or_create_main("main").key
    child = manager.spawn_subagent("main", "Test", parent_key=root)
    manager.delete_session(root)

    assert [session.key for session in manager.children(root)] == [child]
    assert get(manager, child).parent_key == root


def test_descendants_stop_at_a_cycle(manager: SessionManager, plain: PlainClient) -> None:
    root, child, grandchild = insert_cycle(plain)

    assert {session.key for session in manager.descendants(root)} == {child, grandchild}
    assert {session.key for session in manager.descendants(child)} == {root, grandchild}


# The process's own manager


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_process_has_one_manager_of_the_database_that_the_environment_names(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SESSIONS_DB_URL", url)
    made: list[SessionManager] = []
    run_together([threading.Thread(target=lambda: made.append(session_manager())) for _ in range(8)])

    assert len(made) == 8
    assert len({id(manager) for manager in made}) == 1
    made[0].get_or_create_main("main")
    made[0].close()
    with session_manager() as reopened:
        assert reopened is not made[0]
        assert reopened.get("agent:main:main") is not None


def test_process_manager_uses_a_file_in_the_working_directory_by_default(tmp_path: Path) -> None:
    code = "import sessions_db; sessions_db.session_manager().get_or_create_main('main')"
    environment = {name: value for name, value in os.environ.items() if name != "SESSIONS_DB_URL"}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)

    with SessionManager(f"sqlite:///{tmp_path / 'sessions.db'}") as manager:
        assert manager.get("agent:main:main") is not None


def test_message_as_json_leaves_none_out() -> None:
    message = Message(role=Role.USER, content="hi", timestamp_ms=1, seq=2)

    assert message.to_dict() == {"role": "user", "content": "hi", "timestampMs": 1, "seq": 2}


def test_filters_take_one_value_or_several(manager: SessionManager) -> None:
    keys = [manager.get_or_create_main(agent_id).key for agent_id in "abc"]
    children = [manager.spawn_cron("d", "Work", parent_key=key) for key in keys]

    assert {session.agent_id for session in manager.list(agent_id=["a", "c"])} == {"a", "c"}
    assert manager.count(agent_id=["a", "a", "d"]) == 4
    assert {session.key for session in manager.list(parent_key=keys[:2])} == {*children[:2]}
    assert [session.key for session in manager.list(parent_key=[keys[2]])] == children[2:]
    assert [hit.session_key for hit in manager.search("work", agent_id=("x", "d"), limit=1).hits] == children[2:]
    assert {event.session_key for event in manager.events(session_key=keys[1:])} == {*keys[1:]}
    assert {session.agent_id for session in manager.export_sessions(agent_id=["b", "c"])} == {"b", "c"}
    nothing: list[str] = []
    assert manager.list(agent_id=nothing) == manager.list(parent_key=nothing) == []
    assert manager.events(session_key=nothing) == []


def test_sweeps_take_several_agents(manager: SessionManager, clock: Clock) -> None:
    for agent_id in "abc":
        manager.spawn_cron(agent_id, "Work")
    clock.now_ms += 10

    ended = manager.timeout_idle(timedelta(milliseconds=5), agent_id=["a", "b"])
    clock.now_ms += 10
    pruned = manager.prune(timedelta(milliseconds=5), agent_id=["b", "c"])

    assert [key.split(":")[1] for key in ended] == ["a", "b"]
    assert [key.split(":")[1] for key in pruned] == ["b"]

"""Ending, reopening, deleting and pruning sessions."""

from __future__ import annotations

import threading

import pytest

from sessions_db import SessionKind, SessionManager, SessionNotActive, SessionNotFound, SessionStatus
from tests.support.client import PlainClient
from tests.support.clock import Clock, at, ms
from tests.support.locks import wait_for_lock
from tests.support.threads import run_together

UNKNOWN = "agent:nobody:main"

ENDINGS = {
    "complete_session": SessionStatus.COMPLETED,
    "error_session": SessionStatus.ERROR,
    "timeout_session": SessionStatus.TIMEOUT,
    "stop_session": SessionStatus.STOPPED,
}


@pytest.fixture(params=ENDINGS)
def ending(request: pytest.FixtureRequest) -> str:
    """Each of the four methods that end a session."""
    return str(request.param)


# Ending


def test_ending_sets_status_time_and_reason(manager: SessionManager, clock: Clock, ending: str) -> None:
    key = manager.spawn_subagent("main", "Test")
    clock.now_ms += 1500

    assert getattr(manager, ending)(key, "because") is True

    session = manager.get(key)
    assert session is not None
    assert (session.status, session.finished_ms, session.end_reason) == (ENDINGS[ending], clock.now_ms, "because")
    assert session.last_activity_ms == session.created_ms


def test_ending_twice_the_same_way_changes_nothing(manager: SessionManager, clock: Clock, ending: str) -> None:
    key = manager.spawn_subagent("main", "Test")
    getattr(manager, ending)(key)
    ended = manager.get(key)
    clock.now_ms += 1000

    assert getattr(manager, ending)(key, "late") is False
    assert manager.get(key) == ended


def test_first_end_wins(manager: SessionManager, ending: str) -> None:
    for other in ENDINGS.keys() - {ending}:
        key = manager.spawn_subagent("main", "Test")
        getattr(manager, other)(key, "first")
        ended = manager.get(key)

        with pytest.raises(SessionNotActive, match=f"Session is not active: {ENDINGS[other].capitalize()}") as caught:
            getattr(manager, ending)(key, "second")

        assert (caught.value.key, caught.value.status) == (key, ENDINGS[other])
        assert manager.get(key) == ended


def test_unknown_session_cannot_be_ended(manager: SessionManager, ending: str) -> None:
    with pytest.raises(SessionNotFound, match=f"Session not found: {UNKNOWN}"):
        getattr(manager, ending)(UNKNOWN)


def test_exactly_one_of_several_threads_ends_a_session(manager: SessionManager) -> None:
    key = manager.spawn_subagent("main", "Test")
    barrier = threading.Barrier(8)
    outcomes: list[bool | SessionStatus] = []

    def end(ending: str) -> None:
        barrier.wait()
        try:
            outcomes.append(getattr(manager, ending)(key))
        except SessionNotActive as error:
            outcomes.append(error.status)

    run_together([threading.Thread(target=end, args=(ending,)) for ending in [*ENDINGS, *ENDINGS]])

    session = manager.get(key)
    assert session is not None
    assert sorted(map(str, outcomes)) == sorted(["True", "False", *[str(session.status)] * 6])


# Reopening


def test_reopened_session_is_active_again(manager: SessionManager, clock: Clock) -> None:
    key = manager.get_or_create_main("main").key
    manager.send_message(key, "before")
    manager.stop_session(key, "maintenance")
    clock.now_ms += 1000

    session = manager.reopen_session(key)

    assert (session.status, session.finished_ms, session.end_reason) == (SessionStatus.ACTIVE, None, None)
    assert session.last_activity_ms == clock.now_ms
    assert [message.content for message in session.messages] == ["before"]
    assert session == manager.get(key)
    manager.send_message(key, "after")


def test_reopening_an_active_session_changes_nothing(manager: SessionManager, clock: Clock) -> None:
    before = manager.get_or_create_main("main")
    clock.now_ms += 1000

    assert manager.reopen_session(before.key) == before


def test_unknown_session_cannot_be_reopened(manager: SessionManager) -> None:
    with pytest.raises(SessionNotFound, match=f"Session not found: {UNKNOWN}"):
        manager.reopen_session(UNKNOWN)


def test_reopened_session_can_be_ended_another_way(manager: SessionManager) -> None:
    key = manager.spawn_subagent("main", "Test")
    manager.error_session(key)
    manager.reopen_session(key)

    assert manager.complete_session(key) is True


# Idle sessions


def test_idle_sessions_are_timed_out(manager: SessionManager, clock: Clock) -> None:
    idle = [manager.spawn_subagent("main", "Test"), manager.spawn_cron("main", "Test")]
    busy = manager.spawn_subagent("main", "Test")
    main = manager.get_or_create_main("main").key
    done = manager.spawn_subagent("main", "Test")
    manager.complete_session(done)
    clock.now_ms += 60_000
    manager.send_message(busy, "still here")

    assert manager.timeout_idle(ms(60_000)) == sorted(idle)

    statuses = {session.key: session.status for session in manager.list()}
    assert [statuses[key] for key in idle] == [SessionStatus.TIMEOUT] * 2
    assert (statuses[busy], statuses[main], statuses[done]) == ("active", "active", "completed")
    timed_out = manager.get(idle[0])
    assert timed_out is not None
    assert (timed_out.finished_ms, timed_out.end_reason) == (clock.now_ms, "idle for 0:01:00 or longer")
    assert manager.timeout_idle(ms(60_000)) == []


def test_session_is_idle_only_when_the_whole_time_has_passed(manager: SessionManager, clock: Clock) -> None:
    manager.spawn_subagent("main", "Test")
    clock.now_ms += 59_999

    assert manager.timeout_idle(ms(60_000)) == []


def test_idle_sessions_of_other_kinds_are_timed_out_on_request(manager: SessionManager, clock: Clock) -> None:
    manager.spawn_subagent("main", "Test")
    main = manager.get_or_create_main("main").key
    clock.now_ms += 60_000

    assert manager.timeout_idle(ms(60_000), [SessionKind.MAIN]) == [main]


# Deleting


def test_deleting_a_session_deletes_its_messages_and_labels(manager: SessionManager, plain: PlainClient) -> None:
    key = manager.spawn_subagent("main", "Test", "research")
    kept = manager.spawn_subagent("main", "Test", "kept")
    manager.send_message(key, "Hello")
    manager.send_message(kept, "Hello")

    assert manager.delete_session(key) is True

    assert manager.get(key) is None
    assert manager.get_by_label("research") is None
    assert plain("SELECT session_key FROM messages") == [(kept,)]
    assert plain("SELECT label FROM labels") == [("kept",)]
    assert manager.delete_session(key) is False


def test_label_of_a_newer_session_stays_when_the_older_is_deleted(manager: SessionManager) -> None:
    older = manager.spawn_subagent("main", "Test", "research")
    newer = manager.spawn_subagent("main", "Test", "research")
    manager.delete_session(older)

    by_label = manager.get_by_label("research")
    assert by_label is not None
    assert by_label.key == newer


def test_prune_deletes_sessions_that_ended_before_the_cutoff_earliest_first(
    manager: SessionManager, plain: PlainClient, clock: Clock
) -> None:
    keys = [manager.spawn_subagent("main", "Test", f"label {number}") for number in range(4)]
    for key in keys[1::-1]:
        clock.now_ms += 1
        manager.send_message(key, "Hello")
        manager.complete_session(key)
    clock.now_ms += 1
    manager.error_session(keys[2])

    assert manager.prune(before=at(clock.now_ms)) == [keys[1], keys[0]]

    assert {session.key for session in manager.list()} == set(keys[2:])
    assert plain("SELECT count(*) FROM messages") == [(0,)]
    assert plain("SELECT label FROM labels ORDER BY label") == [("label 2",), ("label 3",)]


def test_prune_never_deletes_an_active_session(manager: SessionManager, clock: Clock) -> None:
    manager.get_or_create_main("main")
    clock.now_ms += 1_000_000

    assert manager.prune(before=at(clock.now_ms)) == []
    assert len(manager.list()) == 1


def test_prune_deletes_only_the_given_kinds(manager: SessionManager, clock: Clock) -> None:
    cron = manager.spawn_cron("main", "Test")
    sub = manager.spawn_subagent("main", "Test")
    for key in (cron, sub):
        manager.stop_session(key)
    clock.now_ms += 1

    assert manager.prune(before=at(clock.now_ms), kinds=[]) == []
    assert manager.prune(before=at(clock.now_ms), kinds=["cron"]) == [cron]
    assert [session.key for session in manager.list()] == [sub]


def test_dry_run_of_prune_deletes_nothing_and_returns_what_a_real_run_deletes(
    manager: SessionManager, clock: Clock
) -> None:
    for kind in ("spawn_cron", "spawn_subagent") * 2:
        clock.now_ms -= 1
        manager.stop_session(getattr(manager, kind)("main", "Test"))
    before = manager.list()
    clock.now_ms += 4

    planned = manager.prune(before=at(clock.now_ms), kinds=["subagent"], dry_run=True)

    assert len(planned) == 2
    assert manager.list() == before
    assert manager.prune(before=at(clock.now_ms), kinds=["subagent"]) == planned


def test_prune_deletes_more_than_one_batch(manager: SessionManager, clock: Clock) -> None:
    with manager.transaction() as tx:
        keys = [tx.spawn_subagent("main", "Test") for _ in range(1100)]
        for key in keys:
            tx.complete_session(key)
    clock.now_ms += 1
    steps: list[tuple[int, int]] = []

    assert manager.prune(before=at(clock.now_ms), progress=lambda *step: steps.append(step)) == sorted(keys)
    assert steps == [(500, 1100), (1000, 1100), (1100, 1100)]
    assert manager.list() == []


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_prune_continues_when_somebody_else_deleted_its_batch(
    manager: SessionManager, plain: PlainClient, clock: Clock
) -> None:
    with manager.transaction() as tx:
        keys = sorted(tx.spawn_subagent("main", "Test") for _ in range(600))
        for key in keys:
            tx.complete_session(key)
    clock.now_ms += 1
    pruned: list[str] = []
    thread = threading.Thread(target=lambda: pruned.extend(manager.prune(before=at(clock.now_ms))))
    plain("BEGIN")
    plain("DELETE FROM sessions WHERE key <= ?", keys[499])
    thread.start()
    wait_for_lock(plain)
    plain("COMMIT")
    thread.join()

    assert pruned == keys[500:]
    assert manager.list() == []

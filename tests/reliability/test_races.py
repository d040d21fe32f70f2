"""Processes that share a database: nothing is lost, nothing is done twice, and no caller sees a lock error."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from sessions_db import (
    DatabaseUnavailable,
    LabelInUse,
    NewMessage,
    SessionChanged,
    SessionKind,
    SessionManager,
    SessionNotActive,
    SessionNotFound,
    SessionStatus,
)
from tests.support.client import PlainClient
from tests.support.clock import at, ms
from tests.support.processes import Processes, over, results, together
from tests.support.soundness import faults

# SQLite has no queue for its lock: one of eight processes on a busy machine waited for 8 s (measured once).
BUDGET_S = 60

# Appends


@pytest.mark.parametrize("sessions", [1, 16], ids=["one session", "many sessions"])
def test_appends_of_many_processes_are_each_stored_once(
    url: str, full: bool, figures: Counter[str], sessions: int
) -> None:
    writers, appends = (8, 500) if full else (4, 100)
    with SessionManager(url) as manager:
        keys = [manager.get_or_create_main(f"agent-{number}").key for number in range(sessions)]

    with Processes(writers + 2) as processes:
        disturbing = processes.submit(disturb, url, keys)
        auditing = processes.submit(audit, url)
        written = results(
            [processes.submit(append, url, keys, f"writer {number}", appends) for number in range(writers)]
        )
        processes.end()
        (disturbed,), (audits,) = results([disturbing]), results([auditing])

    longest_s, receipts_of = zip(*written, strict=True)
    stored = [receipt for receipts in receipts_of for receipt in receipts]
    figures.update({"processes": writers, "appends": len(stored), "longest append, ms": round(max(longest_s) * 1000)})
    figures["audits meanwhile"] = audits
    figures.update(disturbed)
    assert len(stored) == writers * appends
    # Every number was assigned once, and each writer got rising ones.
    by_session = {key: sorted(seq for of, seq, _ in stored if of == key) for key in keys}
    assert all(numbers == list(range(1, len(numbers) + 1)) for numbers in by_session.values())
    for receipts in receipts_of:
        for key in keys:
            numbers = [seq for of, seq, _ in receipts if of == key]
            assert numbers == sorted(numbers)
    contents = {(key, seq): content for key, seq, content in stored}
    with SessionManager(url) as manager:
        for key in keys:
            session = manager.get(key)
            assert session is not None
            assert session.message_count == len(by_session[key])
            assert [m.seq for m in session.messages] == by_session[key][-100:]
            assert [m.content for m in session.messages] == [contents[key, m.seq] for m in session.messages]
    assert faults(url) == []


def append(url: str, keys: list[str], name: str, number: int) -> tuple[float, list[tuple[str, int, str]]]:
    """The longest time that an append took in this process, and the session, number and content of each, in order."""
    stored = []
    longest_s = 0.0
    with SessionManager(url, retry_budget_s=BUDGET_S) as manager:
        together()
        for turn in range(number):
            key, content = keys[turn % len(keys)], f"{name}, {turn}"
            began_s = time.monotonic()
            stored.append((key, manager.add_message(key, "user", content).seq, content))
            longest_s = max(longest_s, time.monotonic() - began_s)
    return longest_s, stored


def disturb(url: str, keys: list[str]) -> Counter[str]:
    """How often this process did each of the things that must not disturb the others."""
    done: Counter[str] = Counter()
    with SessionManager(url, retry_budget_s=BUDGET_S) as manager:
        together()
        while not over():
            manager.spawn_subagent("helper", "Test", label=f"label {done['labels moved'] % 3}")
            done["labels moved"] += 1
            done["sessions listed"] += len(manager.list(message_limit=10))
            done["sessions timed out"] += len(manager.timeout_idle(ms(1), kinds=[*SessionKind]))
            for key in keys:
                manager.reopen_session(key)
                session = manager.get(key)
                assert session is not None
                newest = range(session.message_count, max(0, session.message_count - 100), -1)
                assert [message.seq for message in session.messages] == sorted(newest)
            now_ms = time.time_ns() // 1_000_000
            done["sessions pruned"] += len(manager.prune(before=at(now_ms), kinds=[SessionKind.SUBAGENT]))
    return done


def audit(url: str) -> int:
    """How often this process found nothing wrong."""
    together()
    audits = 0
    while not over():
        assert faults(url) == []
        audits += 1
    return audits


# Labels


def test_label_that_many_processes_want_belongs_to_the_newest_spawn(
    url: str, full: bool, figures: Counter[str]
) -> None:
    number, spawns = (8, 100) if full else (4, 20)

    with Processes(number) as processes:
        spawned = results([processes.submit(spawn, url, spawns) for _ in range(number)])
        keys = [key for of_process in spawned for key in of_process]

    figures.update({"processes": number, "spawns": len(keys)})
    assert len({*keys}) == number * spawns
    assert faults(url) == []
    with SessionManager(url) as manager:
        owner = manager.get_by_label("wanted")
        assert owner is not None
        assert owner.key in {of_process[-1] for of_process in spawned}
        sessions = manager.list(limit=len(keys) + 1)
    assert {session.key for session in sessions} == {*keys}
    assert {session.label for session in sessions} == {"wanted"}


def spawn(url: str, number: int) -> list[str]:
    with SessionManager(url, retry_budget_s=BUDGET_S) as manager:
        together()
        return [manager.spawn_subagent("main", "Test", "wanted") for _ in range(number)]


def test_label_that_nobody_may_take_over_goes_to_one_of_many_processes(
    url: str, full: bool, figures: Counter[str]
) -> None:
    number, labels = (8, 50) if full else (4, 10)

    with Processes(number) as processes:
        spawned = results([processes.submit(spawn_if_free, url, labels) for _ in range(number)])

    figures.update({"processes": number, "labels": labels})
    assert faults(url) == []
    with SessionManager(url) as manager:
        for position, contenders in enumerate(zip(*spawned, strict=True)):
            (winner,) = {key for made, key in contenders if made}
            owner = manager.get_by_label(f"label {position}")
            assert owner is not None
            assert owner.key == winner
            assert [key for _, key in contenders] == [winner] * number
            assert [made for made, _ in contenders].count(True) == 1
        assert len(manager.list(limit=labels + 1)) == labels


def spawn_if_free(url: str, labels: int) -> list[tuple[bool, str]]:
    """For each label, whether this process got it, and which session has it."""
    outcomes = []
    with SessionManager(url, retry_budget_s=BUDGET_S) as manager:
        for position in range(labels):
            together()
            try:
                label = f"label {position}"
                outcomes.append((True, manager.spawn_subagent("main", "Test", label, on_label_conflict="error")))
            except LabelInUse as error:
                outcomes.append((False, error.session_key))
    return outcomes


# Branches, updates and expectations


def test_processes_that_fork_update_and_continue_one_session_do_each_thing_once(
    url: str, full: bool, figures: Counter[str]
) -> None:
    number, turns = (8, 50) if full else (4, 10)
    with SessionManager(url) as manager:
        key = manager.get_or_create("main", "talk", message_cap=1000).key
        manager.add_messages(key, [NewMessage("user", str(position)) for position in range(150)])

    with Processes(number) as processes:
        done = results([processes.submit(branch, url, key, f"process-{each}", turns) for each in range(number)])

    figures.update({"processes": number, "turns": turns})
    assert faults(url) == []
    with SessionManager(url) as manager:
        # For each turn all got the same fork, and one could continue.
        for position, of_turn in enumerate(zip(*done, strict=True)):
            (fork,) = {forked for forked, _ in of_turn}
            assert [continued for _, continued in of_turn].count(True) == 1
            session = manager.get(fork)
            assert session is not None
            assert [message.content for message in session.messages] == [str(each) for each in range(150)]
            assert session.metadata == {f"process-{each}": position for each in range(number)}
        assert manager.count(under=key) == turns
        session = manager.get(key)
        assert session is not None
        assert session.message_count == 150 + turns


def branch(url: str, key: str, name: str, turns: int) -> list[tuple[str, bool]]:
    """For each turn the fork, and whether this process was the one that continued the session."""
    done = []
    with SessionManager(url, retry_budget_s=BUDGET_S) as manager:
        for turn in range(turns):
            together()
            fork = manager.fork_session(key, 150, label="branch", idempotency_key=f"turn {turn}")
            manager.update_session(fork, metadata={name: turn})
            try:
                manager.add_message(key, "assistant", f"turn {turn}", expected_count=150 + turn)
                done.append((fork, True))
            except SessionChanged:
                done.append((fork, False))
    return done


# Opening


def test_16_processes_that_open_an_empty_database_get_one_main_session(
    create_database: Callable[..., str], full: bool, figures: Counter[str]
) -> None:
    for _ in range(10 if full else 1):
        url = create_database(at_head=False)

        with Processes(16) as processes:
            created = results([processes.submit(open_and_create, url) for _ in range(16)])

        figures.update({"databases": 1, "processes": 16})
        assert len({*created}) == 1
        client = PlainClient(url)
        assert client("SELECT key, status, last_seq FROM sessions") == [("agent:main:main", "active", 0)]
        client.close()
        assert faults(url) == []


def open_and_create(url: str) -> tuple[str, int]:
    together()
    with SessionManager(url, retry_budget_s=BUDGET_S) as manager:
        session = manager.get_or_create_main("main")
    return session.key, session.created_ms


# Ends


def test_exactly_one_of_many_processes_ends_a_session(url: str, full: bool, figures: Counter[str]) -> None:
    sessions = 200 if full else 20
    with SessionManager(url) as manager:
        keys = [manager.spawn_subagent("main", "Test") for _ in range(sessions)]
    endings = [SessionStatus.COMPLETED, SessionStatus.ERROR, SessionStatus.TIMEOUT] * 2

    with Processes(len(endings)) as processes:
        outcomes = results(
            [processes.submit(end, url, keys, status, f"by {number}") for number, status in enumerate(endings)]
        )

    figures.update({"processes": len(endings), "sessions": sessions})
    assert faults(url) == []
    with SessionManager(url) as manager:
        for position, key in enumerate(keys):
            session = manager.get(key)
            assert session is not None
            of_session = [outcome[position] for outcome in outcomes]
            assert of_session.count(True) == 1
            winner = of_session.index(True)
            assert (session.status, session.end_reason) == (endings[winner], f"by {winner}")
            for loser, status in enumerate(endings):
                if loser != winner:
                    assert of_session[loser] == (False if status is session.status else session.status)
            figures[f"ended as {session.status}"] += 1


def end(url: str, keys: list[str], status: SessionStatus, reason: str) -> list[bool | SessionStatus]:
    """The outcome of ending each: what the manager returned, or the status that the session had already."""
    outcomes: list[bool | SessionStatus] = []
    with SessionManager(url, retry_budget_s=BUDGET_S) as manager:
        ending = {
            SessionStatus.COMPLETED: manager.complete_session,
            SessionStatus.ERROR: manager.error_session,
            SessionStatus.TIMEOUT: manager.timeout_session,
        }[status]
        for key in keys:
            together()
            try:
                outcomes.append(ending(key, reason))
            except SessionNotActive as error:
                outcomes.append(error.status)
    return outcomes


def test_session_reopened_while_others_prune_is_either_kept_or_deleted(
    url: str, full: bool, figures: Counter[str]
) -> None:
    for _ in range(10 if full else 2):
        with SessionManager(url) as manager, manager.transaction() as tx:
            keys = [tx.spawn_subagent("main", "Test", f"label {number}") for number in range(200)]
            for key in keys:
                tx.complete_session(key)
        ended_ms = time.time_ns() // 1_000_000

        with Processes(4) as processes:
            pruning = [processes.submit(prune, url, ended_ms + 1) for _ in range(2)]
            reopening = [processes.submit(reopen, url, keys[part::2]) for part in range(2)]
            pruned = [key for some in results(pruning) for key in some]
            reopened = [key for some in results(reopening) for key in some]

        figures.update({"sessions": len(keys), "pruned": len(pruned), "reopened": len(reopened)})
        assert sorted(pruned + reopened) == sorted(keys)
        assert faults(url) == []
        with SessionManager(url) as manager:
            assert {session.key for session in manager.list(limit=len(keys), active_only=True)} == {*reopened}
            for key in reopened:
                manager.delete_session(key)
            assert manager.list() == []


def prune(url: str, before_ms: int) -> list[str]:
    with SessionManager(url, retry_budget_s=BUDGET_S) as manager:
        while time.time_ns() // 1_000_000 < before_ms:
            time.sleep(0.001)
        together()
        return manager.prune(before=at(before_ms))


def reopen(url: str, keys: list[str]) -> list[str]:
    """The sessions that still existed and were reopened."""
    reopened = []
    with SessionManager(url, retry_budget_s=BUDGET_S) as manager:
        together()
        for key in keys:
            with suppress(SessionNotFound):
                reopened.append(manager.reopen_session(key).key)
    return reopened


# Locks that outlast the budget

WRITES: dict[str, Callable[[SessionManager, str], object]] = {
    "append": lambda manager, key: manager.send_message(key, "Hello"),
    "idempotent append": lambda manager, key: manager.add_message(key, "user", "Hello", idempotency_key="once"),
    "batch": lambda manager, key: manager.add_messages(key, [NewMessage("user", "Hello")] * 3),
    "idempotent batch": lambda manager, key: manager.add_messages(key, [NewMessage("user", "", idempotency_key="a")]),
    "append that expects a count": lambda manager, key: manager.add_message(key, "user", "Hello", expected_count=0),
    "touch": lambda manager, key: manager.touch(key),
    "update": lambda manager, key: manager.update_session(key, label="other", metadata={"a": 1}),
    "fork": lambda manager, key: manager.fork_session(key, 0),
    "end": lambda manager, key: manager.complete_session(key),
    "sweep": lambda manager, _: manager.timeout_idle(ms(1), kinds=[*SessionKind]),
    "spawn": lambda manager, _: manager.spawn_subagent("main", "Test", "wanted"),
    "delete": lambda manager, key: manager.delete_session(key),
}


@pytest.mark.parametrize("write", WRITES)
def test_lock_that_outlasts_the_budget_is_reported_with_the_time_spent(
    url: str, plain: PlainClient, write: str
) -> None:
    with SessionManager(url, retry_budget_s=0.3) as manager:
        key = manager.spawn_subagent("main", "Test", "wanted")
        before = manager.get(key)
        # The sweep finds what has been idle for 1 ms, by the clock's whole milliseconds.
        time.sleep(0.002)
        with locked(plain), pytest.raises(DatabaseUnavailable) as caught:
            WRITES[write](manager, key)

        assert 0.3 <= caught.value.waited_s < 30
        assert f"after {caught.value.waited_s:.1f} s" in str(caught.value)
        assert not caught.value.outcome_unknown
        assert manager.list(message_limit=10) == [before]
    assert faults(url) == []


@contextmanager
def locked(plain: PlainClient) -> Iterator[None]:
    """During the block, a separate client has locked everything that can be written to."""
    if plain.backend == "sqlite":
        plain("BEGIN IMMEDIATE")
    else:
        plain("BEGIN")
        plain("SELECT * FROM sessions FOR UPDATE")
        plain("SELECT * FROM labels FOR UPDATE")
    yield
    plain("ROLLBACK")

"""A clock that steps back, stands still, or is centuries off: times are informational, numbers give the order."""

from __future__ import annotations

import itertools
import sys
import uuid
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessions_db import InvalidInput, NewMessage, Session, SessionManager, SessionNotActive, SessionStatus
from tests.support.client import PlainClient
from tests.support.clock import Clock, ms
from tests.support.commands import ok, ok_json
from tests.support.examples import examples

NOW = 1_700_000_000_000
LAST = 2**63 - 1
# The earliest and latest that a column holds, before 1970, before the year 1, 1970, the last second of the year 9999,
# and when the 48 bits of a UUID's time are used up.
EXTREMES = [-LAST, -(10**15), -1001, -2, -1, 0, 1, 253_402_300_799_999, 253_402_300_800_000, 2**48, 10**16, LAST]


@pytest.fixture(autouse=True)
def uuids_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the far future out of the other tests' UUID generator, which never steps back."""
    monkeypatch.setattr(uuid, "_last_timestamp_v7", None, raising=False)
    if sys.version_info < (3, 14):
        monkeypatch.setattr("uuid6._last_v7_timestamp", None)


def pages(manager: SessionManager, size: int, **filters: Any) -> list[Session]:
    """All sessions, page by page."""
    found: list[Session] = []
    page = manager.list(limit=size, **filters)
    while page:
        assert len(found) < 10_000, "the pages have no end"
        found += page
        page = manager.list(limit=size, before=page[-1], **filters)
    return found


def check_order(manager: SessionManager) -> None:
    whole = manager.list(limit=10_000)

    assert whole == manager.list(limit=10_000)
    assert whole == sorted(whole, key=lambda session: (session.created_ms, session.key), reverse=True)
    assert len({session.key for session in whole}) == len(whole)
    for size in (1, 3):
        assert pages(manager, size) == whole
    assert all(session.runtime_secs() >= 0 for session in whole)


class Run:
    """Sessions that are written to under a wild clock, and what must always hold."""

    def __init__(self, manager: SessionManager, plain: PlainClient, clock: Clock) -> None:
        plain("DELETE FROM sessions")
        self.manager = manager
        self.clock = clock
        self.keys = [manager.spawn_subagent("main", "Test", message_cap=20)]
        self.written = {self.keys[0]: 0}
        self.activity: dict[str, int] = {}

    def do(self, action: str, position: int) -> None:
        key = self.keys[position % len(self.keys)]
        text = str(self.written[key] + 1)
        match action:
            case "spawn":
                self.keys.append(self.manager.spawn_subagent("main", "Test", parent_key=key, message_cap=20))
                self.written[self.keys[-1]] = 0
            case "append":
                self.written[key] = self.manager.add_message(key, "user", text).seq
            case "batch":
                numbers = range(self.written[key] + 1, self.written[key] + 4)
                self.manager.add_messages(key, [NewMessage("tool", str(number)) for number in numbers])
                self.written[key] += 3
            case "end":
                with suppress(SessionNotActive):  # the sweep was first
                    self.manager.stop_session(key)
            case "reopen":
                self.manager.reopen_session(key)
            case "sweep":
                with suppress(InvalidInput):  # so long it was not since 1970
                    self.manager.timeout_idle(ms(60_000))

    def check(self) -> None:
        for session in self.manager.list(limit=1000, message_limit=1000):
            count = self.written[session.key]
            assert session.message_count == count
            numbers = [message.seq for message in session.messages]
            assert numbers == [*range(max(0, count - 20) + 1, count + 1)]
            assert [message.content for message in session.messages] == [str(number) for number in numbers]
            assert list(session.messages) == self.manager.history(session.key, include_tools=True)
            assert session.last_activity_ms >= self.activity.get(session.key, session.created_ms)
            assert (session.finished_ms is None) == (session.status is SessionStatus.ACTIVE)
            assert session.runtime_secs() >= 0
            assert session.runtime_secs(0) >= 0
            self.activity[session.key] = session.last_activity_ms


moments = st.sampled_from([*EXTREMES, NOW, NOW + 1]) | st.integers(-LAST, LAST)
steps = st.sampled_from([0, 0, 1, 999, -1, -500, -3_600_000, 60_000])
actions = st.sampled_from(["spawn", "append", "append", "batch", "end", "reopen", "sweep"])


@examples(100)
@given(
    script=st.lists(
        st.tuples(moments.map(lambda at: ("set", at)) | steps.map(lambda by: ("step", by)), actions, st.integers(0, 5)),
        max_size=25,
    )
)
def test_numbers_keep_the_order_and_activity_never_steps_back_whatever_the_clock_does(
    manager: SessionManager, plain: PlainClient, clock: Clock, script: list[tuple[tuple[str, int], str, int]]
) -> None:
    clock.now_ms = NOW
    run = Run(manager, plain, clock)

    for (how, value), action, position in script:
        now_ms = value if how == "set" else clock.now_ms + value
        clock.now_ms = min(LAST, max(-LAST, now_ms))
        run.do(action, position)
        run.check()

    check_order(manager)


@pytest.mark.parametrize("size", [1, 7, 100])
def test_sessions_of_one_millisecond_are_paged_without_gap_or_repetition(
    manager: SessionManager, clock: Clock, size: int
) -> None:
    made = {manager.spawn_cron("main", "Test") for _ in range(150)}

    found = pages(manager, size, message_limit=1)

    assert len(found) == len(made)
    assert {session.key for session in found} == made
    assert {session.created_ms for session in found} == {clock.now_ms}


def test_sessions_created_by_a_slow_or_fast_clock_between_pages_hide_no_others(
    manager: SessionManager, clock: Clock
) -> None:
    made = []
    for step_ms in (0, 1, 0, -5, 10, 0, -1) * 6:
        clock.now_ms += step_ms
        made.append(manager.spawn_subagent("main", "Test"))
    found: list[Session] = []
    jumps = itertools.cycle([-1000, 3, 0, -7, 2000, 0])

    page = manager.list(limit=4)
    while page:
        found += page
        clock.now_ms = NOW + next(jumps)
        made_since = [manager.spawn_subagent("other", "Test") for _ in range(2)]
        manager.delete_session(made_since[0])
        page = manager.list(limit=4, before=page[-1])
        assert len(found) < 1000

    keys = [session.key for session in found]
    assert len(keys) == len(set(keys))
    assert [key for key in keys if key in made] == [session.key for session in manager.list(agent_id="main")]


@pytest.mark.parametrize("now_ms", EXTREMES)
def test_every_operation_works_at_any_time(manager: SessionManager, clock: Clock, now_ms: int) -> None:
    clock.now_ms = now_ms
    main = manager.get_or_create_main("main").key
    key = manager.spawn_subagent("main", "Test", "label", main, idempotency_key="once")
    manager.send_message(key, "Hello")
    manager.add_messages(key, [NewMessage("user", "Hello", idempotency_key="once")] * 2)

    assert [message.timestamp_ms for message in manager.history(key) or []] == [now_ms] * 2
    assert [session.key for session in manager.list(active_within_ms=0)] == [key, main]
    assert [session.key for session in manager.list(active_within_ms=LAST)] == [key, main]
    if now_ms > 0:
        assert manager.timeout_idle(ms(1)) == []
        assert manager.prune(ms(1), dry_run=True) == []
    for idle_ms in (max(1, now_ms + 1), LAST):
        with suppress(InvalidInput, OverflowError):  # no timedelta is as long
            assert manager.timeout_idle(ms(idle_ms)) == []
    assert manager.complete_session(key)
    assert manager.reopen_session(key).last_activity_ms == now_ms
    assert manager.error_session(key)
    session = manager.get(key)
    assert session is not None
    assert (session.created_ms, session.finished_ms, session.runtime_secs()) == (now_ms, now_ms, 0)
    clock.now_ms = LAST
    assert manager.prune(ms(1), dry_run=True) == ([key] if now_ms < LAST else [])
    assert manager.delete_session(key)


@pytest.mark.parametrize("now_ms", EXTREMES)
def test_commands_can_show_any_time(url: str, manager: SessionManager, clock: Clock, now_ms: int) -> None:
    clock.now_ms = now_ms
    key = manager.get_or_create_main("main").key
    manager.send_message(key, "Hello")

    assert "Hello" in ok("history", key, db=url)
    for arguments in (["list"], ["show", key], ["history", key]):
        assert ok(*arguments, db=url)
        assert str(now_ms) in str(ok_json(*arguments, db=url))


def test_run_time_is_never_negative(manager: SessionManager, clock: Clock) -> None:
    key = manager.spawn_subagent("main", "Test")

    def session() -> Session:
        found = manager.get(key)
        assert found is not None
        return found

    clock.now_ms -= 3_600_000
    active = session()
    manager.complete_session(key)
    ended = session()

    assert (active.runtime_secs(), active.runtime_secs(0), active.runtime_secs(NOW + 1999)) == (0, 0, 1)
    assert ended.finished_ms == NOW - 3_600_000
    assert (ended.runtime_secs(), ended.runtime_secs(LAST)) == (0, 0)


def test_no_session_is_timed_out_because_the_clock_stepped_back(manager: SessionManager, clock: Clock) -> None:
    key = manager.spawn_subagent("main", "Test")
    clock.now_ms -= 3_600_000
    manager.send_message(key, "Hello")

    early = manager.timeout_idle(ms(60_000))
    clock.now_ms = NOW + 59_999
    still = manager.timeout_idle(ms(60_000))
    clock.now_ms += 1
    late = manager.timeout_idle(ms(60_000))

    assert (early, still, late) == ([], [], [key])


def test_writers_with_differing_clocks_append_in_one_order(
    url: str, open_manager: Callable[..., SessionManager], clock: Clock
) -> None:
    with open_manager(url) as fast, open_manager(url) as slow:
        key = fast.get_or_create_main("main").key
        for number in range(20):
            clock.now_ms = NOW + (3_600_000 if number % 2 else -3_600_000) - number
            (fast if number % 2 else slow).send_message(key, str(number))

        history = slow.history(key)

        assert history == fast.history(key)
        assert [(message.seq, message.content) for message in history or []] == [(n + 1, str(n)) for n in range(20)]
        assert fast.get_or_create_main("main").last_activity_ms == NOW + 3_600_000 - 1

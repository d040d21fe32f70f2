"""Limits for spawning, which no race slips past."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import make_url

from sessions_db import InvalidInput, LimitReached, SessionManager, SessionNotFound, SpawnLimits
from tests.support.processes import Processes, results, together
from tests.support.threads import run_together


def spawn(manager: SessionManager, parent_key: str | None, **limits: int) -> str:
    return manager.spawn_subagent("main", "Test", parent_key=parent_key, limits=SpawnLimits(**limits))


def test_depth_counts_the_sessions_above(manager: SessionManager) -> None:
    key = manager.get_or_create_main("main").key
    for depth in (1, 2, 3):
        with pytest.raises(LimitReached, match="max_depth") as caught:
            spawn(manager, key, max_depth=depth - 1)
        assert (caught.value.limit, caught.value.maximum) == ("max_depth", depth - 1)
        key = spawn(manager, key, max_depth=depth)

    assert manager.count() == 4
    spawn(manager, None, max_depth=0)


def test_depth_counts_a_parent_that_is_gone(manager: SessionManager) -> None:
    root = manager.spawn_subagent("main", "Test")
    key = manager.spawn_subagent("main", "Test", parent_key=root)
    manager.delete_session(root)

    with pytest.raises(LimitReached):
        spawn(manager, key, max_depth=1)
    spawn(manager, key, max_depth=2)


def test_children_are_those_that_are_active(manager: SessionManager) -> None:
    parent = manager.get_or_create_main("main").key
    first = manager.spawn_cron("other", "Test", parent_key=parent)
    manager.spawn_subagent("main", "Of nobody")

    spawn(manager, parent, max_children=2)
    with pytest.raises(LimitReached, match="max_children is 2"):
        spawn(manager, parent, max_children=2)
    manager.stop_session(first)
    spawn(manager, parent, max_children=2)


def test_active_sessions_are_the_runs_of_the_agent(manager: SessionManager) -> None:
    manager.get_or_create("main", "talk")
    manager.spawn_cron("other", "Test")
    first = manager.spawn_cron("main", "Test")

    spawn(manager, None, max_active=2)
    with pytest.raises(LimitReached, match="max_active is 2"):
        spawn(manager, manager.get_or_create_main("main").key, max_active=2)
    manager.complete_session(first)
    spawn(manager, None, max_active=2)


def test_a_refused_spawn_leaves_nothing_and_a_repeated_one_is_not_refused(manager: SessionManager) -> None:
    limits = SpawnLimits(max_depth=1, max_children=1, max_active=1)
    parent = manager.get_or_create_main("main").key

    def again(key: str, conflict: str) -> str:
        return manager.spawn_subagent(
            "main", "Test", "look", parent, on_label_conflict=conflict, idempotency_key=key, limits=limits
        )

    first = again("one", "error")

    with pytest.raises(LimitReached):
        again("two", "replace")
    assert again("one", "error") == first
    assert manager.count() == 2
    manager.stop_session(first)
    second = again("two", "replace")
    owner = manager.get_by_label("look")
    assert owner is not None
    assert owner.key == second != first


def test_a_limit_that_is_none_is_refused(manager: SessionManager) -> None:
    wrong: Any
    for wrong in (-1, True, "1", 1.0):
        with pytest.raises(InvalidInput, match="max_children"):
            SpawnLimits(max_children=wrong)
    wrong = {"max_children": 1}
    with pytest.raises(InvalidInput, match="limits must be SpawnLimits"):
        manager.spawn_cron("main", "Test", limits=wrong)
    with pytest.raises(SessionNotFound):
        spawn(manager, "agent:nobody:main", max_depth=1, max_children=1, max_active=1)


LIMITS = {"children": SpawnLimits(max_children=3), "active": SpawnLimits(max_active=3)}


def spawn_until_refused(url: str, parent: str, limits: SpawnLimits, ready: Callable[[], object]) -> int:
    """How many sessions this manager could spawn."""
    with SessionManager(url, retry_budget_s=60) as manager:
        ready()
        for spawned in range(10):
            try:
                manager.spawn_subagent("main", "Test", parent_key=parent, limits=limits)
            except LimitReached:
                return spawned
    raise AssertionError("there was no limit")


@pytest.mark.parametrize("face", ["sync"])
@pytest.mark.parametrize("limits", LIMITS)
def test_racing_managers_reach_the_limit_and_do_not_pass_it(manager: SessionManager, url: str, limits: str) -> None:
    parent = manager.get_or_create_main("main").key
    if url.startswith("postgresql") and limits == "active":
        # A stricter isolation level than the default repeats what has lost.
        parsed = make_url(url)
        options = f"{parsed.query.get('options', '')} -c default_transaction_isolation=serializable"
        url = parsed.update_query_dict({"options": options}).render_as_string(hide_password=False)
    barrier, spawned = threading.Barrier(6), list[int]()

    def race() -> None:
        spawned.append(spawn_until_refused(url, parent, LIMITS[limits], barrier.wait))

    run_together(threading.Thread(target=race) for _ in range(6))

    assert sum(spawned) == 3
    assert len(spawned) == 6
    assert len(manager.children(parent)) == 3


@pytest.mark.parametrize("face", ["sync"])
def test_racing_processes_reach_the_limit_and_do_not_pass_it(manager: SessionManager, url: str) -> None:
    parent = manager.get_or_create_main("main").key
    limits = SpawnLimits(max_children=4, max_active=3)

    with Processes(4) as processes:
        spawned = results([processes.submit(spawn_until_refused, url, parent, limits, together) for _ in range(4)])

    assert sum(spawned) == 3
    assert len(manager.children(parent)) == 3

"""How often a call crosses the wire to Postgres, counted there."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Iterator

import pytest

from sessions_db import AsyncSessionManager, NewMessage, SessionChanged, SessionManager
from tests.support.clock import at, ms
from tests.support.wire import Wire

pytestmark = pytest.mark.parametrize("backend", ["postgresql"], indirect=True)

CALLS: dict[str, Callable[[SessionManager, str], object]] = {
    "send_message": lambda manager, key: manager.send_message(key, "Hello"),
    "add_message": lambda manager, key: manager.add_message(key, "tool", "1", tool_name="t", metadata={"a": 1}),
    "idempotent add_message": lambda manager, key: manager.add_message(
        key, "user", "Hello", idempotency_key=str(uuid.uuid4())
    ),
    "batch of 20": lambda manager, key: manager.add_messages(key, [NewMessage("user", "Hello")] * 20),
    "batch of 2000": lambda manager, key: manager.add_messages(key, [NewMessage("user", "Hello")] * 2000),
    "history": lambda manager, key: manager.history(key, 50),
    "history of a page": lambda manager, key: manager.history(key, 50, after_seq=0, archived=True),
    "wait_for_messages": lambda manager, key: manager.wait_for_messages(key, 0, timeout=10),
    "wait that finds nothing": lambda manager, key: manager.wait_for_messages(key, 1_000_000, timeout=0),
    "wait_for_end": lambda manager, key: manager.wait_for_end([key, "agent:nobody:main"], timeout=0),
    "get": lambda manager, key: manager.get(key),
    "get_by_label": lambda manager, _: manager.get_by_label("research"),
    "get_or_create_main": lambda manager, _: manager.get_or_create_main("main"),
    "spawn_subagent": lambda manager, _: manager.spawn_subagent("main", "Test"),
    "spawn_subagent with a parent": lambda manager, key: manager.spawn_subagent("main", "Test", parent_key=key),
    "spawn_subagent with a label": lambda manager, _: manager.spawn_subagent("main", "Test", str(uuid.uuid4())),
    "spawn_subagent that takes a label over": lambda manager, _: manager.spawn_subagent("main", "Test", "taken"),
    "idempotent spawn_subagent": lambda manager, _: manager.spawn_subagent(
        "main", "Test", idempotency_key=str(uuid.uuid4())
    ),
    "list": lambda manager, _: manager.list(limit=20),
    "list with messages": lambda manager, _: manager.list(limit=20, message_limit=5),
    "descendants": lambda manager, key: manager.descendants(key),
    "timeout_idle": lambda manager, _: manager.timeout_idle(ms(1_000_000)),
    "timeout_idle of an agent": lambda manager, _: manager.timeout_idle(ms(1_000_000), agent_id="main"),
    "idempotent send_message": lambda manager, key: manager.send_message(
        key, "Hello", metadata={"a": 1}, idempotency_key=str(uuid.uuid4())
    ),
    "get_or_create": lambda manager, _: manager.get_or_create("main", "talk"),
    "touch": lambda manager, key: manager.touch(key),
    "list under a session": lambda manager, key: manager.list(under=key, created_after=at(0)),
    "count": lambda manager, key: manager.count(under=key),
    "iterate": lambda manager, _: [*manager.iterate(["main"])],
}


@pytest.fixture
def wire(url: str) -> Iterator[Wire]:
    with Wire(url) as proxy:
        yield proxy


@pytest.mark.parametrize("call", CALLS)
def test_call_is_one_round_trip(wire: Wire, call: str) -> None:
    operation = CALLS[call]
    with SessionManager(wire.url) as manager:
        key = manager.spawn_subagent("main", "Test", "research")
        manager.get_or_create_main("main")
        manager.send_message(key, "first")
        # psycopg prepares a statement after seeing it five times, in a separate round trip.
        for _ in range(10):
            operation(manager, key)
        before = wire.round_trips
        for _ in range(10):
            operation(manager, key)

        assert wire.round_trips - before == 10


def test_first_end_of_a_session_is_one_round_trip(wire: Wire) -> None:
    with SessionManager(wire.url) as manager:
        keys = [manager.spawn_subagent("main", "Test") for _ in range(20)]
        for key in keys[:10]:
            manager.complete_session(key)
        before = wire.round_trips
        for key in keys[10:]:
            manager.complete_session(key)

        assert wire.round_trips - before == 10


def test_append_that_expects_a_count_is_one_round_trip(wire: Wire) -> None:
    with SessionManager(wire.url) as manager:
        key = manager.get_or_create_main("main").key
        for count in range(10):
            manager.add_message(key, "user", "Hello", expected_count=count)
            manager.add_messages(key, [], expected_count=count + 1)
        before = wire.round_trips
        for count in range(10, 20):
            manager.add_message(key, "user", "Hello", expected_count=count)

        assert wire.round_trips - before == 10
        with pytest.raises(SessionChanged):
            manager.add_messages(key, [NewMessage("user", "Hello")] * 2, expected_count=19)
        before = wire.round_trips
        manager.add_messages(key, [NewMessage("user", "Hello")] * 2, expected_count=20)
        assert wire.round_trips - before == 1


# Several statements, in a transaction among them BEGIN and COMMIT.
OF_SEVERAL: dict[str, tuple[int, Callable[[SessionManager, str], object]]] = {
    "get_or_create of a new conversation": (2, lambda manager, _: manager.get_or_create("main", str(uuid.uuid4()))),
    "update_session": (5, lambda manager, key: manager.update_session(key, metadata={str(uuid.uuid4()): 1})),
    "update_session with a label": (8, lambda manager, key: manager.update_session(key, label=str(uuid.uuid4()))),
    "fork_session": (5, lambda manager, key: manager.fork_session(key, 1)),
    "proofs of 100 sessions named twice": (
        4,
        lambda manager, key: manager.proofs([key, *(f"agent:{number}:main" for number in range(99))] * 2),
    ),
    "fork_session with keys": (
        7,
        lambda manager, key: manager.fork_session(key, 1, label=str(uuid.uuid4()), idempotency_key=str(uuid.uuid4())),
    ),
}


@pytest.mark.parametrize("call", OF_SEVERAL)
def test_call_takes_few_round_trips(wire: Wire, call: str) -> None:
    expected, operation = OF_SEVERAL[call]
    with SessionManager(wire.url) as manager:
        key = manager.spawn_subagent("main", "Test")
        manager.send_message(key, "first")
        for _ in range(10):
            operation(manager, key)
        before = wire.round_trips
        for _ in range(10):
            operation(manager, key)

        assert wire.round_trips - before == 10 * expected


def test_async_calls_take_as_many_round_trips_as_sync_ones(wire: Wire) -> None:
    async def count() -> int:
        async with AsyncSessionManager(wire.url, pool_size=1) as manager:
            key = await manager.spawn_subagent("main", "Test")
            for _ in range(10):
                await manager.send_message(key, "Hello")
            before = wire.round_trips
            for _ in range(10):
                await manager.send_message(key, "Hello")
            return wire.round_trips - before

    assert asyncio.run(count()) == 10

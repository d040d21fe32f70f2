"""A network that was cut, and a server that fell silent: how long a call can hang."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from sessions_db import AsyncSessionManager, DatabaseUnavailable, SessionManager
from tests.support.blocking import Blocking
from tests.support.client import PlainClient
from tests.support.locks import wait_for_lock
from tests.support.wire import CAN_DROP_PACKETS, Wire

# The longest that a caller may be kept waiting. The library's own bounds are far below.
LIMIT_S = 60


@pytest.fixture
def backend() -> str:
    return "postgresql"


@pytest.fixture
def wire(url: str) -> Iterator[Wire]:
    with Wire(url) as proxy:
        yield proxy


class Call:
    """A call that may hang, on a thread of its own."""

    def __init__(self, operation: Callable[[], object]) -> None:
        self._operation = operation
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        self.error: DatabaseUnavailable | None = None

    def is_over_by(self, deadline: float) -> bool:
        self._thread.join(max(0.0, deadline - time.monotonic()))
        return not self._thread.is_alive()

    def end(self) -> None:
        self._thread.join()

    def _run(self) -> None:
        try:
            self._operation()
        except DatabaseUnavailable as error:
            self.error = error


def open_both(stack: ExitStack, wire: Wire) -> dict[str, SessionManager]:
    openers: dict[str, Callable[..., SessionManager]] = {"sync": SessionManager, "async": Blocking}  # type: ignore[dict-item]
    return {name: stack.enter_context(opener(wire.url, retry_budget_s=1)) for name, opener in openers.items()}


@pytest.mark.skipif(not CAN_DROP_PACKETS, reason="only Linux lets a socket drop what arrives")
def test_calls_over_a_network_that_is_cut_end_in_bounded_time_and_the_manager_recovers(
    wire: Wire, plain: PlainClient, figures: Counter[str]
) -> None:
    with ExitStack() as stack:
        managers = open_both(stack, wire)
        keys = {name: manager.get_or_create_main(name).key for name, manager in managers.items()}
        # One connection for each call, so that each hangs on a connection that used to work.
        fill_the_pools(managers)
        wire.drop_packets()
        cut_at = time.monotonic()
        calls = {
            f"{name} {what}": Call(operation)
            for name, manager in managers.items()
            for what, operation in calls_of(manager, keys[name]).items()
        }

        hanging = {what for what, call in calls.items() if not call.is_over_by(cut_at + LIMIT_S)}
        figures["longest, in ms"] = int((time.monotonic() - cut_at) * 1000)
        wire.restore()
        for call in calls.values():
            call.end()

        assert not hanging
        errors = {what: call.error for what, call in calls.items()}
        assert all(errors.values())
        assert {what for what, error in errors.items() if error and error.outcome_unknown} == {
            "sync append",
            "async append",
        }
        for name, manager in managers.items():
            assert manager.send_message(keys[name], "The manager goes on").seq == 1
    assert plain("SELECT count(*) FROM messages") == [(2,)]


@pytest.mark.skipif(not CAN_DROP_PACKETS, reason="only Linux lets a socket drop what arrives")
def test_append_that_waits_for_its_answer_while_the_network_is_cut_ends_in_bounded_time(
    wire: Wire, plain: PlainClient
) -> None:
    with SessionManager(wire.url, retry_budget_s=LIMIT_S * 2) as manager:
        key = manager.get_or_create_main("main").key
        plain("BEGIN")
        plain("SELECT * FROM sessions FOR UPDATE")
        call = Call(lambda: manager.send_message(key, "Hello"))
        wait_for_lock(plain)
        wire.drop_packets()

        over = call.is_over_by(time.monotonic() + LIMIT_S)
        wire.restore()
        plain("ROLLBACK")
        call.end()

        assert over
        assert call.error is not None
        assert call.error.outcome_unknown


def test_connecting_to_a_silent_server_ends_in_bounded_time(wire: Wire) -> None:
    wire.fall_silent()
    openings = [
        Call(lambda: SessionManager(wire.url, retry_budget_s=1)),
        Call(lambda: asyncio.run(open_async(wire))),
    ]

    over = [opening.is_over_by(time.monotonic() + LIMIT_S) for opening in openings]
    wire.restore()
    for opening in openings:
        opening.end()

    assert all(over)
    assert all(opening.error is not None and not opening.error.outcome_unknown for opening in openings)


async def open_async(wire: Wire) -> None:
    async with AsyncSessionManager(wire.url, retry_budget_s=1):
        pass


def calls_of(manager: SessionManager, key: str) -> dict[str, Callable[[], object]]:
    def write() -> None:
        with manager.transaction() as tx:
            tx.send_message(key, "Hello")

    return {
        "append": lambda: manager.send_message(key, "Hello"),
        "read": lambda: manager.history(key),
        "block": write,
    }


def fill_the_pools(managers: dict[str, SessionManager]) -> None:
    for manager in managers.values():
        with manager.transaction(), manager.transaction(), manager.transaction():
            pass

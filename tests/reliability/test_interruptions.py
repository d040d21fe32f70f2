"""Exceptions that signal handlers raise at any moment: soft time limits, `KeyboardInterrupt`, gevent's timeouts."""

from __future__ import annotations

import gc
import logging
import random
import signal
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import coverage
import pytest

from sessions_db import DatabaseUnavailable, NewMessage, SessionManager, StatementRefused, TransactionRolledBack
from sessions_db.waiting import polling
from tests.support.client import PlainClient
from tests.support.examples import FACTOR, note
from tests.support.interrupting import AtCall
from tests.support.processes import Processes, results
from tests.support.servers import wait_until

pytestmark = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no interval timer on this system")

# In each of the four cases.
INTERRUPTIONS = 60 * FACTOR
CAP = 1_000_000


class SoftTimeLimit(Exception):  # as task queues name it
    """What a handler raises."""


def calls(manager: SessionManager, key: str) -> list[Callable[[str], object]]:
    """Calls of each kind, which append the text once if they append at all."""

    def in_a_block(text: str) -> None:
        with manager.transaction() as tx:
            tx.send_message(key, text)
            tx.get(key)

    return [
        lambda text: manager.send_message(key, text),
        lambda text: manager.add_messages(key, [NewMessage("user", text)]),
        lambda text: manager.add_messages(key, [NewMessage("user", text, idempotency_key=text)]),
        in_a_block,
        lambda _: manager.history(key, 5),
        lambda _: manager.list(limit=5, message_limit=2),
        lambda _: manager.statistics(),
    ]


@pytest.mark.parametrize("raised", [SoftTimeLimit, KeyboardInterrupt], ids=["Exception", "BaseException"])
def test_nothing_stays_taken_and_no_answer_is_false(
    request: pytest.FixtureRequest, url: str, plain: PlainClient, raised: type[BaseException]
) -> None:
    # In a process of its own: an interruption in pytest or in coverage would leave their locks taken.
    with Processes(1) as processes:
        ((acknowledged, refused),) = results([processes.submit(_interrupt_calls, url, raised)])

    stored = Counter(content for (content,) in plain("SELECT content FROM messages"))
    del stored["warm up"]
    assert {text for text, count in stored.items() if count > 1} == set()
    assert acknowledged - stored.keys() == set()
    assert refused & stored.keys() == set()
    note(request, "interruptions", INTERRUPTIONS)


def test_exception_at_any_function_call_comes_out_and_leaves_nothing_taken(
    request: pytest.FixtureRequest, url: str, plain: PlainClient, full: bool
) -> None:
    step = 1 if full else 7
    with Processes(1) as processes:
        submitted = processes.submit(_interrupt_function_calls, url, step)
        ((acknowledged, refused, interruptions),) = results([submitted])

    stored = Counter(
        text for (text,) in plain("SELECT content FROM messages UNION ALL SELECT content FROM archived_messages")
    )
    assert {text for text, count in stored.items() if count > 1} == set()
    assert acknowledged - stored.keys() == set()
    assert refused & stored.keys() == set()
    note(request, "interrupted function calls", interruptions)


def _interrupt_function_calls(url: str, step: int) -> tuple[set[str], set[str], int]:
    """The texts of the appends that were acknowledged and of those that were refused; the number of interruptions."""
    if (running := coverage.Coverage.current()) is not None:
        running.stop()
    sys.unraisablehook = lambda _: None
    logging.disable()
    acknowledged: set[str] = set()
    refused: set[str] = set()
    interruptions = 0
    # A low cap: otherwise there are more calls each time.
    options = {"message_cap": 5, "archive_trimmed": True, "synchronous": "NORMAL"}
    with SessionManager(url, pool_size=4, retry_budget_s=1, **options) as manager:  # type: ignore[arg-type]
        key = manager.get_or_create_main("main").key

        def in_a_savepoint(text: str) -> None:
            with manager.transaction() as tx:
                tx.add_messages(key, [NewMessage("user", text, idempotency_key=text)])

        # Not `statistics`, which reads as `list` does and makes thousands of calls.
        for position, call in enumerate([*calls(manager, key)[:6], in_a_savepoint]):
            call(f"warm up {position}")
            # Of a few calls each time another one.
            number, interrupted = random.randrange(step) + 1 - step, True
            while interrupted:
                number += step
                text = f"{position}/{number}"
                outcome, interrupted = _interrupt_at(number, partial(call, text))
                interruptions += interrupted
                if position not in (4, 5) and outcome is not SoftTimeLimit:
                    (acknowledged if outcome is None else refused).add(text)
                if interruptions % 10 == 0:
                    # Some exceptions are in cycles with their tracebacks, and so is what the interrupted frames hold.
                    gc.collect()
            gc.collect()
            status = manager.pool_status()
            assert (status.in_use, status.waiting) == (0, 0), (position, status)
    return acknowledged, refused, interruptions


def _interrupt_at(number: int, call: Callable[[], object]) -> tuple[type[BaseException] | None, bool]:
    """What was raised, and whether the call got as far as the call of a Python function with this number."""
    interrupt = AtCall(number, SoftTimeLimit)
    try:
        sys.settrace(interrupt)
        call()
    except SoftTimeLimit:
        return SoftTimeLimit, True
    except DatabaseUnavailable:
        if interrupt.left <= 0:
            raise
        # What an earlier exception holds was still taken.
        return DatabaseUnavailable, True
    finally:
        sys.settrace(None)
    return None, interrupt.left <= 0


def _interrupt_calls(url: str, raised: type[BaseException]) -> tuple[set[str], set[str]]:
    """The texts of the appends that were acknowledged and of those that were refused."""
    if (running := coverage.Coverage.current()) is not None:
        running.stop()
    # Neither keeps tracebacks, which hold what was interrupted. Python itself drops an exception that a handler raises
    # within a callback of a weak reference.
    sys.unraisablehook = lambda _: None
    logging.disable()

    def interrupt(_number: int, _frame: object) -> None:
        raise raised

    signal.signal(signal.SIGALRM, interrupt)
    chosen = random.Random(1)
    acknowledged: set[str] = set()
    refused: set[str] = set()
    number = interrupted = 0
    with SessionManager(url, pool_size=2, retry_budget_s=5, synchronous="NORMAL", message_cap=CAP) as manager:
        key = manager.get_or_create_main("main").key
        for call in calls(manager, key):
            call("warm up")
        while interrupted < INTERRUPTIONS:
            number += 1
            text = str(number)
            position = chosen.randrange(7)
            call = calls(manager, key)[position]
            try:
                try:
                    signal.setitimer(signal.ITIMER_REAL, chosen.uniform(0.00001, 0.0012))
                    call(text)
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
                if position < 4:  # the calls that append
                    acknowledged.add(text)
            except raised:
                interrupted += 1
            except (TransactionRolledBack, StatementRefused):
                refused.add(text)
            except DatabaseUnavailable as error:
                if not error.outcome_unknown:
                    refused.add(text)
        # Some exceptions are in cycles with their tracebacks, and so is what the interrupted frames hold.
        gc.collect()
        status = manager.pool_status()
        assert (status.in_use, status.waiting) == (0, 0), status
        # All that can be taken at once still can.
        with manager.transaction() as tx:
            tx.send_message(key, "last")
            assert manager.get(key) is not None
    return acknowledged, refused


def test_exception_at_any_function_call_of_a_wait_or_of_what_wakes_it_leaves_nobody_waiting(
    request: pytest.FixtureRequest, url: str, full: bool
) -> None:
    with Processes(1) as processes:
        ((waits, appends),) = results([processes.submit(_interrupt_waits, url, 1 if full else 4)])

    assert min(waits, appends) > 5
    note(request, "interrupted function calls", waits + appends)


def _interrupt_waits(url: str, step: int) -> tuple[int, int]:
    """How many waits were interrupted, and how many appends that wake somebody. Raises if somebody is not woken."""
    if (running := coverage.Coverage.current()) is not None:
        running.stop()
    sys.unraisablehook = lambda _: None
    logging.disable()
    # The thread that polls ends at once, so that each wait starts it.
    polling._STAYS_S = 0  # type: ignore[misc]
    with (
        SessionManager(url, poll_interval=0.001, synchronous="NORMAL") as manager,
        SessionManager(url, synchronous="NORMAL") as other,
        ThreadPoolExecutor(1) as threads,
    ):
        key = manager.get_or_create_main("main").key

        def is_woken_by(append: Callable[[], object]) -> None:
            seen = other.wait_for_messages(key, 0, timeout=0)[-1].seq
            waiting = threads.submit(manager.wait_for_messages, key, seen, timeout=60)
            wait_until(lambda: bool(manager._board.entries) or waiting.done())
            append()
            # Not stored, if it was interrupted early.
            if other.wait_for_messages(key, seen, timeout=0) == []:
                other.send_message(key, "stored")
            assert waiting.result() != []

        def interrupt_each(call: Callable[[], object], wake: Callable[[Callable[[], object]], object]) -> int:
            count, number, is_interrupted = 0, random.randrange(step) + 1 - step, True

            def interrupted() -> None:
                nonlocal is_interrupted
                _, is_interrupted = _interrupt_at(number, call)

            while is_interrupted:
                count, number = count + 1, number + step
                wake(interrupted)
                assert (manager._board.entries, manager._board._seen) == ({}, {})
            return count

        def wake_after(wait: Callable[[], object]) -> None:
            wait()
            is_woken_by(lambda: other.send_message(key, "from elsewhere"))

        manager.send_message(key, "first")
        return (
            interrupt_each(lambda: manager.wait_for_messages(key, 1_000_000, timeout=0.01), wake_after),
            interrupt_each(lambda: manager.send_message(key, "from here"), is_woken_by),
        )

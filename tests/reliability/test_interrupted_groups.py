"""64 writers whose appends are stored in groups, while any of them is interrupted or cancelled at any moment."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from itertools import count

import coverage
import pytest

from sessions_db import AsyncSessionManager, DatabaseUnavailable, NewMessage, SessionManager
from tests.support.client import PlainClient
from tests.support.processes import Processes, results
from tests.support.threads import run_together

WRITERS = 64
SESSIONS = 8
OPTIONS = {"synchronous": "NORMAL", "message_cap": 1_000_000, "pool_size": 6}

# So long that only an append that hangs runs out of it.
BUDGET_S = 60


class Interrupted(Exception):  # as task queues name it
    """What another thread raises in a writer."""


Answers = tuple[set[str], set[str], int]
"""The texts of the appends that were acknowledged and of those that were refused, and the number of interruptions."""


@pytest.mark.parametrize("face", ["threads", "tasks"])
def test_interrupted_writers_leave_nothing_taken_and_get_no_false_answer(
    url: str, plain: PlainClient, face: str, full: bool, figures: Counter[str]
) -> None:
    interruptions = 10_000 if full else 300
    work = _interrupt_threads if face == "threads" else _cancel_tasks
    # In a process of its own: an interruption in pytest or in coverage would leave their locks taken.
    with Processes(1) as processes:
        ((acknowledged, refused, interrupted),) = results([processes.submit(work, url, interruptions)])

    rows = plain("SELECT session_key, seq, content FROM messages ORDER BY session_key, seq")
    stored = Counter(content for *_, content in rows)
    assert {text for text, times in stored.items() if times > 1} == set()
    assert acknowledged - stored.keys() == set()
    assert refused & stored.keys() == set()
    assert interrupted >= interruptions
    figures.update({"interruptions": interrupted, "appends acknowledged": len(acknowledged), "refused": len(refused)})


def _quiet() -> None:
    if (running := coverage.Coverage.current()) is not None:
        running.stop()
    # Neither keeps tracebacks, which hold what was interrupted.
    sys.unraisablehook = lambda _: None
    logging.disable()


def _interrupt_threads(url: str, interruptions: int) -> Answers:
    _quiet()
    acknowledged: set[str] = set()
    refused: set[str] = set()
    counted: list[None] = []
    is_over = threading.Event()

    def write(manager: SessionManager, keys: list[str], writer: int) -> None:
        numbers = count()
        while not is_over.is_set():
            text = f"{writer}/{next(numbers)}"
            key = keys[writer % SESSIONS]
            try:
                if writer % 3:
                    manager.send_message(key, text)
                else:
                    manager.add_messages(key, [NewMessage("user", text)])
                acknowledged.add(text)
            except Interrupted:
                counted.append(None)
            except DatabaseUnavailable as error:
                if not error.outcome_unknown:
                    refused.add(text)

    with SessionManager(url, retry_budget_s=BUDGET_S, **OPTIONS) as manager:  # type: ignore[arg-type]
        keys = [manager.spawn_subagent("main", str(number)) for number in range(SESSIONS)]
        works: list[Callable[[], None]] = [partial(write, manager, keys, number) for number in range(WRITERS)]
        for _ in range(3):
            works = [partial(_go_on, work, counted, is_over) for work in works]
        threads = [threading.Thread(target=work) for work in works]
        interrupting = threading.Thread(target=_interrupt, args=(threads, counted, interruptions, is_over))
        run_together([*threads, interrupting])
        _check_that_nothing_is_taken(manager, keys)
    return acknowledged, refused, len(counted)


def _go_on(work: Callable[[], None], counted: list[None], is_over: threading.Event) -> None:
    """Work until it is over: an interruption may come between the calls too."""
    while not is_over.is_set():
        try:
            work()
        except Interrupted:
            counted.append(None)


def _interrupt(
    threads: list[threading.Thread], counted: list[None], interruptions: int, is_over: threading.Event
) -> None:
    chosen = random.Random(1)
    while not all(thread.is_alive() for thread in threads):
        time.sleep(0.001)
    deadline = time.monotonic() + 600
    while len(counted) < interruptions and time.monotonic() < deadline:
        identity = ctypes.c_ulong(chosen.choice(threads).ident or 0)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(identity, ctypes.py_object(Interrupted))
        time.sleep(chosen.uniform(0, 0.002))
    is_over.set()


def _cancel_tasks(url: str, interruptions: int) -> Answers:
    _quiet()
    acknowledged: set[str] = set()
    refused: set[str] = set()
    cancelled = 0
    chosen = random.Random(1)

    async def write(append: Callable[[str, str], Awaitable[object]], key: str, writer: int) -> None:
        nonlocal cancelled
        for number in count():
            if cancelled >= interruptions:
                return
            text = f"{writer}/{number}"
            call = asyncio.ensure_future(append(key, text))
            if chosen.random() < 0.5:
                asyncio.get_running_loop().call_later(chosen.uniform(0, 0.005), call.cancel)
            try:
                await call
                acknowledged.add(text)
            except asyncio.CancelledError:
                cancelled += 1
            except DatabaseUnavailable as error:
                if not error.outcome_unknown:
                    refused.add(text)

    async def main() -> None:
        async with AsyncSessionManager(url, retry_budget_s=BUDGET_S, **OPTIONS) as manager:  # type: ignore[arg-type]
            keys = [await manager.spawn_subagent("main", str(number)) for number in range(SESSIONS)]
            await asyncio.gather(
                *(write(manager.send_message, keys[number % SESSIONS], number) for number in range(WRITERS))
            )
            assert manager._manager is not None
            _check_that_nothing_is_taken(manager._manager, keys)

    asyncio.run(main())
    return acknowledged, refused, cancelled


def _check_that_nothing_is_taken(manager: SessionManager, keys: list[str]) -> None:
    # Some exceptions are in cycles with their tracebacks, and so is what the interrupted frames hold.
    gc.collect()
    status = manager.pool_status()
    assert (status.in_use, status.waiting) == (0, 0), status
    assert manager._group_commit.waiting == 0
    # All that can be taken at once still can.
    for key in keys:
        assert manager.send_message(key, f"last of {key}").seq > 0
    with manager.transaction() as tx:
        tx.send_message(keys[0], "last")
        assert manager.get(keys[0]) is not None

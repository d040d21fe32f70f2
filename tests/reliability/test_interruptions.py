"""Exceptions that signal handlers raise at any moment: soft time limits, `KeyboardInterrupt`, gevent's timeouts."""

from __future__ import annotations

import gc
import logging
import random
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from sessions_db import DatabaseUnavailable, NewMessage, SessionManager, StatementRefused, TransactionRolledBack
from tests.support.client import PlainClient
from tests.support.examples import FACTOR, note

pytestmark = [
    pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no interval timer on this system"),
    # Python drops an exception that a handler raises within a callback of a weak reference or a finalizer.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

# Together with the other database 20,000 in a full run.
INTERRUPTIONS = 500 * FACTOR
CAP = 1_000_000


class SoftTimeLimit(Exception):  # as task queues name it
    """What a handler raises."""


@pytest.fixture(params=[SoftTimeLimit, KeyboardInterrupt], ids=["Exception", "BaseException"])
def interruption(request: pytest.FixtureRequest) -> Iterator[type[BaseException]]:
    """What SIGALRM raises."""
    raised: type[BaseException] = request.param

    def interrupt(_number: int, _frame: object) -> None:
        raise raised

    before = signal.signal(signal.SIGALRM, interrupt)
    yield raised
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


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


def test_nothing_stays_taken_and_no_answer_is_false(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    url: str,
    plain: PlainClient,
    interruption: type[BaseException],
) -> None:
    # Neither keeps tracebacks, which hold what was interrupted.
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
    logging.disable()
    chosen = random.Random(1)
    acknowledged: list[str] = []
    refused: list[str] = []
    interrupted = 0
    with SessionManager(url, pool_size=2, retry_budget_s=5, synchronous="NORMAL", message_cap=CAP) as manager:
        key = manager.get_or_create_main("main").key
        for call in calls(manager, key):
            call("warm up")
        number = 0
        while interrupted < INTERRUPTIONS:
            number += 1
            text = str(number)
            call = chosen.choice(calls(manager, key))
            try:
                try:
                    signal.setitimer(signal.ITIMER_REAL, chosen.uniform(0.00001, 0.0012))
                    call(text)
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
                acknowledged.append(text)
            except interruption:
                interrupted += 1
            except DatabaseUnavailable as error:
                # A statement that the interruption left halfway. The write is known to be undone, or it says otherwise.
                if not error.outcome_unknown:
                    refused.append(text)
            except (TransactionRolledBack, StatementRefused):
                refused.append(text)

        # Some exceptions are in cycles with their tracebacks, and so is what the interrupted frames hold.
        gc.collect()
        status = manager.pool_status()
        stored = [content for (content,) in plain("SELECT content FROM messages WHERE session_key = ?", key)]
        with suppress(ValueError):
            while True:
                stored.remove("warm up")

        assert (status.in_use, status.waiting) == (0, 0)
        assert len(set(stored)) == len(stored)
        assert set(refused) & set(stored) == set()
        # All that can be taken at once still can.
        with manager.transaction() as tx:
            tx.send_message(key, "last")
            assert manager.get(key) is not None
    gc.collect()
    logging.disable(logging.NOTSET)
    note(request, "interruptions", interrupted)

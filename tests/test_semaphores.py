"""Semaphores: who is woken, and that nothing is lost."""

from __future__ import annotations

import sys
import threading
import time
from contextlib import suppress

import pytest

from sessions_db.database.semaphores import FairSemaphore, Semaphore, UnfairSemaphore
from tests.support.interrupting import AtCall
from tests.support.threads import run_together

KINDS = [FairSemaphore, UnfairSemaphore]


def wait_until_waiting(semaphore: Semaphore, number: int) -> None:
    deadline = time.monotonic() + 30
    while semaphore.waiting < number:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_longest_waiting_thread_is_woken_first() -> None:
    semaphore = FairSemaphore(1)
    held = semaphore.acquire(timeout=0)
    assert held is not None
    woken: list[int] = []

    def wait(number: int) -> None:
        token = semaphore.acquire(timeout=30)
        assert token is not None
        woken.append(number)
        semaphore.release(token)

    threads = [threading.Thread(target=wait, args=(number,)) for number in range(5)]
    for number, thread in enumerate(threads):
        thread.start()
        wait_until_waiting(semaphore, number + 1)
    semaphore.release(held)
    for thread in threads:
        thread.join()

    assert woken == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_acquired_as_often_as_its_size_and_no_more(kind: type[Semaphore]) -> None:
    semaphore = kind(2)
    tokens = [semaphore.acquire(timeout=0) for _ in range(3)]

    assert [token is not None for token in tokens] == [True, True, False]
    assert tokens[0] is not None
    semaphore.release(tokens[0])
    assert semaphore.taken == 1


@pytest.mark.parametrize("kind", KINDS)
def test_token_that_is_dropped_is_free_again(kind: type[Semaphore]) -> None:
    semaphore = kind(1)
    token = semaphore.acquire(timeout=0)
    assert semaphore.taken == 1

    del token

    assert semaphore.taken == 0
    assert semaphore.acquire(timeout=0) is not None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", range(1, 10))
def test_token_is_free_again_though_a_signal_interrupts_its_finalizer(
    kind: type[Semaphore], number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # pytest's own keeps the traceback, and with it the token.
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
    semaphore = kind(1)
    token = semaphore.acquire(timeout=0)
    assert token is not None

    before = sys.gettrace()
    sys.settrace(AtCall(number, KeyboardInterrupt))
    del token
    sys.settrace(before)

    assert semaphore.taken == 0
    held = semaphore.acquire(timeout=0)
    assert held is not None
    assert semaphore.acquire(timeout=0) is None


@pytest.mark.parametrize("kind", KINDS)
def test_thread_that_gave_up_is_not_woken(kind: type[Semaphore]) -> None:
    semaphore = kind(1)
    token = semaphore.acquire(timeout=0)
    assert token is not None
    assert semaphore.acquire(timeout=0.01) is None

    semaphore.release(token)
    assert semaphore.waiting == 0
    assert semaphore.acquire(timeout=0) is not None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", range(1, 10))
def test_thread_that_a_signal_interrupts_waits_no_longer(kind: type[Semaphore], number: int) -> None:
    semaphore = kind(1)
    token = semaphore.acquire(timeout=0)
    assert token is not None

    before = sys.gettrace()
    with suppress(KeyboardInterrupt):
        try:
            sys.settrace(AtCall(number, KeyboardInterrupt))
            semaphore.acquire(timeout=0.001)
        finally:
            sys.settrace(before)

    assert semaphore.waiting == 0
    semaphore.release(token)
    assert semaphore.acquire(timeout=0) is not None


@pytest.mark.parametrize("kind", KINDS)
def test_none_is_lost_while_many_give_up_and_many_are_woken(kind: type[Semaphore]) -> None:
    semaphore = kind(3)
    had = threading.Semaphore(3)

    def take() -> None:
        for number in range(300):
            token = semaphore.acquire(timeout=0.0001 * (number % 3))
            if token is not None:
                assert had.acquire(blocking=False)
                had.release()
                semaphore.release(token)

    run_together([threading.Thread(target=take) for _ in range(12)])

    tokens = [semaphore.acquire(timeout=0) for _ in range(4)]
    assert [token is not None for token in tokens] == [True, True, True, False]

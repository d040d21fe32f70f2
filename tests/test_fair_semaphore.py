"""The semaphore wakes threads in the order in which they arrived."""

from __future__ import annotations

import threading
import time

from sessions_db.database.fair_semaphore import FairSemaphore
from tests.support.threads import run_together


def wait_until_waiting(semaphore: FairSemaphore, number: int) -> None:
    deadline = time.monotonic() + 30
    while semaphore.waiting < number:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_longest_waiting_thread_is_woken_first() -> None:
    semaphore = FairSemaphore(1)
    assert semaphore.acquire(timeout=0)
    woken: list[int] = []

    def wait(number: int) -> None:
        assert semaphore.acquire(timeout=30)
        woken.append(number)
        semaphore.release()

    threads = [threading.Thread(target=wait, args=(number,)) for number in range(5)]
    for number, thread in enumerate(threads):
        thread.start()
        wait_until_waiting(semaphore, number + 1)
    semaphore.release()
    for thread in threads:
        thread.join()

    assert woken == [0, 1, 2, 3, 4]


def test_it_is_acquired_as_often_as_its_size_and_no_more() -> None:
    semaphore = FairSemaphore(2)

    assert [semaphore.acquire(timeout=0) for _ in range(3)] == [True, True, False]
    semaphore.release()
    assert [semaphore.acquire(timeout=0) for _ in range(2)] == [True, False]


def test_thread_that_gave_up_is_not_woken() -> None:
    semaphore = FairSemaphore(1)
    assert semaphore.acquire(timeout=0)
    assert not semaphore.acquire(timeout=0.01)

    semaphore.release()
    assert semaphore.acquire(timeout=0)


def test_no_permit_is_lost_while_many_give_up_and_many_are_woken() -> None:
    semaphore = FairSemaphore(3)
    had = threading.Semaphore(3)

    def take() -> None:
        for number in range(300):
            if semaphore.acquire(timeout=0.0001 * (number % 3)):
                assert had.acquire(blocking=False)
                had.release()
                semaphore.release()

    run_together([threading.Thread(target=take) for _ in range(12)])

    assert [semaphore.acquire(timeout=0) for _ in range(4)] == [True, True, True, False]

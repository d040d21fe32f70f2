"""Turns go to whoever asked first."""

from __future__ import annotations

import threading
import time

from sessions_db.turns import Turns
from tests.support.threads import run_together


def wait_until_waiting(turns: Turns, number: int) -> None:
    deadline = time.monotonic() + 30
    while len(turns._waiting) < number:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_turns_come_in_the_order_of_asking() -> None:
    turns = Turns(1)
    assert turns.acquire(timeout=0)
    came: list[int] = []

    def wait(number: int) -> None:
        assert turns.acquire(timeout=30)
        came.append(number)
        turns.release()

    threads = [threading.Thread(target=wait, args=(number,)) for number in range(5)]
    for number, thread in enumerate(threads):
        thread.start()
        wait_until_waiting(turns, number + 1)
    turns.release()
    for thread in threads:
        thread.join()

    assert came == [0, 1, 2, 3, 4]


def test_as_many_have_a_turn_as_may_and_no_more() -> None:
    turns = Turns(2)

    assert [turns.acquire(timeout=0) for _ in range(3)] == [True, True, False]
    turns.release()
    assert [turns.acquire(timeout=0) for _ in range(2)] == [True, False]


def test_who_gave_up_waiting_is_not_called() -> None:
    turns = Turns(1)
    assert turns.acquire(timeout=0)
    assert not turns.acquire(timeout=0.01)

    turns.release()
    assert turns.acquire(timeout=0)


def test_no_turn_is_lost_where_many_give_up_and_many_are_called() -> None:
    turns = Turns(3)
    had = threading.Semaphore(3)

    def take() -> None:
        for number in range(300):
            if turns.acquire(timeout=0.0001 * (number % 3)):
                assert had.acquire(blocking=False)
                had.release()
                turns.release()

    run_together([threading.Thread(target=take) for _ in range(12)])

    assert [turns.acquire(timeout=0) for _ in range(4)] == [True, True, True, False]

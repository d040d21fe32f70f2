"""A semaphore that wakes threads in the order in which they arrived."""

from __future__ import annotations

import threading
from collections import deque


class FairSemaphore:
    """A bounded semaphore, first come, first served.

    With Python's own locks, and SQLAlchemy's pool, the next thread that asks gets in, which under load is the one that
    has just released. With 64 threads on 10 connections to Postgres, that made the 99th percentile of an append nine
    times as long (measured once with `benchmarks`, section concurrency).
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._free = size
        self._lock = threading.Lock()
        self._waiters: deque[threading.Lock] = deque()

    @property
    def taken(self) -> int:
        """How many threads hold the semaphore."""
        return self.size - self._free

    @property
    def waiting(self) -> int:
        """How many threads wait for it."""
        return len(self._waiters)

    def acquire(self, *, timeout: float) -> bool:
        """Whether the semaphore could be acquired within that many seconds."""
        with self._lock:
            if self._free:
                self._free -= 1
                return True
            granted = threading.Lock()
            granted.acquire()
            self._waiters.append(granted)
        if granted.acquire(timeout=timeout):
            return True
        with self._lock:
            if granted.locked():
                self._waiters.remove(granted)
                return False
        return True  # granted just after the timeout

    def release(self) -> None:
        """Wake the longest-waiting thread."""
        with self._lock:
            if self._waiters:
                self._waiters.popleft().release()
            else:
                self._free += 1

"""Threads that run at the same time."""

from __future__ import annotations

import threading
from collections.abc import Iterable


def run_together(threads: Iterable[threading.Thread]) -> None:
    """Start them all, then wait for them all."""
    started = list(threads)
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()

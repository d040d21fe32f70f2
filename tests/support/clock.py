"""The time that a test sets."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


class Clock:
    """A clock that stands still until it is set."""

    def __init__(self, now_ms: int) -> None:
        self.now_ms = now_ms

    def time_ns(self) -> int:
        return self.now_ms * 1_000_000


def ms(count: int) -> timedelta:
    """A span of this many milliseconds."""
    return timedelta(milliseconds=count)


def at(at_ms: int) -> datetime:
    """The time this many milliseconds after the epoch."""
    return datetime(1970, 1, 1, tzinfo=UTC) + ms(at_ms)

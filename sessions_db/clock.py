"""The process's clock, in milliseconds since the epoch (UTC), and the same times as aware datetimes."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


def now_ms() -> int:
    """Milliseconds since the epoch, UTC."""
    return time.time_ns() // 1_000_000


def to_ms(at: datetime) -> int:
    """The milliseconds since the epoch of an aware datetime, rounded down."""
    return (at - _EPOCH) // _MILLISECOND


def to_datetime(at_ms: int) -> datetime:
    """The aware datetime, in UTC.

    Raises:
        OverflowError: the year is not between 1 and 9999, which only SQL that bypasses the library can store.
    """
    return _EPOCH + at_ms * _MILLISECOND

"""Lines in batches that are worth a transaction."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Final

# 64 sessions of ten messages hold SQLite's write lock for 15 ms; more per transaction are hardly faster.
_MOST_LINES: Final = 64
_MOST_BYTES: Final = 1_000_000

_SLOW_S: Final = 0.1


def batches(lines: Iterable[bytes]) -> Iterator[list[bytes]]:
    """The lines, in batches of up to 64 or until they have 1 MB.

    The first batch is one line, each other one at most twice as long as that before it. A line that took more than a
    tenth of a second to come ends its batch, and the next one is one line again: what comes slowly is not held back for
    company. An error of `lines` is raised after the lines before it.
    """
    source = iter(lines)
    most = 1
    while True:
        batch: list[bytes] = []
        size = 0
        is_slow = is_last = False
        error: Exception | None = None
        while len(batch) < most and size < _MOST_BYTES and not is_slow:
            began = time.monotonic()
            try:
                line = next(source)
            except StopIteration:
                is_last = True
                break
            except Exception as raised:  # noqa: BLE001  # it is raised below
                error = raised
                break
            is_slow = time.monotonic() - began > _SLOW_S
            batch.append(line)
            size += len(line)
        if batch:
            yield batch
        if error is not None:
            raise error
        if is_last:
            return
        most = 1 if is_slow else min(2 * most, _MOST_LINES)

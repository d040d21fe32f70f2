"""Lines in batches that are worth a transaction."""

from __future__ import annotations

import io
import time
from collections.abc import Iterable, Iterator
from typing import Final

# 64 sessions of ten messages hold SQLite's write lock for 15 ms; more per transaction are hardly faster.
_MOST_LINES: Final = 64
_MOST_BYTES: Final = 1_000_000

_SLOW_S: Final = 0.1


def batches(lines: Iterable[bytes]) -> Iterator[list[bytes]]:
    """The lines, in batches of up to 64 or until they have 1 MB.

    What has come from a file or a pipe is never held back for what has not. Of other sources nobody can tell: there,
    the first batch is one line, each other one at most twice as long as that before it, and after a line that took more
    than a tenth of a second to come, it is one line again. An error of `lines` is raised after the lines before it.
    """
    if isinstance(lines, io.BufferedIOBase):
        for arrived in _arrivals(lines):
            yield from _bounded(arrived)
    else:
        yield from _read_ahead(iter(lines))


def _arrivals(file: io.BufferedIOBase) -> Iterator[list[bytes]]:
    """The whole lines that have come, each time that some have."""
    begun: list[bytes] = []
    while chunk := file.read1(_MOST_BYTES):
        *lines, rest = chunk.split(b"\n")
        if lines:
            lines[0] = b"".join([*begun, lines[0]])
            begun = []
            yield [line + b"\n" for line in lines]
        if rest:
            begun.append(rest)
    if begun:
        yield [b"".join(begun)]


def _bounded(lines: Iterable[bytes]) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    size = 0
    for line in lines:
        batch.append(line)
        size += len(line)
        if len(batch) == _MOST_LINES or size >= _MOST_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _read_ahead(lines: Iterator[bytes]) -> Iterator[list[bytes]]:
    most = 1
    while True:
        batch: list[bytes] = []
        size = 0
        is_slow = is_last = False
        error: Exception | None = None
        while len(batch) < most and size < _MOST_BYTES and not is_slow:
            began = time.monotonic()
            try:
                line = next(lines)
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

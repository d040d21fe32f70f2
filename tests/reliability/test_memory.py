"""Appending takes no more memory however long a process runs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from sessions_db import SessionManager
from tests.support.processes import Processes

FEW, MANY = 300, 3_000

# A leak of the text would amount to megabytes.
TEXT = "x" * 2_000

# The peaks differed by at most 4 kB in six runs on each database. A leak of 150 bytes per append exceeds this.
TOLERANCE_KB = 400


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux resets the peak")
def test_3000_appends_peak_at_the_memory_of_300(url: str) -> None:
    with Processes(1) as processes:
        few, many = processes.submit(_peaks, url).result()

    assert many - few < TOLERANCE_KB


def _peaks(url: str) -> tuple[int, int]:
    """Peak resident memory after the first few appends and after many, in kilobytes."""
    # Not waiting for the disk saves time, and changes nothing that is kept in memory.
    with SessionManager(url, synchronous="NORMAL") as manager:
        key = manager.spawn_subagent("main", "Stream")

        def append(start: int, stop: int) -> int:
            for number in range(start, stop):
                manager.add_message(key, "user", f"{number}: {TEXT}")
            return _peak_kb()

        # By now the session is full, and the caches of the library, its driver and SQLite are warm.
        append(0, FEW // 2)
        # Opening takes more memory than appending: its peak would hide a leak.
        Path("/proc/self/clear_refs").write_text("5")
        return append(FEW // 2, FEW), append(FEW, MANY)


def _peak_kb() -> int:
    # Not `getrusage`: its peak is not reset.
    status = Path("/proc/self/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1])

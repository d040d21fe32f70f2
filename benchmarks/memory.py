"""Memory: the peak of a process that streams appends, a thousand of them to a hundred thousand.

SQLite is opened with `synchronous=NORMAL` here, which changes how long this takes and nothing that is kept in memory.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from sqlalchemy import URL, make_url

from benchmarks.databases import BACKENDS, text
from benchmarks.environment import ROOT
from benchmarks.managers import inhabited, opened
from benchmarks.rounds import Figure
from benchmarks.sections import Bench, Results

COUNTS = (1_000, 10_000, 100_000)
_QUICK_COUNTS = (200, 2_000)
ROUNDS = 3


def run(bench: Bench) -> Results:
    """A process for each count, on both databases."""
    counts = _QUICK_COUNTS if bench.quick else COUNTS
    results = Results(notes={"counts": counts, "kilobytes": {}})
    for backend in BACKENDS:
        url = inhabited(bench, backend)
        # The longest is run once: it takes as long as all others together, and there is little to a peak that varies.
        peaks = {count: [_peak(url, count) for _ in range(1 if count == counts[-1] else ROUNDS)] for count in counts}
        results.notes["kilobytes"][backend] = {str(count): min(found) for count, found in peaks.items()}
        for count, found in peaks.items():
            results.figures[f"{backend}.{count}"] = Figure.of(peak / min(peaks[counts[0]]) for peak in found)
    return results


def _peak(url: URL, count: int) -> int:
    """The peak of a new process, in kilobytes."""
    command = [sys.executable, "-m", "benchmarks.memory", text(url), str(count)]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE)  # noqa: S603  # this very file
    return int(json.loads(done.stdout))


def stream(url: URL, count: int) -> int:
    """Append that many messages to a session, and tell the peak of this process in kilobytes."""
    with opened(url, synchronous="NORMAL") as manager:
        key = manager.spawn_subagent("bench", "Be streamed to")
        for number in range(count):
            if number == count // 100:
                _forget_peak()
            manager.add_message(key, "user", f"Message {number} of the stream, as long as a line of a chat often is.")
    return _peak_of_this_process()


def _forget_peak() -> None:
    # What opening took (the migrations) would hide what appending takes. Only Linux forgets.
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_of_this_process() -> int:
    status = Path("/proc/self/status")
    if status.exists():
        # `getrusage` counts what the parent had in memory when it started this process, Linux's VmHWM does not.
        (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
        return int(line.split()[1])
    import resource  # noqa: PLC0415  # where there is no /proc; not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // 1024 if sys.platform == "darwin" else peak


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("url", type=make_url)
    parser.add_argument("count", type=int)
    arguments = parser.parse_args()
    print(stream(arguments.url, arguments.count))

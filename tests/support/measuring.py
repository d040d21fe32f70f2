"""In which tests coverage is measured, when it is: what is traced takes half as long again, or more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import pytest
from coverage import Coverage


def mark_unmeasured(items: Iterable[pytest.Item]) -> None:
    """Mark the tests that reach what others reach: those in reliability/, and most repetitions on a database.

    Of a test with other arguments too, the first is measured for each database and face; of one that runs with
    both faces on both databases, each face on one database.
    """
    measured: Counter[object] = Counter()
    for item in items:
        arguments = getattr(item, "callspec", None)
        backend, face = (arguments.params.get(name) if arguments else None for name in ("backend", "face"))
        function = item.nodeid.partition("[")[0]
        is_first = backend is None or measured[function, backend, face] == 0
        is_across = backend is not None and face is not None and (face == "sync") != (backend == "sqlite")
        if function.startswith("tests/reliability/") or not is_first or is_across:
            item.add_marker(pytest.mark.no_cover)
        measured[function, backend, face] += 1


@contextmanager
def unmeasured() -> Iterator[None]:
    """No coverage of what runs in the block, also in the processes that it starts."""
    measuring = Coverage.current()
    if measuring is not None:
        measuring.stop()
    try:
        with pytest.MonkeyPatch.context() as environment:
            environment.delenv("COVERAGE_PROCESS_CONFIG", raising=False)
            yield
    finally:
        # pytest-cov, which stops it for the call only, may have started it again.
        if measuring is not None and Coverage.current() is None:
            measuring.start()

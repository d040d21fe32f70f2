"""Writers that do not give up, and the check that what was acknowledged to them is stored."""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Callable
from typing import Final, Self

from sessions_db import DatabaseUnavailable, SessionManager

# So many that nearly all of their appends are stored in groups.
_WRITERS: Final = 64


class RetryingWriters:
    """64 threads that append with idempotency keys, and retry what failed, until they are told to stop."""

    def __init__(self, manager: SessionManager, keys: list[str], figures: Counter[str]) -> None:
        self._manager = manager
        self._figures = figures
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._acknowledged = threading.Condition(self._lock)
        self.stored: dict[str, dict[str, int]] = {key: {} for key in keys}
        self.sent: Counter[str] = Counter()
        self._threads = [
            threading.Thread(target=self._append, args=(key,))
            for key in itertools.islice(itertools.cycle(keys), _WRITERS)
        ]
        self._numbers = itertools.count()
        self.failure: BaseException | None = None

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def go_on(self, count: int) -> None:
        """Wait until this many more appends are acknowledged."""
        with self._lock:
            until = self._count() + count
            assert self._acknowledged.wait_for(lambda: self.failure or self._count() >= until, 120), "nobody goes on"
        assert self.failure is None, self.failure

    def check(self, plain: Callable[..., list[tuple[object, ...]]]) -> None:
        """Assert that each acknowledged append is stored, once and in its place, and nothing that was not sent."""
        for key, stored in self.stored.items():
            found = plain(f"SELECT seq, content FROM messages WHERE session_key = '{key}' ORDER BY seq")
            contents = [content for _, content in found]
            assert [seq for seq, _ in found] == list(range(1, len(found) + 1))
            assert len(set(contents)) == len(contents)
            assert {content: seq for seq, content in found if content in stored} == stored
            assert set(contents) <= set(self.sent)
            assert plain(f"SELECT last_seq FROM sessions WHERE key = '{key}'") == [(len(found),)]
        self._figures["appends acknowledged"] += self._count()
        self._figures["appends repeated"] += sum(self.sent.values()) - len(self.sent)

    def _count(self) -> int:
        return sum(map(len, self.stored.values()))

    def _append(self, key: str) -> None:
        try:
            while not self._stop.is_set():
                self._append_once(key, str(next(self._numbers)))
        except BaseException as error:
            with self._lock:
                self.failure = error
                self._acknowledged.notify_all()
            raise

    def _append_once(self, key: str, content: str) -> None:
        while True:
            with self._lock:
                self.sent[content] += 1
            try:
                message = self._manager.add_message(key, "user", content, idempotency_key=content)
            except DatabaseUnavailable:
                # What may have been stored is retried until acknowledged, so that the check knows about it.
                self._figures["errors"] += 1
                continue
            with self._lock:
                self.stored[key][content] = message.seq
                self._acknowledged.notify_all()
            return

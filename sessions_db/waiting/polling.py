"""Finding what others commit: one thread and one query for all that wait."""

from __future__ import annotations

import json
import logging
import threading
import time
from typing import Final

from sqlalchemy import Connection

from sessions_db.calls import Calls
from sessions_db.database.engine import engine_beside
from sessions_db.database.fork import in_child
from sessions_db.database.retry import Retry
from sessions_db.operations.waiting import changes
from sessions_db.waiting.board import Board

_log = logging.getLogger("sessions_db")

# How long the thread stays after the last wait: a listener soon waits for the next message, and a thread and a
# connection for each would cost more than the polls in between, which send nothing.
_STAYS_S: Final = 2.0

# How long `stop` waits for a poll that hangs in a network that was cut. Its connection is closed when it comes back.
_PATIENCE_S: Final = 2.0

# Of a pooled connection's `info`: what SQLite's data_version was there.
_VERSION: Final = "sessions_db_data_version"


class Polling:
    """The thread that polls while somebody waits.

    It has a connection of its own, outside of the pool's limit: neither waits for the other. In a database in memory,
    which has only one connection, it uses that one.

    Args:
        calls: those of the manager.
        board: who waits.
        interval_s: seconds between two polls.
    """

    def __init__(self, calls: Calls, board: Board, interval_s: float) -> None:
        self.board = board
        self._calls = calls
        self._interval_s = interval_s
        self._engine = engine_beside(calls.connections.engine)
        self._begin()
        in_child(self._begin)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stopped = threading.Event()
        self._generation = self._calls.connections.generation
        self._sent: tuple[int, str, str] | None = None

    def start(self) -> None:
        """Poll from now on, for as long as somebody waits."""
        if not self._is_running():
            with self._lock:
                if not self._is_running() and not self._stopped.is_set():
                    self._thread = threading.Thread(target=self._run, name="sessions-db-poll", daemon=True)
                    self._thread.start()

    def _is_running(self) -> bool:
        # An exception may have kept it from starting.
        return (thread := self._thread) is not None and thread.is_alive()

    def stop(self) -> None:
        """Poll no more."""
        self._stopped.set()
        with self._lock:
            thread = self._thread
        if thread is not None and thread.is_alive() and thread is not threading.current_thread():
            thread.join(_PATIENCE_S)

    def _run(self) -> None:
        waited_at = time.monotonic()
        while not self._stopped.wait(self._interval_s):
            if self.board.entries:
                self._poll_for_all()
                waited_at = time.monotonic()
            elif time.monotonic() - waited_at > _STAYS_S and self._is_over():
                return
        self._close()

    def _is_over(self) -> bool:
        with self._lock:
            # Before it looks at the board: whoever is entered later finds no thread, and starts another.
            self._thread = None
            if self.board.entries:
                self._thread = threading.current_thread()
                return False
            self._close()
            return True

    def _poll_for_all(self) -> None:
        try:
            self._poll()
        except Exception as error:  # noqa: BLE001  # raised where it is waited for
            _log.warning("Waiting ends with an error, for all that wait: %s", error)
            # Its traceback would keep this frame alive with whoever keeps the error.
            self.board.fail(error.with_traceback(None))

    def _poll(self) -> None:
        connections = self._calls.connections
        if self._engine is not None and self._generation != connections.generation:
            # The manager's connections were replaced: this one may lead to a server that was demoted, too.
            self._generation = connections.generation
            self._engine.dispose()
        retry = self._calls.retry()
        retry.run(lambda: self._attempt(retry))

    def _attempt(self, retry: Retry) -> None:
        if self._stopped.is_set():
            return
        if self._engine is None:
            with self._calls.connection(retry, writing=False) as conn:
                self._ask(conn)
                return
        engine = self._engine
        with retry.connect(engine.connect) as conn:
            # Before the board is read: what is committed after this is found next time, and what was committed before
            # it, by the waiters who enter later.
            version = self._calls.backend.data_version(conn)
            if version is None or conn.info.get(_VERSION) != version:
                self._ask(conn)
                conn.info[_VERSION] = version

    def _ask(self, conn: Connection) -> None:
        version, seen = self.board.asked()
        if self._sent is None or self._sent[0] != version:
            self._sent = version, json.dumps([*seen]), json.dumps(seen)
        self.board.found(changes(conn, *self._sent[1:]))

    def _close(self) -> None:
        if self._engine is not None:
            self._engine.dispose()

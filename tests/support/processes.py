"""Separate processes, forked from one that has imported what they need and has no threads or connections."""

from __future__ import annotations

import multiprocessing
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier, Event
from threading import BrokenBarrierError
from types import TracebackType
from typing import ParamSpec, Self, TypeVar

from tests.support.writer import Over, Receipt, Task, write

_P = ParamSpec("_P")
_T = TypeVar("_T")

# Starting an interpreter and importing everything takes half a second, a fork some milliseconds (measured once).
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    ["__main__", "alembic.command", "psycopg", "pytest", "sqlalchemy.dialects.postgresql", __name__]
)

# Far longer than anything here takes: a process that hangs fails its test.
_PATIENCE_S = 300


class Writer:
    """A process that writes, and what it has reported of its task so far."""

    def __init__(self, url: str, agent_id: str, work: Callable[[Connection, str, str], None] = write) -> None:
        self._pipe, theirs = _context.Pipe()
        self._process = _context.Process(target=work, args=(theirs, url, agent_id), daemon=True)
        self._process.start()
        theirs.close()
        self._told = threading.Condition()
        self._listener: threading.Thread | None = None
        self._is_gone = False
        self.receipts: list[list[Receipt]] = []
        """The outcome of each acknowledged operation, in order."""
        self.over: Over | None = None
        """How the task ended; None while it is running, or if the process ended with it."""

    def begin(self, task: Task) -> None:
        """Let it do the task until `stop`, `kill` or an error."""
        self.receipts, self.over = [], None
        self._listener = threading.Thread(target=self._listen)
        self._listener.start()
        self._pipe.send(task)

    def wait_for(self, operations: int) -> None:
        """Wait until this many operations of the task are acknowledged."""
        with self._told:
            done = self._told.wait_for(
                lambda: len(self.receipts) >= operations or self.over is not None or self._is_gone, _PATIENCE_S
            )
        assert done, "the writer hangs"
        assert len(self.receipts) >= operations, f"the writer gave up: {self.over}"

    def stop(self) -> Over:
        """End the task after the current operation, if it has not ended."""
        self._pipe.send("stop")
        self._join_listener()
        assert self.over is not None, "the writer has died"
        return self.over

    def kill(self) -> None:
        """Kill the process wherever it is. What it has already reported is still read."""
        self._process.kill()
        self.close()
        assert self._process.exitcode == -signal.SIGKILL, "the writer had ended before it was killed"
        assert self.over is None, f"the writer had given up before it was killed: {self.over}"

    def finish(self) -> None:
        """Let the process end by itself."""
        self._pipe.send(None)
        self._process.join(_PATIENCE_S)
        assert self._process.exitcode == 0
        self.close()

    def close(self) -> None:
        """Leave no process or thread behind, whatever happened."""
        self._process.kill()
        self._process.join(_PATIENCE_S)
        self._join_listener()
        self._pipe.close()

    def _join_listener(self) -> None:
        if self._listener is not None:
            self._listener.join(_PATIENCE_S)
            assert not self._listener.is_alive(), "the writer hangs"

    def _listen(self) -> None:
        while self.over is None:
            try:
                told = self._pipe.recv()
            except (EOFError, OSError):  # the process is gone, perhaps in the middle of a message
                with self._told:
                    self._is_gone = True
                    self._told.notify_all()
                return
            with self._told:
                if isinstance(told, Over):
                    self.over = told
                else:
                    self.receipts.append(told)
                self._told.notify_all()


class Processes:
    """A number of processes, each of which does one submitted piece of work; they meet in `together`."""

    def __init__(self, number: int) -> None:
        self._over = _context.Event()
        self._barrier = _context.Barrier(number)
        self._executor = ProcessPoolExecutor(
            number, mp_context=_context, initializer=_initialize, initargs=(self._barrier, self._over)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over.set()
        if error is not None:
            self._barrier.abort()
        self._executor.shutdown()

    def submit(self, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """The outcome of this work in a process of its own."""
        return self._executor.submit(_work, partial(work, *args, **kwargs))

    def end(self) -> None:
        """Make `over` true, for those that keep going until then."""
        self._over.set()


def results(futures: list[Future[_T]]) -> list[_T]:
    """The results of all. Raises everything that any of them raised."""
    errors = [error for future in futures if (error := future.exception(_PATIENCE_S)) is not None]
    # Processes that wait for one that has failed only report a broken barrier.
    errors = [error for error in errors if not isinstance(error, BrokenBarrierError)] or errors
    if errors:
        raise BaseExceptionGroup("processes have failed", errors)
    return [future.result() for future in futures]


_barrier: Barrier
_over: Event


def _initialize(barrier: Barrier, over_: Event) -> None:
    global _barrier, _over
    _barrier, _over = barrier, over_


def _work(work: Callable[[], _T]) -> _T:
    try:
        return work()
    except BaseException:
        _barrier.abort()
        raise


def together() -> None:
    """In one of the processes: wait until all the others have arrived here."""
    _barrier.wait(_PATIENCE_S)


def over() -> bool:
    """In one of the processes: whether the others are done."""
    return _over.is_set()

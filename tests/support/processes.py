"""Processes of their own, forked from one that has imported what they need and has no thread and no connection."""

from __future__ import annotations

import multiprocessing
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from functools import partial
from multiprocessing.synchronize import Barrier, Event
from threading import BrokenBarrierError
from types import TracebackType
from typing import ParamSpec, Self, TypeVar

from tests.support.writer import Over, Receipt, Task, write

_P = ParamSpec("_P")
_T = TypeVar("_T")

# To start an interpreter and import everything takes half a second, to fork this process some milliseconds.
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    ["__main__", "alembic.command", "psycopg", "pytest", "sqlalchemy.dialects.postgresql", __name__]
)

# Far beyond what anything here takes: a process that hangs fails its test.
_PATIENCE_S = 300


class Writer:
    """A process that writes, and what it has told so far of its task."""

    def __init__(self, url: str, agent_id: str) -> None:
        self._pipe, theirs = _context.Pipe()
        self._process = _context.Process(target=write, args=(theirs, url, agent_id), daemon=True)
        self._process.start()
        theirs.close()
        self._told = threading.Condition()
        self._listener: threading.Thread | None = None
        self._is_gone = False
        self.receipts: list[list[Receipt]] = []
        """What came of each operation that was acknowledged, in order."""
        self.over: Over | None = None
        """How the task came to its end; None while it goes on, and where the process ended with it."""

    def begin(self, task: Task) -> None:
        """Have it do the task, until `stop`, `kill` or an error."""
        self.receipts, self.over = [], None
        self._listener = threading.Thread(target=self._listen)
        self._listener.start()
        self._pipe.send(task)

    def wait_for(self, operations: int) -> None:
        """Wait until so many operations of the task are acknowledged."""
        with self._told:
            done = self._told.wait_for(
                lambda: len(self.receipts) >= operations or self.over is not None or self._is_gone, _PATIENCE_S
            )
        assert done, "the writer hangs"
        assert len(self.receipts) >= operations, f"the writer gave up: {self.over}"

    def stop(self) -> Over:
        """End the task after the operation that is under way, if it has not ended."""
        self._pipe.send("stop")
        self._join_listener()
        assert self.over is not None, "the writer has died"
        return self.over

    def kill(self) -> None:
        """End the process wherever it is. What it had told before is still read."""
        self._process.kill()
        self.close()
        assert self._process.exitcode == -signal.SIGKILL, "the writer had ended before it was killed"
        assert self.over is None, f"the writer had given up before it was killed: {self.over}"

    def finish(self) -> None:
        """Have the process end by itself."""
        self._pipe.send(None)
        self._process.join(_PATIENCE_S)
        assert self._process.exitcode == 0
        self.close()

    def close(self) -> None:
        """Leave no process and no thread behind, whatever came between."""
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
            except (EOFError, OSError):  # the process is gone, perhaps amid a message
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
    """So many processes, each of which does one thing that is submitted; those meet in `together`."""

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
        """What comes of this work in a process of its own."""
        return self._executor.submit(_work, partial(work, *args, **kwargs))

    def end(self) -> None:
        """Have `over` say so to those that go on until it does."""
        self._over.set()


def results(futures: list[Future[_T]]) -> list[_T]:
    """What they all give. Raises what any of them raised, all of it."""
    errors = [error for future in futures if (error := future.exception(_PATIENCE_S)) is not None]
    # Those that wait for one that has failed say only that it does not come.
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
    """In one of the processes: wait until all that are to meet have come here."""
    _barrier.wait(_PATIENCE_S)


def over() -> bool:
    """In one of the processes: whether the others are through."""
    return _over.is_set()

"""Appends of tasks: while they wait for their turn, they occupy no thread."""

from __future__ import annotations

import asyncio
import time
from asyncio import AbstractEventLoop, Future, TimerHandle
from collections import deque
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple, ParamSpec, TypeVar, cast
from weakref import WeakKeyDictionary

from sessions_db.aio.threads import Threads, ThreadsShut, Wakeups
from sessions_db.database.semaphores import Token
from sessions_db.errors import ManagerClosed
from sessions_db.group_commit.lanes import Answer, Waiting
from sessions_db.limits import DEFAULT_MESSAGE_CAP
from sessions_db.manager import SessionManager
from sessions_db.models import Message
from sessions_db.operations.appending_together import Append
from sessions_db.operations.locking import IfLocked
from sessions_db.operations.operation import Operation
from sessions_db.store import SessionStore

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Checked(NamedTuple):
    """A call that appends to a session, whose arguments are checked (the key first), and which is still to be run."""

    operation: Operation[Any, Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def run(self, manager: SessionManager) -> object:
        """What the call returns."""
        stored = manager._run(self.operation, *self.args, **self.kwargs)  # noqa: SLF001  # not for the manager's users
        manager._appended(self.args[0])  # noqa: SLF001
        return stored


class Checking(SessionStore):
    """Checks the arguments of a call, as every store does, and returns what is to be done."""

    def __init__(self) -> None:
        super().__init__(message_cap=DEFAULT_MESSAGE_CAP, archive_trimmed=False, actor=None)

    def _run(self, operation: Operation[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        return cast(_T, Checked(operation, args, kwargs))

    def _append(self, new: Append) -> list[Message]:
        return cast(list[Message], [new])


class Appends:
    """The appends of an `AsyncSessionManager`.

    Args:
        manager: stores them.
        writers: the threads for appends to sessions that others have locked.
    """

    def __init__(self, manager: SessionManager, writers: Threads) -> None:
        self.group_commit = manager._group_commit  # noqa: SLF001  # not for the manager's users
        self.writers = writers
        self._board = manager._board  # noqa: SLF001
        # Threads of their own: a group never waits behind other calls for a thread.
        self.groups = Threads(self.group_commit.groups_at_once, "sessions-db-group")
        self._mailboxes: WeakKeyDictionary[AbstractEventLoop, _Mailbox] = WeakKeyDictionary()

    async def append(self, new: Append) -> list[Message]:
        """The stored messages."""
        loop = asyncio.get_running_loop()
        if (mailbox := self._mailboxes.get(loop)) is None:
            mailbox = self._mailboxes[loop] = _Mailbox(self.group_commit.budget_s)
        waiting = _WaitingTask(new, self, mailbox, loop.create_future())
        waiting.lane = self.group_commit.lane_of(new)
        mailbox.expect(waiting)
        try:
            await waiting.delivered
        except asyncio.CancelledError as error:
            waiting.delivered = loop.create_future()
            while waiting.answer is None and not waiting.withdraw(error):
                with suppress(asyncio.CancelledError):
                    await asyncio.wait([waiting.delivered])
            raise
        answer = waiting.answer
        if isinstance(answer, BaseException):
            raise answer
        self._board.appended(new.key)
        return cast(list[Message], answer)

    def close(self) -> None:
        """Let all appends that wait come to their end."""
        for mailbox in [*self._mailboxes.values()]:
            # Its event loop may have stopped.
            mailbox.enter()
        self.group_commit.finish()
        self.groups.shutdown()


class _WaitingTask(Waiting):
    __slots__ = ("_appends", "answer", "delivered")
    woken_with: _Mailbox

    def __init__(self, append: Append, appends: Appends, mailbox: _Mailbox, delivered: Future[None]) -> None:
        super().__init__(append, woken_with=mailbox)
        self.answer: Answer | None = None
        self.delivered = delivered
        self._appends = appends

    def put(self, token: Token, /) -> None:
        appends = self._appends
        is_aside = self.lane.if_locked is not IfLocked.SKIP
        threads = appends.writers if is_aside else appends.groups
        try:
            threads.submit(partial(self._lead, token))
        except ThreadsShut:  # as at the end of the process
            self.lane.clear(ManagerClosed)
            self.deliver(ManagerClosed())
            self.wake()

    def deliver(self, answer: Answer) -> None:
        if self.answer is None:
            self.answer = answer
            self.woken_with.put(self)

    def wake(self) -> None:
        self.woken_with.send(self.delivered.get_loop())

    def resume(self) -> None:
        if not self.delivered.done():
            self.delivered.set_result(None)

    def _lead(self, token: Token) -> None:
        try:
            self._appends.group_commit.lead(self, token)
        except BaseException as error:  # noqa: BLE001  # raised where the answer is awaited
            self.deliver(error)
            self.wake()


class _Mailbox(Wakeups):
    """Between the tasks of one event loop and the lanes.

    The appends of all tasks that are ready to run enter their lanes together, so that none of them is a group of its
    own. The tasks of a group are woken together, and those that have waited too long.
    """

    def __init__(self, budget_s: float) -> None:
        super().__init__()
        self._budget_s = budget_s
        self._leaving: deque[_WaitingTask] = deque()
        self._enters = False
        self._expected: deque[_WaitingTask] = deque()
        self._timer: TimerHandle | None = None

    def enter(self) -> None:
        """Have what was expected wait for its turn. Any thread may call it."""
        self._enters = False
        with suppress(IndexError):
            while True:
                waiting = self._leaving.popleft()
                waiting.lane.enter(waiting)

    def expect(self, waiting: _WaitingTask) -> None:
        """Give the append its budget, and have it enter its lane once all tasks that are ready have run."""
        self._leaving.append(waiting)
        if not self._enters:
            self._enters = True
            waiting.delivered.get_loop().call_soon(self.enter)
        while self._expected and self._expected[0].answer is not None:
            self._expected.popleft()
        self._expected.append(waiting)
        if self._timer is None:
            self._set_timer(self._budget_s)

    def _set_timer(self, seconds: float) -> None:
        loop = self._expected[0].delivered.get_loop()
        self._timer = loop.call_later(seconds, self._end_overdue)

    def _end_overdue(self) -> None:
        self._timer = None
        now = time.monotonic()
        while self._expected:
            waiting = self._expected[0]
            left_s = waiting.began + self._budget_s - now
            if waiting.answer is None and left_s > 0:
                self._set_timer(left_s)
                return
            self._expected.popleft()
            if waiting.answer is None and waiting.withdraw(timed_out := waiting.timed_out()):
                waiting.deliver(timed_out)
                waiting.wake()

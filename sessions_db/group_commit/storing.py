"""Storing appends, alone or in groups."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import Final

from sqlalchemy import Connection, exc

from sessions_db.calls import Calls
from sessions_db.database.fork import in_child
from sessions_db.database.retry import Retry, run_since
from sessions_db.database.semaphores import FairSemaphore, Token
from sessions_db.errors import DatabaseUnavailable, ReadOnly, SessionsError
from sessions_db.group_commit.lanes import Answer, Group, Lane, Waiting, parts, with_different_keys
from sessions_db.models import Message
from sessions_db.operations.appending import SessionLocked, append
from sessions_db.operations.appending_together import Append, append_together
from sessions_db.operations.locking import IfLocked

_LEFT: Final = DatabaseUnavailable("nobody waits for its answer", 0.0)


class _WaitingThread(Waiting):
    __slots__ = ("_has_left", "inbox")

    def __init__(self, append: Append) -> None:
        super().__init__(append, woken_with=None)
        self.inbox: SimpleQueue[Token | Answer] = SimpleQueue()
        self._has_left = False

    def put(self, token: Token, /) -> None:
        self.inbox.put(token)
        if self._has_left:
            self._empty()

    def deliver(self, answer: Answer) -> None:
        self.inbox.put(answer)

    def wake(self) -> None:
        """Do nothing: `deliver` has woken it."""

    def leave(self) -> None:
        """Wait no longer; a token that is on its way is returned."""
        self._has_left = True
        # Not for the exception that ended the wait. Its traceback refers to this object and may hold the token, which
        # would be taken until the garbage collector finds the cycle.
        self.withdraw(_LEFT)
        self._empty()

    def _empty(self) -> None:
        with suppress(Empty):
            while True:
                self.inbox.get_nowait()


class GroupCommit:
    """The appends of a manager's threads and tasks.

    A session's appends all wait in the same lane, so no two groups ever hold the same session.
    """

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self.groups_at_once = calls.backend.groups_at_once
        self.budget_s = calls.retry_budget_s
        self._begin()
        # The threads that wait or store stay in the parent process.
        in_child(self._begin)

    def _begin(self) -> None:
        shared = Lane(IfLocked.WAIT_BRIEFLY)
        self._lanes = [Lane(IfLocked.SKIP, shared) for _ in range(self.groups_at_once)]
        # Statements that wait for locked sessions leave connections to those that do not.
        size = self._calls.connections.status().size
        self._may_wait = None if size is None else FairSemaphore(max(1, size - self.groups_at_once))

    @property
    def waiting(self) -> int:
        """How many appends wait for their turn."""
        return sum(lane.waiting for lane in set().union(*(lane.with_aside() for lane in self._lanes)))

    def append(self, new: Append) -> list[Message]:
        """The stored messages.

        Raises:
            SessionsError: they were not stored; or, if `outcome_unknown`, perhaps.
        """
        lane = self.lane_of(new)
        began = time.monotonic()
        if (token := lane.try_acquire()) is None:
            waiting = _WaitingThread(new)
            waiting.lane = lane
            return self._outcome(waiting, lane.enter)
        try:
            if (stored := self._at_once(lane, new)) is not None:
                return stored
            waiting = _WaitingThread(new)
            waiting.began = began
            lane.enter_aside(waiting)
        finally:
            lane.release(token)
        return self._outcome(waiting)

    def finish(self) -> None:
        """Wait until no append waits or is being stored."""
        while not all(lane.is_unused for lane in self._lanes):
            time.sleep(0.001)

    def lead(self, leader: Waiting, token: Token) -> None:
        """Store a group, the leader's append first.

        Raises:
            SessionsError: the leader's append was not stored. The others still wait.
        """
        lane = leader.lane
        retry = run_since(leader.began, self._calls.retry)
        try:
            if lane.has_aside(leader.append):
                lane.enter_aside(leader)
            else:
                retry.run(partial(self._store, lane, leader, retry))
        finally:
            lane.release(token)

    def lane_of(self, new: Append) -> Lane:
        """Where it waits for its turn."""
        if self._calls.read_only:
            raise ReadOnly
        lanes = self._lanes
        return lanes[hash(new.key) % len(lanes)]

    def _at_once(self, lane: Lane, new: Append) -> list[Message] | None:
        """The stored messages; None if they have to wait for the lock of their session."""
        if lane.has_aside(new):
            return None
        try:
            stored = self._calls.run(append, new, if_locked=IfLocked.SKIP)
        except SessionLocked:
            return None
        lane.refusal = None
        return stored

    def _outcome(self, waiting: _WaitingThread, enter: Callable[[Waiting], None] | None = None) -> list[Message]:
        is_claimed = False
        try:
            if enter is not None:
                enter(waiting)
            while True:
                left_s = None if is_claimed else max(0.0, waiting.began + self.budget_s - time.monotonic())
                try:
                    answer = waiting.inbox.get(timeout=left_s)
                except Empty:
                    if waiting.withdraw(timed_out := waiting.timed_out()):
                        raise timed_out from None
                    # A group has it.
                    is_claimed = True
                    continue
                if isinstance(answer, Token):
                    self.lead(waiting, answer)
                elif isinstance(answer, BaseException):
                    raise answer  # noqa: TRY301  # the handler below ends the wait, whatever the reason
                else:
                    return answer
        except BaseException:
            waiting.leave()
            raise

    def _store(self, lane: Lane, leader: Waiting, retry: Retry) -> None:
        with self._place(lane, retry), self._calls.connection(retry, writing=True) as conn:
            group = Group(lane, leader)
            try:
                if leader.claim(group.claimant):
                    group.fill()
                    retry.sent = True
                    _Storing(self._calls, conn, group, retry).run()
            finally:
                try:
                    group.close()
                finally:
                    # A signal handler's exception may have interrupted it.
                    group.close()

    @contextmanager
    def _place(self, lane: Lane, retry: Retry) -> Iterator[None]:
        """Have the block be one of those that may wait for locked sessions at the same time, if the lane does."""
        semaphore = None if lane.if_locked is IfLocked.SKIP else self._may_wait
        if semaphore is None:
            yield
            return
        if (token := semaphore.acquire(timeout=retry.budget.left_s)) is None:
            raise DatabaseUnavailable("too many sessions are locked by other transactions", retry.budget.spent_s)
        try:
            yield
        finally:
            semaphore.release(token)


class _Storing:
    """Stores a group: by one statement, and by one for each that this statement left out."""

    def __init__(self, calls: Calls, conn: Connection, group: Group, retry: Retry) -> None:
        self._calls = calls
        self._conn = conn
        self._group = group
        self._retry = retry
        self._if_locked = group.lane.if_locked
        if self._if_locked is IfLocked.WAIT_BRIEFLY and not calls.backend.waits_briefly(conn):
            self._if_locked = IfLocked.SKIP

    def run(self) -> None:
        """Store what can be stored.

        Raises:
            SQLAlchemyError: the leader's append was rolled back and may be repeated.
        """
        group = self._group
        for members in parts(with_different_keys(group.members)):
            # In the order of the calls: nothing goes past one that waits for the lock.
            part = [waiting for waiting in members if waiting.append.key not in group.locked]
            # One alone goes the way below: its idempotency key may be stored by someone else at this moment.
            if len(part) > 1 and not self._sent(part, self._together):
                return
            if not self._sent_each(part):
                return
        self._sent_each(group.members)

    def _sent_each(self, members: Sequence[Waiting]) -> bool:
        """Send those by themselves that have no answer; whether the connection is of further use."""
        group = self._group
        return all(
            self._sent_alone(waiting)
            for waiting in members
            if waiting not in group.answers and waiting.append.key not in group.locked
        )

    def _sent_alone(self, waiting: Waiting) -> bool:
        """Send it by itself; whether the connection is of further use."""
        was = self._if_locked
        is_usable = self._sent([waiting], self._alone)
        if self._if_locked is not was and is_usable:
            # It has waited for its lock in vain.
            return self._sent([waiting], self._alone)
        return is_usable

    def _together(self, members: Sequence[Waiting]) -> dict[Waiting, Answer]:
        appends = [waiting.append for waiting in members]
        rows = [row for waiting in members for row in waiting.rows]
        stored = append_together(self._conn, appends, rows, if_locked=self._if_locked)
        return {waiting: messages for waiting, messages in zip(members, stored, strict=True) if messages is not None}

    def _alone(self, members: Sequence[Waiting]) -> dict[Waiting, Answer]:
        (waiting,) = members
        try:
            return {waiting: append(self._conn, waiting.append, if_locked=self._if_locked)}
        except SessionLocked:
            self._group.locked.add(waiting.append.key)
            return {}

    def _sent(
        self,
        members: Sequence[Waiting],
        send: Callable[[Sequence[Waiting]], dict[Waiting, Answer]],
    ) -> bool:
        """Note the answers of the members; whether the connection is of further use."""
        answers = self._group.answers
        self._group.sent = members
        try:
            stored = send(members)
            self._calls.commit(self._conn)
            answers.update(stored)
            self._group.lane.refusal = None
        except exc.DBAPIError as error:
            if isinstance(self._retry.translated(error), DatabaseUnavailable):
                self._group.lane.refusal = self._retry.reason_of(error), time.monotonic()
            if self._if_locked is IfLocked.WAIT_BRIEFLY and self._calls.backend.is_lock_timeout(error):
                # Some of the sessions are locked for long: from now on, find out which.
                self._if_locked = IfLocked.SKIP
                for waiting in members:
                    waiting.hindrance = self._retry.reason_of(error)
            elif self._retry.may_repeat(error):
                self._group.sent = ()
                if self._group.leader not in answers:
                    raise
                return False
            elif (is_lost := self._calls.backend.is_lost(error)) or len(members) == 1:
                answers.update((waiting, self._retry.translated(error)) for waiting in members)
                if is_lost:
                    return False
            # Otherwise somebody's trigger or constraint refused one of them: each is sent by itself.
        except SessionsError as error:
            # Its traceback leads through this thread's frames. Whoever keeps the error would keep them, and with them
            # the token and the appends of others.
            answers.update((waiting, error.with_traceback(None)) for waiting in members)
        self._group.sent = ()
        return True

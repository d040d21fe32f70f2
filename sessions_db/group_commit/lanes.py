"""Who waits for which turn, and which appends go together."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, Final, TypeAlias

from sessions_db.database.semaphores import FairSemaphore, Token
from sessions_db.errors import DatabaseUnavailable, SessionsError
from sessions_db.limits import MAX_GROUP_LENGTH, MAX_GROUP_MESSAGES
from sessions_db.models import Message
from sessions_db.operations.appending_together import SENT, Append
from sessions_db.operations.locking import IfLocked
from sessions_db.operations.message_rows import length_of

Answer: TypeAlias = list[Message] | BaseException
"""The stored messages of an append, or why there are none."""

# For how long appends to a session that was found locked wait for its lock apart from the others, before they are
# stored together with those of sessions that are not locked again.
_ASIDE_S: Final = 1.0

# The owner of those that are withdrawn.
_NOBODY: Final = object()


class Waiting(ABC):
    """An append that waits in a lane, for someone who waits for its answer."""

    # Many are there at once, and each object in its dictionary would be one more for the garbage collector to visit.
    __slots__ = ("_claim", "_rows", "_withdrawn_for", "append", "began", "hindrance", "lane", "woken_with")
    lane: Lane

    def __init__(self, append: Append, *, woken_with: object) -> None:
        """One `wake` wakes all that have the same `woken_with`."""
        self.append = append
        self.woken_with = woken_with
        self.began = time.monotonic()
        self._rows: list[list[Any]] | None = None
        # Whoever comes first decides what becomes of it: the group that stores it, or who no longer waits for it. A
        # dictionary, because `setdefault` looks and sets in one step.
        self._claim: dict[str, object] = {}
        self._withdrawn_for: BaseException | None = None
        self.hindrance: str | None = None

    @abstractmethod
    def put(self, token: Token, /) -> None:
        """Store a group, this append first: it is its turn."""

    @abstractmethod
    def deliver(self, answer: Answer) -> None:
        """Hand over the answer. Called again, it does nothing."""

    @abstractmethod
    def wake(self) -> None:
        """Wake who waits for what was delivered, unless `deliver` does: all tasks of an event loop at once."""

    def claim(self, owner: object) -> bool:
        """Whether the owner has claimed it before anybody else."""
        return self._claim.setdefault("owner", owner) is owner

    def unclaim(self) -> bool:
        """Let it be claimed anew; False if it was withdrawn in the meantime."""
        self._claim.clear()
        if self._withdrawn_for is not None and self.claim(_NOBODY):
            self.deliver(self._withdrawn_for)
            self.wake()
            return False
        return True

    def withdraw(self, reason: BaseException) -> bool:
        """Whether it will never be stored. If a group has claimed it and does not store it, the reason is delivered."""
        self._withdrawn_for = reason
        return self.claim(_NOBODY)

    def timed_out(self) -> DatabaseUnavailable:
        """The error for one that waited too long."""
        waited_s = time.monotonic() - self.began
        reason = self.hindrance or self.lane.refusal_since(self.began - waited_s)
        return DatabaseUnavailable(reason or "other appends of this process come first", waited_s)

    @property
    def rows(self) -> list[list[Any]]:
        """Its messages as `append_together` sends them."""
        if self._rows is None:
            self._rows = self.append.rows()
        return self._rows

    @property
    def length(self) -> int:
        """Characters of its messages."""
        return length_of(SENT, self.rows)


class Lane(FairSemaphore):
    """Appends that are stored one group after the other. Who has the one token stores the next group.

    A session that is found locked has its appends wait in a lane aside: with those of other such sessions, and one that
    is locked for long in a lane of its own.

    Args:
        if_locked: what its statements do with sessions that other transactions have locked.
        shared: where the appends to sessions that are found locked wait (default: each session has a lane of its own).
    """

    def __init__(self, if_locked: IfLocked, shared: Lane | None = None) -> None:
        super().__init__(1)
        self.if_locked = if_locked
        # Why the database refused the lane's last statement, and when, if it did.
        self.refusal: tuple[str, float] | None = None
        self._shared = shared
        # The lanes of sessions that were found locked, and when. Only who has the token uses it.
        self._aside: dict[str, tuple[Lane, float]] = {}

    def refusal_since(self, moment: float) -> str | None:
        """Why the database refused the lane's last statement, if it did, and not before this moment."""
        refusal = self.refusal
        return None if refusal is None or refusal[1] < moment else refusal[0]

    # Only who has the token may call these. So the appends to a session stay in their order.

    def has_aside(self, append: Append) -> bool:
        """Whether its session has another lane, because it was found locked."""
        aside = self._aside.get(append.key) if self._aside else None
        if aside is not None and _is_over(aside):
            del self._aside[append.key]
            return False
        return aside is not None

    def enter_aside(self, waiting: Waiting) -> None:
        """Have it wait in the lane for its session, which was found locked."""
        aside = self._aside.get(waiting.append.key)
        if aside is None:
            # Nobody else would drop those of sessions to which nothing more is appended.
            self._aside = {key: other for key, other in self._aside.items() if not _is_over(other)}
            aside = self._aside[waiting.append.key] = self._shared or Lane(IfLocked.WAIT), time.monotonic()
        waiting.lane, _ = aside
        waiting.lane.enter(waiting)

    def next(self) -> Waiting | None:
        """Take out what has waited longest."""
        try:
            return self._waiters.popleft()  # type: ignore[return-value]
        except IndexError:
            return None

    def put_back(self, waiting: Waiting) -> None:
        """Have it wait first."""
        self._waiters.appendleft(waiting)

    def clear(self, reason: type[SessionsError]) -> None:
        """Refuse all that wait."""
        while (waiting := self.next()) is not None:
            if waiting.withdraw(error := reason()):
                waiting.deliver(error)
                waiting.wake()

    def with_aside(self) -> set[Lane]:
        """Itself, and the lanes of its sessions."""
        # A list is made in one step, also while another thread adds a lane.
        return {self}.union(*(lane.with_aside() for lane, _ in [*self._aside.values()]))

    @property
    def is_unused(self) -> bool:
        """Whether nothing waits in it or is being stored, nor in the lanes of its sessions."""
        # In this order: what it sets aside is then seen there.
        return not (self.taken or self.waiting) and all(lane.is_unused for lane, _ in [*self._aside.values()])


def _is_over(aside: tuple[Lane, float]) -> bool:
    """Whether the session has been aside for long enough, and its lane is unused."""
    lane, since = aside
    return time.monotonic() - since > _ASIDE_S and lane.is_unused


class Group:
    """Appends that are stored together, in their order: at first only that of the one whose turn it is.

    What becomes of each is in `answers`; `close` hands them over.
    """

    def __init__(self, lane: Lane, leader: Waiting) -> None:
        self.lane = lane
        self.leader = leader
        # In place of the group, which refers to its members: with what they refer to, they would be a cycle for the
        # garbage collector to find.
        self.claimant: Final = object()
        self.members = [leader]
        self.answers: dict[Waiting, Answer] = {}
        self.locked: set[str] = set()
        # Those that are being stored at this moment. They are never put back: nobody knows whether they are stored.
        self.sent: Sequence[Waiting] = ()

    def __del__(self) -> None:
        # An exception has interrupted `close`.
        self.close()

    def fill(self) -> None:
        """Add those that wait in the lane, as many as fit."""
        messages, length = len(self.leader.append.messages), 0
        while (waiting := self.lane.next()) is not None:
            # Before it is claimed: if an exception interrupts this, `close` puts it back.
            self.members.append(waiting)
            if not waiting.claim(self.claimant):
                self.members.pop()
                continue
            messages += len(waiting.append.messages)
            length = (length or self.leader.length) + waiting.length
            is_full = messages > MAX_GROUP_MESSAGES or length > MAX_GROUP_LENGTH
            if is_full or self.lane.has_aside(waiting.append):
                self.members.pop()
                if waiting.unclaim():
                    self.lane.put_back(waiting) if is_full else self.lane.enter_aside(waiting)
                if is_full:
                    return

    def close(self) -> None:
        """Hand over the answers; members without one wait again, first, or for the lock of their session.

        But not the leader: it decides itself whether to lead again. Called again, it goes on where it was interrupted.
        """
        for waiting in self.sent:
            if waiting is not self.leader:
                self.answers.setdefault(waiting, _interrupted())
        mine = [waiting for waiting in self.members if waiting.claim(self.claimant)]
        open_again = []
        for waiting in mine:
            if (answer := self.answers.get(waiting)) is not None:
                waiting.deliver(answer)
            elif waiting.append.key in self.locked:
                if waiting.unclaim():
                    self.lane.enter_aside(waiting)
            else:
                open_again.append(waiting)
        for waiting in {waiting.woken_with: waiting for waiting in mine}.values():
            waiting.wake()
        for waiting in reversed(open_again):
            if waiting.unclaim() and waiting is not self.leader:
                self.lane.put_back(waiting)
        self.members = []


def _interrupted() -> DatabaseUnavailable:
    return DatabaseUnavailable("the thread that stored the message was interrupted", 0.0, outcome_unknown=True)


def parts(members: Sequence[Waiting]) -> Iterator[Sequence[Waiting]]:
    """The members, in their order, in parts that can be stored together: one with an expected count is alone."""
    part: list[Waiting] = []
    for waiting in members:
        if waiting.append.expected_count is None:
            part.append(waiting)
            continue
        if part:
            yield part
            part = []
        yield [waiting]
    if part:
        yield part


def with_different_keys(members: Sequence[Waiting]) -> list[Waiting]:
    """The members without those whose idempotency key one before them has."""
    seen: set[tuple[str, str]] = set()
    different = []
    for waiting in members:
        idempotency_key = waiting.append.idempotency_key
        if idempotency_key is not None:
            if (waiting.append.key, idempotency_key) in seen:
                continue
            seen.add((waiting.append.key, idempotency_key))
        different.append(waiting)
    return different

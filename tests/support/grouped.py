"""Group commit forced: no append goes alone, and each group has one more member, which must fail by itself.

`SESSIONS_DB_TEST_GROUPED=1` runs any of the tests so, and the processes that they start from this package.
"""

from __future__ import annotations

import os
from typing import Final

from sessions_db import Message, NewMessage, SessionsError
from sessions_db.database.semaphores import Token
from sessions_db.group_commit.lanes import Answer, Group, Waiting
from sessions_db.group_commit.storing import GroupCommit, _WaitingThread
from sessions_db.operations.appending_together import Append

GROUPED: Final = os.environ.get("SESSIONS_DB_TEST_GROUPED") == "1"

_NOBODY: Final = Append("agent:nobody:partner", [NewMessage("user", "To nobody")])

wrong_answers: list[Answer] = []
"""What the partners were told since this was emptied, other than that they failed."""

_fill = Group.fill


class _Partner(Waiting):
    """An append to a session that does not exist. It waits for nothing, so nothing has to be put back."""

    def put(self, token: Token, /) -> None:
        raise AssertionError(self)

    def deliver(self, answer: Answer) -> None:
        if not isinstance(answer, SessionsError):
            wrong_answers.append(answer)

    def wake(self) -> None:
        pass

    def unclaim(self) -> bool:
        return False


def _fill_with_partner(group: Group) -> None:
    _fill(group)
    partner = _Partner(_NOBODY, woken_with=None)
    assert partner.claim(group.claimant)
    # First, so that none of the others is the first row of the statement.
    group.members.insert(0, partner)


def _append(self: GroupCommit, new: Append) -> list[Message]:
    waiting = _WaitingThread(new)
    lane = waiting.lane = self.lane_of(new)
    return self._outcome(waiting, lane.enter)


def force() -> None:
    """Have all appends of this process go with a partner from now on."""
    Group.fill = _fill_with_partner  # type: ignore[method-assign, assignment]
    GroupCommit.append = _append  # type: ignore[method-assign]

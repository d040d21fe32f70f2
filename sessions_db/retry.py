"""How long a call goes on trying, and how it waits in between."""

from __future__ import annotations

import random
import time


class RetryBudget:
    """A span of time to spend on one call's attempts, begun when this object is made."""

    _FIRST_WAIT_S = 0.01

    def __init__(self, budget_s: float, *, longest_wait_s: float = 1.0) -> None:
        self._started = time.monotonic()
        self._budget_s = budget_s
        self._longest_wait_s = longest_wait_s
        self._longest_next_s = self._FIRST_WAIT_S

    @property
    def spent_s(self) -> float:
        """Seconds since the call began."""
        return time.monotonic() - self._started

    @property
    def left_s(self) -> float:
        """Seconds that may still be spent."""
        return max(0.0, self._started + self._budget_s - time.monotonic())

    def wait(self) -> bool:
        """Sleep before the next attempt; False, at once, where the budget is spent.

        The sleep is a random part of a span that doubles, so that callers that failed together come back apart
        ("full jitter", https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).
        """
        left_s = self.left_s
        if not left_s:
            return False
        time.sleep(min(left_s, random.uniform(0, self._longest_next_s)))
        self._longest_next_s = min(self._longest_wait_s, self._longest_next_s * 2)
        return True

"""How long a call keeps trying, and how it waits between attempts."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from typing import Final, TypeVar

from sqlalchemy import exc

from sessions_db.database.backend import Backend
from sessions_db.database.translation import reason_of as text_of
from sessions_db.database.translation import translate

_T = TypeVar("_T")

_log = logging.getLogger("sessions_db")

_FIRST_WAIT_S: Final = 0.01


# When the call of this thread began, if it waited for the thread.
_waited = threading.local()


def run_since(monotonic_s: float, call: Callable[[], _T]) -> _T:
    """What the call returns; the first budget made in it counts from this time of `time.monotonic()`."""
    _waited.since = monotonic_s
    try:
        return call()
    finally:
        _waited.since = None


def _begin() -> float:
    since, _waited.since = getattr(_waited, "since", None), None
    return time.monotonic() if since is None else since


class RetryBudget:
    """The time for all attempts of one call. The clock starts when the object is created."""

    def __init__(self, budget_s: float, *, longest_wait_s: float = 1.0) -> None:
        self._started = _begin()
        self._budget_s = budget_s
        self._longest_wait_s = longest_wait_s
        self._longest_next_s = _FIRST_WAIT_S

    @property
    def spent_s(self) -> float:
        """Seconds since the call began."""
        return time.monotonic() - self._started

    @property
    def left_s(self) -> float:
        """Seconds that may still be spent."""
        return max(0.0, self._started + self._budget_s - time.monotonic())

    def wait(self) -> bool:
        """Sleep before the next attempt; False, immediately, if the budget is spent.

        The sleep is a random part of a span that doubles, so that callers that failed together retry at different
        times ("full jitter", https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).
        """
        left_s = self.left_s
        if not left_s:
            return False
        time.sleep(min(left_s, random.uniform(0, self._longest_next_s)))
        self._longest_next_s = min(self._longest_wait_s, self._longest_next_s * 2)
        return True


class Retry:
    """Retries what is known to have been rolled back, within a budget, and translates the final error.

    An attempt sets `sent` as soon as it may have sent a write: from then on it is not retried if the connection breaks.
    """

    def __init__(self, backend: Backend, budget: RetryBudget, *, password: str | None) -> None:
        self.budget = budget
        self.sent = False
        self._backend = backend
        self._password = password

    def run(self, attempt: Callable[[], _T]) -> _T:
        """What the attempt returns; it is retried while the database is known to have rolled it back.

        Raises:
            SessionsError: the budget is spent, or a retry would be unsafe or pointless.
        """
        return self._run(attempt, self._backend.is_rolled_back)

    def connect(self, attempt: Callable[[], _T]) -> _T:
        """Like `run`, for an attempt that connects."""
        return self._run(attempt, self._backend.is_transient_refusal)

    def _run(self, attempt: Callable[[], _T], is_safe: Callable[[exc.DBAPIError], bool]) -> _T:
        # Its text, not the error, which would keep this frame, and with it what the call holds, in a cycle.
        failure: str | None = None
        while True:
            self.sent = False
            try:
                result = attempt()
            except exc.SQLAlchemyError as error:
                again = isinstance(error, exc.DBAPIError) and self._may_repeat(error, is_safe)
                if not (again and self.budget.wait()):
                    raise self.translated(error) from error
                failure = self.reason_of(error)
            else:
                if failure is not None:
                    _log.info("Succeeded after %.3f s and a retry: %s", self.budget.spent_s, failure)
                return result

    def may_repeat(self, error: exc.DBAPIError) -> bool:
        """Whether what was sent is known to have been rolled back."""
        return self._may_repeat(error, self._backend.is_rolled_back)

    def _may_repeat(self, error: exc.DBAPIError, is_safe: Callable[[exc.DBAPIError], bool]) -> bool:
        # A connection that was cut while idle is only noticed by the next call that uses it.
        return is_safe(error) or (self._backend.is_lost(error) and not self.sent)

    def translated(self, error: exc.SQLAlchemyError) -> BaseException:
        """The library's error for `error`; the caller raises it `from` the original."""
        return translate(error, self._backend, waited_s=self.budget.spent_s, password=self._password, sent=self.sent)

    def reason_of(self, error: exc.SQLAlchemyError) -> str:
        """The first line of what the database says."""
        # Later lines may contain values of rows.
        cause = error.orig if isinstance(error, exc.DBAPIError) else error
        return text_of(Exception(str(cause).partition("\n")[0]), self._password)

"""An exception at the call of a certain Python function, as from a signal handler."""

from __future__ import annotations

import sys


class AtCall:
    """A trace function for `sys.settrace` that raises once, at the call with this number of those still to come."""

    def __init__(self, number: int, raised: type[BaseException]) -> None:
        self.left = number
        self._raised = raised

    def __call__(self, _frame: object, _event: str, _argument: object) -> None:
        """Count the call."""
        self.left -= 1
        if self.left == 0:
            sys.settrace(None)
            raise self._raised

"""What an operation is: a function of a `Connection` that declares what it needs from it."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto
from functools import update_wrapper
from typing import Concatenate, Generic, ParamSpec, TypeVar

from sqlalchemy import Connection

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Needs(Enum):
    """What an operation needs from its connection."""

    READ = auto()
    """Nothing special: it sends one statement that reads, or several that need not agree."""

    SNAPSHOT = auto()
    """A transaction that only reads and sees a single snapshot."""

    STATEMENT = auto()
    """Nothing special: the one statement that writes is a transaction of its own."""

    LOGGED_STATEMENT = auto()
    """The same, and the log records who sent it."""

    UNNAMED_STATEMENT = auto()
    """The same, where the statement does nothing while `event_actor` names somebody."""

    TRANSACTION = auto()
    """A transaction that writes."""

    @property
    def is_reading(self) -> bool:
        """Whether the operation changes nothing."""
        return self in (Needs.READ, Needs.SNAPSHOT)


class Operation(Generic[_P, _T]):
    """A function of a connection, and what it needs from it. Called like the function itself."""

    def __init__(self, function: Callable[Concatenate[Connection, _P], _T], needs: Needs) -> None:
        self.function = function
        self.needs = needs
        update_wrapper(self, function)

    def __call__(self, conn: Connection, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """What the function returns."""
        return self.function(conn, *args, **kwargs)


def needs(what: Needs) -> Callable[[Callable[Concatenate[Connection, _P], _T]], Operation[_P, _T]]:
    """A decorator that makes a function an `Operation`."""

    def declare(function: Callable[Concatenate[Connection, _P], _T]) -> Operation[_P, _T]:
        return Operation(function, what)

    return declare

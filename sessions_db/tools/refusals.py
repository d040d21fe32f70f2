"""Calls that are refused: the model is told why, and can do something about it."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, cast

from sessions_db.errors import InvalidInput, LimitReached, ReadOnly, SessionNotActive, SessionNotFound
from sessions_db.tools.results import Outcome

_P = ParamSpec("_P")
_T = TypeVar("_T", bound=Outcome)


class Refused(Exception):
    """The reason for which a tool does nothing."""


class _Tools(Protocol):
    @property
    def rule(self) -> str: ...


_S = TypeVar("_S", bound=_Tools)


def telling(
    method: Callable[Concatenate[_S, _P], Coroutine[Any, Any, _T]],
) -> Callable[Concatenate[_S, _P], Coroutine[Any, Any, _T]]:
    """The tool, which returns the reason as `error` where it is refused.

    Some frameworks end the agent's run where a tool raises.
    """

    @wraps(method)
    async def call(self: _S, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            return await method(self, *args, **kwargs)
        except (Refused, InvalidInput, LimitReached, ReadOnly, SessionNotActive, SessionNotFound) as error:
            return cast(_T, Outcome(visibility=self.rule, error=str(error)))

    return call

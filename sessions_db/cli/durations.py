"""Spans of time on the command line."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import ClassVar, Final

import click

from sessions_db.limits import MAX_AGE, MAX_SECONDS

LONGEST_WAIT: Final = timedelta(days=timedelta(seconds=MAX_SECONDS).days)
"""For how long a command can wait, in whole days."""


class Duration(click.ParamType[timedelta]):
    """A span of time such as `30d`, `2h`, `15m` or `90s`, and not longer than the longest."""

    name = "duration"
    _UNITS: ClassVar = {"d": "days", "h": "hours", "m": "minutes", "s": "seconds"}

    def __init__(self, longest: timedelta = MAX_AGE) -> None:
        self._longest = longest

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """The span of time; a usage error for anything that is not a duration, is 0, or is too long."""
        found = re.fullmatch(r"([0-9]{1,12})([dhms])", str(value))
        if found is None:
            self.fail(f"{value!r} is not a duration such as 30d, 2h, 15m or 90s.", param, ctx)
        try:
            duration = timedelta(**{self._UNITS[found[2]]: int(found[1])})
        except OverflowError:
            duration = timedelta.max
        if not timedelta(0) < duration <= self._longest:
            self.fail(f"{value!r} is not between 1s and {self._longest.days}d.", param, ctx)
        return duration

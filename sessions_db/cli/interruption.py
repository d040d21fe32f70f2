"""What a command says that a user interrupts: what it has done, and whether to repeat it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any

import click

# A shell's exit code for a command that SIGINT ended.
EXIT_CODE = 130

NOTHING_CHANGED = "Nothing was changed."

_TOLD = "sessions_db.interrupted"


class Interrupted(click.ClickException):
    """The user interrupted the command. Its message is what was done."""

    exit_code = EXIT_CODE

    def show(self, file: IO[Any] | None = None) -> None:
        """Print it on stderr, on a line of its own after the terminal's ^C."""
        click.echo(f"\nInterrupted. {self.format_message()}", file=file, err=True)


def will_change(told: str = "It was done or it was not; repeating it is safe.") -> None:
    """Have an interruption from now on answered with this text."""
    if (ctx := click.get_current_context(silent=True)) is not None:
        ctx.meta[_TOLD] = told


def will_change_nothing() -> None:
    """Have an interruption from now on answered so, as it is at first."""
    will_change(NOTHING_CHANGED)


def interrupted(ctx: click.Context) -> Interrupted:
    """What to raise for a KeyboardInterrupt."""
    return Interrupted(ctx.meta.get(_TOLD, NOTHING_CHANGED))


@contextmanager
def telling(done: Callable[[], str]) -> Iterator[None]:
    """Answer an interruption of the block with what was done by then."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(done()) from None

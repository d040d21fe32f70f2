"""Asking the user before something is changed."""

from __future__ import annotations

import sys

import click

from sessions_db.cli import interruption, terminal

yes = click.option("--yes", "is_sure", is_flag=True, help="Do not ask.")


def can_ask() -> bool:
    """Whether somebody is there to answer."""
    return sys.stdin.isatty()


def require_answer(*, is_sure: bool) -> None:
    """Go on only if nothing has to be asked, or somebody can answer.

    Raises:
        UsageError: there is nobody.
    """
    if not (is_sure or can_ask()):
        raise click.UsageError(
            "Nobody can be asked, because the input is not a terminal: --yes does it without asking."
        )


def ask(question: str, *, is_sure: bool) -> None:
    """Go on only if the user says so.

    Raises:
        UsageError: there is nobody to ask.
        Abort: the answer is no.
    """
    require_answer(is_sure=is_sure)
    if is_sure:
        return
    interruption.will_change_nothing()
    # Not Click's prompt, which takes an interruption for a "no". On stderr: stdout is for the result.
    click.echo(f"{terminal.one_line(question)} [y/N]: ", nl=False, err=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise click.Abort
    interruption.will_change()

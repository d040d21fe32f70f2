"""The group of all commands, the options that they share, and how they report errors."""

from __future__ import annotations

import errno
import getpass
import os
import re
import sys
from collections.abc import Callable
from enum import StrEnum
from typing import Any, TypeVar

import click
from click.exceptions import Exit
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn

from sessions_db import signals, validation
from sessions_db.cli import interruption, terminal
from sessions_db.cli.opening import database
from sessions_db.errors import InvalidInput, SessionsError

_F = TypeVar("_F", bound=Callable[..., Any])


class _Commands(click.Group):
    """The commands. Errors from outside, such as the database or the disk, end them with a one-line message."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """The context of a command line."""
        try:
            return super().make_context(info_name, args, parent, **extra)
        except OSError as error:  # of --help and --version, which print
            raise _told(error) from error
        except KeyboardInterrupt:
            raise interruption.Interrupted(interruption.NOTHING_CHANGED) from None

    def invoke(self, ctx: click.Context) -> object:
        """What the command returns."""
        try:
            return self._invoke(ctx)
        except KeyboardInterrupt:
            raise interruption.interrupted(ctx) from None
        finally:
            signals.is_over()

    def _invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except SessionsError as error:
            raise click.ClickException(terminal.one_line(_named(error))) from error
        except OSError as error:
            raise _told(error) from error


def _named(error: SessionsError) -> str:
    """Its text; bytes of an argument that Python could not decode are named as such."""
    text = str(error)
    if isinstance(error, InvalidInput) and error.reason == validation.SURROGATES:
        return re.sub(r"\\udc([89a-f])", r"\\x\1", text.replace(error.reason, "must be UTF-8"))
    return text


def _told(error: OSError) -> Exit | click.ClickException:
    """What to raise for an error of the operating system."""
    _drop_unwritten_output()
    if error.errno == errno.EPIPE:  # the reader, such as `head`, has seen enough
        return Exit(0)
    return click.ClickException(terminal.one_line(str(error)))


def _drop_unwritten_output() -> None:
    """Drop what stdout could not take: Python would try again at exit, complain, and exit with 120."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@database
@click.version_option(package_name="sessions-db")
def cli() -> None:
    """Look into a database of agent sessions, maintain it, and import and export sessions."""


as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead, with nothing shortened.")


def acting(command: _F) -> _F:
    """The option for the name under which the log records what the command does."""
    return click.option(
        "--actor",
        metavar="NAME",
        default=_login,
        show_default="the user's login name",
        help="Who the log says did it.",
    )(command)


def _login() -> str | None:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # in a container, the user may have no name
        return None


def one_of(choices: type[StrEnum]) -> click.Choice[str]:
    """The type of an option that takes one of these."""
    return click.Choice([choice.value for choice in choices])


def progress_bar(*columns: ProgressColumn, hidden: bool = False) -> Progress:
    """A bar on stderr, with these columns in the middle; nothing if stderr is not a terminal, or if `hidden`."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        *columns,
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=hidden or not console.file.isatty(),
    )

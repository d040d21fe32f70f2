"""The group of all commands, the options that they share, and how they report errors."""

from __future__ import annotations

import errno
import getpass
import os
import re
import sys
from collections.abc import Callable
from datetime import timedelta
from enum import StrEnum
from typing import Any, ClassVar, TypeVar

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn

from sessions_db.cli import terminal
from sessions_db.default import DEFAULT_URL, default_url
from sessions_db.errors import SessionsError
from sessions_db.limits import MAX_AGE
from sessions_db.manager import SessionManager

_F = TypeVar("_F", bound=Callable[..., Any])

# A shell's exit code for a command that SIGINT ended.
_INTERRUPTED = 130


class _Commands(click.Group):
    """The commands. Errors from outside, such as the database or the disk, end them with a one-line message."""

    def invoke(self, ctx: click.Context) -> object:
        """What the command returns."""
        try:
            return super().invoke(ctx)
        except SessionsError as error:
            raise click.ClickException(terminal.one_line(str(error))) from error
        except OSError as error:
            if error.errno == errno.EPIPE:  # the reader, such as `head`, is done: Click ends quietly
                raise
            _drop_unwritten_output()
            raise click.ClickException(terminal.one_line(str(error))) from error
        except KeyboardInterrupt:
            click.echo("\nInterrupted", err=True)  # on a line of its own after the terminal's ^C
            ctx.exit(_INTERRUPTED)


def _drop_unwritten_output() -> None:
    """Drop what stdout could not take: Python would try again at exit, complain, and exit with 120."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _name_database(ctx: click.Context, _parameter: click.Parameter, url: str | None) -> None:
    if url is not None:
        ctx.obj = url


def _name_schema(ctx: click.Context, _parameter: click.Parameter, name: str | None) -> None:
    if name is not None:
        ctx.meta[__name__] = name


def named_schema() -> str | None:
    """The schema that the command line names."""
    name: str | None = click.get_current_context().meta.get(__name__)
    return name


def database_or(default: str) -> Callable[[_F], _F]:
    """The options that name the database and its schema, for a command that takes `default` without them."""
    url = click.option(
        "--db",
        metavar="URL",
        expose_value=False,
        callback=_name_database,
        help=f"The database: sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME.  [default: {default}]",
    )
    schema = click.option(
        "--schema",
        metavar="NAME",
        expose_value=False,
        callback=_name_schema,
        help="On Postgres, the schema that holds the sessions.  [default: the first of search_path]",
    )
    return lambda command: url(schema(command))


# Before the command or after it: people write both.
database = database_or(f"$SESSIONS_DB_URL, or {DEFAULT_URL}")


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@database
@click.version_option(package_name="sessions-db")
def cli() -> None:
    """Look into a database of agent sessions, maintain it, and import and export sessions."""


def reader(url: str | None) -> SessionManager:
    """A read-only manager of the database that the command line names, or else the environment."""
    return SessionManager(url or default_url(), schema=named_schema(), read_only=True)


def writer(url: str | None, actor: str | None = None, *, migrate: bool = False) -> SessionManager:
    """A manager for a command that writes; in an empty database it creates the schema."""
    return SessionManager(url or default_url(), schema=named_schema(), actor=actor, migrate=migrate)


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


class Duration(click.ParamType[timedelta]):
    """A span of time such as `30d`, `2h`, `15m` or `90s`."""

    name = "duration"
    _UNITS: ClassVar = {"d": "days", "h": "hours", "m": "minutes", "s": "seconds"}

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """The span of time; a usage error for anything that is not a duration, is 0, or is longer than 100 years."""
        found = re.fullmatch(r"([0-9]{1,12})([dhms])", str(value))
        if found is None:
            self.fail(f"{value!r} is not a duration such as 30d, 2h, 15m or 90s.", param, ctx)
        try:
            duration = timedelta(**{self._UNITS[found[2]]: int(found[1])})
        except OverflowError:
            duration = timedelta.max
        if not timedelta(0) < duration <= MAX_AGE:
            self.fail(f"{value!r} is not between 1s and {MAX_AGE.days}d.", param, ctx)
        return duration


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

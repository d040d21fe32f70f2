"""Which database a command works on, how long it waits for it, and what it opens it for."""

from __future__ import annotations

import re
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import click
from sqlalchemy import URL

from sessions_db.aio import AsyncSessionManager
from sessions_db.cli import interruption, terminal
from sessions_db.cli.durations import LONGEST_WAIT, Duration
from sessions_db.database.urls import file_of, is_in_memory
from sessions_db.default import DEFAULT_URL, default_url
from sessions_db.errors import InvalidInput
from sessions_db.manager import SessionManager

Database: TypeAlias = str | URL | None
"""What the command line names; None for what the environment names, or the default."""

_F = TypeVar("_F", bound=Callable[..., Any])

_WAIT = "sessions_db.wait_s"
_SCHEMA = "sessions_db.schema"
_WAIT_S = 10.0

# A letter and a colon are a drive of Windows.
_URL = re.compile(r"[A-Za-z][\w+]+:")


def _name_database(ctx: click.Context, _parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        if not value:
            # To SQLite, no name is one for a database in memory.
            raise click.UsageError("--db must not be empty.", ctx)
        ctx.obj = value if _URL.match(value) else URL.create("sqlite", database=value)


def _set_wait(ctx: click.Context, _parameter: click.Parameter, value: timedelta | None) -> None:
    if value is not None:
        ctx.meta[_WAIT] = value.total_seconds()


def _name_schema(ctx: click.Context, _parameter: click.Parameter, name: str | None) -> None:
    if name is not None:
        ctx.meta[_SCHEMA] = name


def database_or(default: str) -> Callable[[_F], _F]:
    """The options that name the database, for a command that takes `default` without them."""
    db = click.option(
        "--db",
        metavar="DATABASE",
        expose_value=False,
        callback=_name_database,
        help=f"The database: a path, sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME.  [default: {default}]",
    )
    wait = click.option(
        "--wait",
        metavar="DURATION",
        type=Duration(LONGEST_WAIT),
        expose_value=False,
        callback=_set_wait,
        help=f"How long to wait for the database, such as 2s.  [default: {_WAIT_S:.0f}s]",
    )
    schema = click.option(
        "--schema",
        metavar="NAME",
        expose_value=False,
        callback=_name_schema,
        help="On Postgres, the schema that holds the sessions.  [default: the first of search_path]",
    )
    return lambda command: db(schema(wait(command)))


# Before the command or after it: people write both.
database = database_or(f"$SESSIONS_DB_URL, or {DEFAULT_URL}")


def wait_s() -> float:
    """For how many seconds the command waits for the database."""
    ctx = click.get_current_context(silent=True)
    return _WAIT_S if ctx is None else float(ctx.meta.get(_WAIT, _WAIT_S))


def named_schema(ctx: click.Context | None = None) -> str | None:
    """The schema that the command line names; `ctx` is needed where no command runs."""
    ctx = ctx or click.get_current_context(silent=True)
    return None if ctx is None else ctx.meta.get(_SCHEMA)


def named(database: Database) -> tuple[str | URL, Path | None]:
    """The database, and its file if it is one, which need not be there.

    Raises:
        ClickException: it can't be used by a command.
    """
    found = database or default_url()
    try:
        file, in_memory = file_of(found), is_in_memory(found)
    except InvalidInput as error:
        source = "--db" if database else "SESSIONS_DB_URL"
        raise click.ClickException(terminal.one_line(f"{source} {error.reason}, got {error.value}")) from error
    if in_memory:
        raise click.ClickException("A database in memory begins empty and ends with the command: name a file.")
    if file is not None and file.is_dir():
        raise click.ClickException(f"{_shown(file)} is a directory.")
    return found, file


def existing(database: Database) -> str | URL:
    """The database, unless it is a file that is not there.

    Raises:
        ClickException: it is. The message says what creates it.
    """
    found, file = named(database)
    if file is not None and not file.exists():
        hint = "" if database else " (--db and SESSIONS_DB_URL name another)"
        raise click.ClickException(
            f"{_shown(file)} does not exist{hint}. `sessions-db upgrade` creates it, and so does `sessions-db import`."
        )
    return found


def reader(database: Database) -> SessionManager:
    """A read-only manager of the database."""
    return _open(existing(database), read_only=True)


def writer(database: Database, actor: str | None = None) -> SessionManager:
    """A manager for a command that changes what is there: it creates neither a database nor a schema."""
    manager = _open(existing(database), actor=actor, create=False)
    interruption.will_change()
    return manager


@asynccontextmanager
async def opened_awaiting(
    database: Database, actor: str | None, *, read_only: bool
) -> AsyncIterator[AsyncSessionManager]:
    """A manager for asyncio, while the block runs; it creates neither a database nor a schema."""
    async with AsyncExitStack() as stack:
        with waiting() as seconds:
            manager = AsyncSessionManager(
                existing(database),
                schema=named_schema(),
                create=False,
                read_only=read_only,
                actor=actor,
                retry_budget_s=seconds,
            )
            await stack.enter_async_context(manager)
        yield manager


def creator(database: Database, actor: str | None = None, *, migrate: bool = False) -> SessionManager:
    """A manager for a command that needs nothing to be there: a database is created, and in an empty one the schema."""
    found, file = named(database)
    if file is not None and not file.parent.is_dir():
        raise click.ClickException(f"The directory {_shown(file.parent)} does not exist.")
    interruption.will_change()
    return _open(found, actor=actor, migrate=migrate)


def _open(database: str | URL, **options: Any) -> SessionManager:
    with waiting() as seconds:
        return SessionManager(database, schema=named_schema(), retry_budget_s=seconds, **options)


@contextmanager
def waiting() -> Iterator[float]:
    """How many seconds the block may wait for the database; stderr says so once half of them are over."""
    seconds = wait_s()
    told = threading.Timer(
        seconds / 2,
        lambda: click.echo(f"Waiting for the database, {seconds:.0f} s at most (--wait).", err=True),
    )
    told.daemon = True
    told.start()
    try:
        yield seconds
    finally:
        told.cancel()


def _shown(file: Path) -> str:
    return terminal.one_line(str(file))

"""How people name a session: by its key, by its label, or by as much of the end of its key as is unique."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from inspect import cleandoc
from typing import TypeVar

import click
from sqlalchemy import Connection

from sessions_db.aio import AsyncSessionManager
from sessions_db.cli import terminal
from sessions_db.cli.opening import existing, named_schema
from sessions_db.errors import SessionNotFound
from sessions_db.manager import SessionManager
from sessions_db.operations import naming

_F = TypeVar("_F", bound=Callable[..., object])
_Complete = Callable[[click.Context, click.Parameter, str], list[str]]

_CANDIDATES_SHOWN = 10
_OFFERED = 50

# Bash puts what is offered into the command line as it is, and agents choose their labels: no space, quote or `$(`.
_OFFERABLE = re.compile(r"\w[\w:.,@%+=/-]*")

# A shell waits for completion: it is then better to offer nothing.
_COMPLETION_S = 1.0


def find(manager: SessionManager, name: str) -> str:
    """The key of the session that is meant.

    Raises:
        SessionNotFound: there is none.
        ClickException: the end of a key that several sessions have. The message lists them.
    """
    return _only(name, manager.find_keys(_given(name), _CANDIDATES_SHOWN + 1))


async def find_awaiting(manager: AsyncSessionManager, name: str) -> str:
    """The same with a manager for asyncio."""
    return _only(name, await manager.find_keys(_given(name), _CANDIDATES_SHOWN + 1))


def _given(name: str) -> str:
    # Every key ends with an empty text.
    if not name:
        raise click.UsageError("KEY must not be empty.")
    return name


def _only(name: str, keys: Sequence[str]) -> str:
    if not keys:
        raise SessionNotFound(name)
    if len(keys) > 1:
        lines = [terminal.one_line(key) for key in keys]
        several = str(len(keys))
        if len(keys) > _CANDIDATES_SHOWN:
            lines[-1], several = "…", f"more than {_CANDIDATES_SHOWN}"
        listed = "\n  ".join([f"{terminal.one_line(name)} is the end of {several} keys:", *lines])
        raise click.ClickException(listed)
    return keys[0]


def find_also_past(manager: SessionManager, names: Iterable[str]) -> list[str] | None:
    """The keys of these sessions, or None for no names.

    A whole key need not be a session's: other rows still name it when it is deleted.
    """
    return [_find_also_past(manager, name) for name in names] or None


def _find_also_past(manager: SessionManager, name: str) -> str:
    try:
        return find(manager, name)
    except SessionNotFound:
        if not name.startswith("agent:"):
            raise
        return name


def _completing(offers: Callable[[Connection, str], list[str]]) -> _Complete:
    """A completion from the database; it offers nothing where that fails or takes too long."""

    def complete(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
        found: list[str] = []

        def read() -> None:
            with (
                suppress(Exception),
                SessionManager(
                    existing(ctx.obj), schema=named_schema(ctx), read_only=True, retry_budget_s=_COMPLETION_S
                ) as manager,
                manager.snapshot() as tx,
            ):
                found.extend(filter(_OFFERABLE.fullmatch, offers(tx.connection, incomplete)))

        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        thread.join(_COMPLETION_S)
        return found.copy()

    return complete


def _names(conn: Connection, prefix: str) -> list[str]:
    return naming.labels_beginning(conn, prefix, _OFFERED) + naming.keys_beginning(conn, prefix, _OFFERED)


def _agents(conn: Connection, prefix: str) -> list[str]:
    return naming.agents_beginning(conn, prefix, _OFFERED)


complete_names = _completing(_names)
complete_agents = _completing(_agents)

_KEY_HELP = "KEY is a session's key, its label, or as much of the end of its key as is unique."


def key_argument(command: _F) -> _F:
    """The argument that names a session, explained in the command's help."""
    command.__doc__ = f"{cleandoc(command.__doc__ or '')}\n\n{_KEY_HELP}"
    return click.argument("key", shell_complete=complete_names)(command)


def agents_option(help_: str) -> Callable[[_F], _F]:
    """The option that filters by agent."""
    return click.option(
        "--agent",
        "agent_ids",
        metavar="ID",
        multiple=True,
        shell_complete=complete_agents,
        help=f"{help_}; may be repeated.",
    )

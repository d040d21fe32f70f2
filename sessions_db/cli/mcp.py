"""The command that serves the session tools over the Model Context Protocol."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from contextlib import closing
from typing import IO, Final, TypeVar

import click

from sessions_db.cli import interruption
from sessions_db.cli.group import acting, cli, one_of
from sessions_db.cli.naming import complete_agents, complete_names, find_awaiting
from sessions_db.cli.opening import Database, database, opened_awaiting
from sessions_db.cli.serving import extra, listen, long_enough, token_in
from sessions_db.models import SpawnLimits
from sessions_db.tools import SessionTools, Visibility

_F = TypeVar("_F", bound=Callable[..., object])

TOKEN_VARIABLE: Final = "SESSIONS_DB_MCP_TOKEN"  # noqa: S105  # its name


def _limit(name: str, refused: str) -> Callable[[_F], _F]:
    return click.option(
        f"--max-{name}", metavar="NUMBER", type=click.IntRange(min=0), help=f"Refuse a spawn {refused}."
    )


@cli.command()
@click.option(
    "--as",
    "caller",
    metavar="KEY",
    required=True,
    shell_complete=complete_names,
    help="The session in whose name the tools act.",
)
@click.option(
    "--visibility",
    type=one_of(Visibility),
    default=Visibility.TREE.value,
    show_default=True,
    help="Which sessions they show: itself, those below it too, its agent's, or all.",
)
@click.option(
    "--agent",
    "agents",
    metavar="ID",
    multiple=True,
    shell_complete=complete_agents,
    help="An agent for sessions_spawn; may be repeated.",
)
@click.option("--write", "writing", is_flag=True, help="With the tools that send, spawn and kill.")
@_limit("depth", "with more sessions than this above the new one")
@_limit("children", "where the session has this many active children")
@_limit("active", "where its agent has this many active sub-agent and cron sessions")
@click.option(
    "--http",
    "port",
    metavar="PORT",
    type=click.IntRange(0, 65_535),
    help="Serve HTTP on this port of the loopback interface instead; 0 takes a free one. It needs a token.",
)
@click.option(
    "--token-file",
    type=click.File("r"),
    help=f"A file with the secret that HTTP clients send as a bearer token.  [default: ${TOKEN_VARIABLE}]",
)
@acting
@database
@click.pass_obj
def mcp(
    db: Database,
    caller: str,
    visibility: str,
    agents: tuple[str, ...],
    writing: bool,
    max_depth: int | None,
    max_children: int | None,
    max_active: int | None,
    port: int | None,
    token_file: IO[str] | None,
    actor: str | None,
) -> None:
    """Serve the session tools over MCP.

    A client starts this command and talks to it over its input and output; with --http it is a server for several.
    Without --write the database is only read.
    """
    with extra("mcp", "The command needs"):
        from sessions_db.mcp import serving  # noqa: PLC0415  # its packages are an extra
    token = None if port is None else _token(token_file)
    limits = SpawnLimits(max_depth=max_depth, max_children=max_children, max_active=max_active)

    async def serve() -> None:
        async with opened_awaiting(db, actor, read_only=not writing) as manager:
            key = await find_awaiting(manager, caller)
            tools = SessionTools(manager, key, visibility=visibility, agents=agents, limits=limits)
            if port is None or token is None:
                await serving.over_stdio(tools, writing=writing)
                return
            if writing:
                interruption.will_change("What the tools did by then stays.")
            with closing(listen("127.0.0.1", port)) as listening:
                click.echo(f"http://127.0.0.1:{listening.getsockname()[1]}/mcp (Ctrl-C ends it)", err=True)
                signal.signal(signal.SIGINT, handler)
                await serving.over_http(tools, listening, token, writing=writing)

    # Python's handler would wait: for the database, which a thread opens, and for the client, whose next line the SDK
    # reads on a thread that nothing interrupts.
    handler = signal.signal(signal.SIGINT, signal.SIG_DFL)
    asyncio.run(serve())


def _token(file: IO[str] | None) -> str:
    token = (os.environ.get(TOKEN_VARIABLE, "") if file is None else token_in(file)).strip()
    if not token:
        raise click.UsageError(f"HTTP needs a token: --token-file FILE, or {TOKEN_VARIABLE} in the environment.")
    if not token.isascii():
        raise click.UsageError("The token has characters beyond ASCII, which no header takes.")
    return long_enough(token)

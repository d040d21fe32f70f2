"""The command that serves the session tools over the Model Context Protocol."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import closing
from typing import IO, Final

import click

from sessions_db.cli import interruption
from sessions_db.cli.group import acting, cli, one_of
from sessions_db.cli.naming import complete_agents, complete_names, find_awaiting
from sessions_db.cli.opening import Database, database, opened_awaiting
from sessions_db.cli.serving import extra, listen, long_enough, token_in
from sessions_db.tools import SessionTools, Visibility

TOKEN_VARIABLE: Final = "SESSIONS_DB_MCP_TOKEN"  # noqa: S105  # its name


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

    async def serve() -> None:
        async with opened_awaiting(db, actor, read_only=not writing) as manager:
            key = await find_awaiting(manager, caller)
            tools = SessionTools(manager, key, visibility=visibility, agents=agents)
            if port is None or token is None:
                await serving.over_stdio(tools, writing=writing)
                return
            if writing:
                interruption.will_change("What the tools did by then stays.")
            with closing(listen("127.0.0.1", port)) as listening:
                click.echo(f"http://127.0.0.1:{listening.getsockname()[1]}/mcp (Ctrl-C ends it)", err=True)
                signal.signal(signal.SIGINT, signal.default_int_handler)
                await serving.over_http(tools, listening, token, writing=writing)

    # Python's handler would wait: for the database, which a thread opens, and for the client, whose next line the SDK
    # reads on a thread that nothing interrupts.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    asyncio.run(serve())


def _token(file: IO[str] | None) -> str:
    token = (os.environ.get(TOKEN_VARIABLE, "") if file is None else token_in(file)).strip()
    if not token:
        raise click.UsageError(f"HTTP needs a token: --token-file FILE, or {TOKEN_VARIABLE} in the environment.")
    if not token.isascii():
        raise click.UsageError("The token has characters beyond ASCII, which no header takes.")
    return long_enough(token)

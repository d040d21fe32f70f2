"""The command that shows the database in a browser."""

from __future__ import annotations

from contextlib import closing
from typing import IO

import click

from sessions_db.cli.group import cli
from sessions_db.cli.opening import Database, database, reader
from sessions_db.cli.serving import extra, listen, long_enough, token_in

_LOOPBACK = ("127.0.0.1", "::1", "localhost")


@cli.command()
@click.option("--port", type=click.IntRange(0, 65_535), default=8_321, show_default=True, help="0 takes a free one.")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address on which to listen.")
@click.option(
    "--token-file",
    type=click.File("r"),
    help="A file with a secret, which the browser asks for as the password. Needed with another --host.",
)
@click.option("--name", "names", multiple=True, help="A name by which browsers reach it; may be repeated.")
@database
@click.pass_obj
def web(db: Database, port: int, host: str, token_file: IO[str] | None, names: tuple[str, ...]) -> None:
    """Show the sessions in a browser.

    The pages are read-only. They answer until Ctrl-C. They are there for this machine only, unless another --host is
    given: then whoever knows the token sees everything, and --name says what the machine is called.
    """
    with extra("web", "The pages need"):
        import uvicorn  # noqa: PLC0415  # its packages are an extra

        from sessions_db.web.app import LOOPBACK, create_app  # noqa: PLC0415
    token = None if token_file is None else long_enough(token_in(token_file))
    if token is None and host not in _LOOPBACK:
        raise click.UsageError(f"{host} can be reached by others: give --token-file, so that only some of them see it.")
    own = f"[{host}]" if ":" in host else host
    with reader(db) as manager, closing(listen(host, port)) as listening:
        app = create_app(manager, token=token, hosts=[*LOOPBACK, own, *names])
        # On stderr: stdout is for results.
        click.echo(f"http://{own}:{listening.getsockname()[1]}/ (Ctrl-C ends it)", err=True)
        # A browser may keep a connection open.
        config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=1)
        uvicorn.Server(config).run([listening])

"""The command that searches."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import click

from sessions_db.cli import tables, terminal
from sessions_db.cli.durations import LONGEST_WAIT, Duration
from sessions_db.cli.group import as_json, cli, one_of
from sessions_db.cli.naming import agents_option
from sessions_db.cli.opening import Database, database, reader
from sessions_db.enums import SessionKind
from sessions_db.wording import counted


@cli.command()
@click.argument("text")
@agents_option("Only in this agent's sessions")
@click.option("--kind", "kinds", type=one_of(SessionKind), multiple=True, help="Only in this kind; may be repeated.")
@click.option("--limit", type=click.IntRange(min=0), default=50, show_default=True, help="Stop after this many.")
@click.option(
    "--timeout",
    "time_limit",
    metavar="DURATION",
    type=Duration(LONGEST_WAIT),
    default="10s",
    show_default=True,
    help="Stop after this long, such as 2m.",
)
@as_json
@database
@click.pass_obj
def search(
    db: Database,
    text: str,
    agent_ids: Sequence[str],
    kinds: Sequence[str],
    limit: int,
    time_limit: timedelta,
    as_json: bool,
) -> None:
    """Find TEXT in labels, tasks and messages, live and archived.

    The newest sessions come first. Upper and lower case are alike.
    """
    with reader(db) as manager:
        result = manager.search(
            text,
            agent_id=agent_ids or None,
            kinds=kinds or None,
            limit=limit,
            timeout=time_limit.total_seconds(),
        )
    if as_json:
        click.echo(terminal.to_json(result.to_dict()))
        return
    tables.print_hits(terminal.console(), result.hits)
    sessions = counted(result.sessions, "session")
    if result.complete:
        click.echo(f"Read {sessions}, all there are.", err=True)
    elif result.reached_ms is not None:
        reached = terminal.utc(result.reached_ms)
        click.echo(
            f"Stopped after {sessions}, in one created at {reached} UTC; a higher --limit or --timeout reads on.",
            err=True,
        )

"""Commands that end and delete sessions by their age, and show what was archived."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta

import click
from rich.console import Console
from rich.progress import MofNCompleteColumn

from sessions_db.cli import terminal
from sessions_db.cli.group import Duration, acting, as_json, cli, database, one_of, progress_bar, reader, writer
from sessions_db.cli.naming import agent_option
from sessions_db.enums import SessionKind, SessionStatus
from sessions_db.limits import MAX_AGE

_agent = agent_option("Only this agent's.")
_dry_run = click.option("--dry-run", is_flag=True, help="Change nothing, and report what would be done.")


def _older_than(help_: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return click.option("--older-than", "age", type=Duration(), required=True, metavar="DURATION", help=help_)


def _kinds(*default: SessionKind) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return click.option(
        "--kind",
        "kinds",
        type=one_of(SessionKind),
        multiple=True,
        default=[kind.value for kind in default],
        show_default=True,
        help="Only this kind; may be repeated.",
    )


@cli.command("timeout-idle")
@_older_than("End what had no activity for this long, such as 2h.")
@_kinds(SessionKind.SUBAGENT, SessionKind.CRON)
@_agent
@_dry_run
@as_json
@acting
@database
@click.pass_obj
def timeout_idle(
    url: str | None,
    age: timedelta,
    kinds: Sequence[str],
    agent_id: str | None,
    dry_run: bool,
    as_json: bool,
    actor: str | None,
) -> None:
    """End active sessions that have gone idle.

    Sessions without activity (their creation, a message, a reopening, a sign of life) for the given time get the status
    "timeout". A duration looks like 30d, 2h, 15m or 90s. It works in batches, so that nobody waits for long; what an
    interrupted run has ended stays ended.
    """
    with reader(url) if dry_run else writer(url, actor) as manager:
        ended = _with_progress(
            "Ending",
            lambda progress: manager.timeout_idle(age, kinds, agent_id=agent_id, dry_run=dry_run, progress=progress),
        )
    _report("ended as timed out", ended, dry_run=dry_run, as_json=as_json)


@cli.command()
@_older_than("Delete what ended this long ago or longer, such as 30d.")
@_kinds(SessionKind.MAIN, SessionKind.SUBAGENT, SessionKind.CRON)
@click.option(
    "--status", "statuses", type=one_of(SessionStatus), multiple=True, help="Only what ended so; may be repeated."
)
@_agent
@_dry_run
@as_json
@acting
@database
@click.pass_obj
def prune(
    url: str | None,
    age: timedelta,
    kinds: Sequence[str],
    statuses: Sequence[str],
    agent_id: str | None,
    dry_run: bool,
    as_json: bool,
    actor: str | None,
) -> None:
    """Delete sessions that ended long ago.

    Their messages, archived ones too, and their labels go with them; the log records the deletion. Active
    sessions are never deleted, however old. Conversations are deleted only where --kind says so. A duration looks like
    30d, 2h, 15m or 90s. It works in batches, so that nobody waits for long; what an interrupted run has deleted stays
    deleted.
    """
    with reader(url) if dry_run else writer(url, actor) as manager:
        deleted = _with_progress(
            "Deleting",
            lambda progress: manager.prune(
                age, kinds=kinds, agent_id=agent_id, status=statuses or None, dry_run=dry_run, progress=progress
            ),
        )
    _report("deleted", deleted, dry_run=dry_run, as_json=as_json)


def _with_progress(description: str, sweep: Callable[[Callable[[int, int], object]], list[str]]) -> list[str]:
    with progress_bar(MofNCompleteColumn()) as progress:
        task = progress.add_task(description, total=None)
        return sweep(lambda done, total: progress.update(task, completed=done, total=total))


def _report(what: str, keys: Sequence[str], *, dry_run: bool, as_json: bool) -> None:
    if as_json:
        click.echo(terminal.to_json({"dryRun": dry_run, "count": len(keys), "keys": list(keys)}))
        return
    sessions = terminal.counted(len(keys), "session")
    if dry_run:
        click.echo(f"{sessions} would be {what}; nothing was changed (--dry-run).")
    else:
        click.echo(f"{sessions} {'was' if len(keys) == 1 else 'were'} {what}.")


@cli.command("log-retention")
@click.option("--days", type=click.IntRange(1, MAX_AGE.days), help="Keep each event for this many days from now on.")
@as_json
@acting
@database
@click.pass_obj
def log_retention(url: str | None, days: int | None, as_json: bool, actor: str | None) -> None:
    """Show or change how long the log is kept.

    The database refuses to delete an event that is younger. The log records the change. On Postgres, only the owner of
    the tables can make it.
    """
    with reader(url) if days is None else writer(url, actor) as manager:
        if days is not None:
            manager.set_log_retention(days)
        kept = manager.log_retention().days
    if as_json:
        click.echo(terminal.to_json({"days": kept}))
    else:
        click.echo(f"Each event is kept for {kept:,} days.")


@cli.command()
@click.option("--limit", type=click.IntRange(min=0), default=50, show_default=True, help="How many at most.")
@as_json
@database
@click.pass_obj
def archive(url: str | None, limit: int, as_json: bool) -> None:
    """List the sessions that have archived messages.

    Messages that a session no longer retains are archived where the session was made with `archive_trimmed`; elsewhere
    they are deleted. Those with the most come first. `history --archived` shows the messages of one.
    """
    with reader(url) as manager:
        archives = manager.archives(limit)
    if as_json:
        click.echo(terminal.to_json([archive.to_dict() for archive in archives]))
    elif archives:
        terminal.print_archives(Console(), archives)
        if len(archives) == limit:
            click.echo(f"These are the {limit:,} with the most; --limit shows more.")
    else:
        click.echo("No archived messages.")

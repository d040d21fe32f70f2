"""Commands that end and delete sessions by their age, and show what was archived."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta

import click
from rich.console import Console
from rich.progress import MofNCompleteColumn

from sessions_db.cli import terminal
from sessions_db.cli.group import Duration, acting, as_json, cli, database, one_of, progress_bar, reader, writer
from sessions_db.enums import SessionKind
from sessions_db.errors import SessionNotFound
from sessions_db.limits import MAX_AGE
from sessions_db.models import Archive

_kinds = click.option(
    "--kind", "kinds", type=one_of(SessionKind), multiple=True, help="Only this kind; may be repeated."
)
_dry_run = click.option("--dry-run", is_flag=True, help="Change nothing, and report what would be done.")


def _older_than(help_: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return click.option("--older-than", "age", type=Duration(), required=True, metavar="DURATION", help=help_)


@cli.command("timeout-idle")
@_older_than("End what had no activity for this long, such as 2h.")
@click.option(
    "--kind",
    "kinds",
    type=one_of(SessionKind),
    multiple=True,
    default=[SessionKind.SUBAGENT.value, SessionKind.CRON.value],
    show_default=True,
    help="Only this kind; may be repeated.",
)
@_dry_run
@as_json
@acting
@database
@click.pass_obj
def timeout_idle(
    url: str | None, age: timedelta, kinds: Sequence[str], dry_run: bool, as_json: bool, actor: str | None
) -> None:
    """End active sessions that have gone idle.

    Sessions without activity (their creation, a message, a reopening) for the given time get the status "timeout".
    A duration looks like 30d, 2h, 15m or 90s. It works in batches, so that nobody waits for long; what an interrupted
    run has ended stays ended.
    """
    with reader(url) if dry_run else writer(url, actor) as manager:
        ended = _with_progress(
            "Ending", lambda progress: manager.timeout_idle(age, kinds, dry_run=dry_run, progress=progress)
        )
    _report("ended as timed out", ended, dry_run=dry_run, as_json=as_json)


@cli.command()
@_older_than("Delete what ended this long ago or longer, such as 30d.")
@_kinds
@_dry_run
@as_json
@acting
@database
@click.pass_obj
def prune(
    url: str | None, age: timedelta, kinds: Sequence[str], dry_run: bool, as_json: bool, actor: str | None
) -> None:
    """Delete sessions that ended long ago.

    Their messages, archived ones too, and their labels go with them; the log records the deletion. Active
    sessions are never deleted, however old. A duration looks like 30d, 2h, 15m or 90s. It works in batches, so that
    nobody waits for long; what an interrupted run has deleted stays deleted.
    """
    with reader(url) if dry_run else writer(url, actor) as manager:
        deleted = _with_progress(
            "Deleting",
            lambda progress: manager.prune(age, kinds=kinds or None, dry_run=dry_run, progress=progress),
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
    sessions = f"{len(keys):,} session{'' if len(keys) == 1 else 's'}"
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
@click.argument("key", required=False)
@click.option("--limit", type=click.IntRange(min=0), default=50, show_default=True, help="How many at most.")
@as_json
@database
@click.pass_obj
def archive(url: str | None, key: str | None, limit: int, as_json: bool) -> None:
    """List archived messages.

    Messages that a session no longer retains are archived where the session was made with `archive_trimmed`; elsewhere
    they are deleted. With KEY, list the newest archived messages of that session, oldest first; without, list the
    sessions that have any, those with the most first.
    """
    with reader(url) as manager:
        if key is None:
            _print_archives(manager.archives(limit), limit, as_json=as_json)
            return
        messages = manager.archived(key, limit)
    if messages is None:
        raise SessionNotFound(key)
    if as_json:
        click.echo(terminal.to_json([message.to_dict() for message in messages]))
    elif messages:
        terminal.print_messages(Console(), messages)
        if len(messages) == limit:
            click.echo(f"These are the newest {limit:,}; --limit shows more.")
    else:
        click.echo("No archived messages.")


def _print_archives(archives: Sequence[Archive], limit: int, *, as_json: bool) -> None:
    if as_json:
        click.echo(terminal.to_json([archive.to_dict() for archive in archives]))
    elif archives:
        terminal.print_archives(Console(), archives)
        if len(archives) == limit:
            click.echo(f"These are the {limit:,} with the most; --limit shows more.")
    else:
        click.echo("No archived messages.")

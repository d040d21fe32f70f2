"""Commands that end and delete sessions by their age, and show what was archived."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple, TypeAlias

import click
from rich.progress import MofNCompleteColumn

from sessions_db import clock
from sessions_db.cli import interruption, tables, terminal
from sessions_db.cli.asking import ask, require_answer, yes
from sessions_db.cli.durations import Duration
from sessions_db.cli.group import acting, as_json, cli, one_of, progress_bar
from sessions_db.cli.naming import agents_option
from sessions_db.cli.opening import Database, database, reader, writer
from sessions_db.enums import SessionKind, SessionStatus
from sessions_db.limits import MAX_AGE
from sessions_db.manager import SessionManager
from sessions_db.wording import counted

# Of what a sweep would take; --json has all.
_KEYS_SHOWN = 10

_agent = agents_option("Only this agent's")
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
@yes
@as_json
@acting
@database
@click.pass_obj
def timeout_idle(
    db: Database,
    age: timedelta,
    kinds: Sequence[str],
    agent_ids: Sequence[str],
    dry_run: bool,
    is_sure: bool,
    as_json: bool,
    actor: str | None,
) -> None:
    """End active sessions that have gone idle.

    Sessions without activity (their creation, a message, a reopening, a sign of life) for the given time get the status
    "timeout". A duration looks like 30d, 2h, 15m or 90s. On a terminal it shows what it would end, and asks. It works
    in batches, so that nobody waits for long; what an interrupted run has ended stays ended.
    """

    def sweep(manager: SessionManager, cutoff: _Cutoff, dry_run: bool, progress: _Progress | None) -> list[str]:
        return manager.timeout_idle(
            cutoff.older_than,
            kinds,
            before=cutoff.before,
            agent_id=agent_ids or None,
            dry_run=dry_run,
            progress=progress,
        )

    words = _Words("Ending", "End {}, idle since {} or longer?", "ended as timed out")
    keys = _swept(sweep, words, db, age, actor, dry_run=dry_run, is_sure=is_sure)
    _report(words.done, keys, dry_run=dry_run, as_json=as_json)


@cli.command()
@_older_than("Delete what ended this long ago or longer, such as 30d.")
@_kinds(SessionKind.MAIN, SessionKind.SUBAGENT, SessionKind.CRON)
@click.option(
    "--status", "statuses", type=one_of(SessionStatus), multiple=True, help="Only what ended so; may be repeated."
)
@_agent
@_dry_run
@yes
@as_json
@acting
@database
@click.pass_obj
def prune(
    db: Database,
    age: timedelta,
    kinds: Sequence[str],
    statuses: Sequence[str],
    agent_ids: Sequence[str],
    dry_run: bool,
    is_sure: bool,
    as_json: bool,
    actor: str | None,
) -> None:
    """Delete sessions that ended long ago.

    Their messages, archived ones too, and their labels go with them; the log records the deletion. Active
    sessions are never deleted, however old. Conversations are deleted only where --kind says so. A duration looks like
    30d, 2h, 15m or 90s. On a terminal it shows what it would delete, and asks. It works in batches, so that nobody
    waits for long; what an interrupted run has deleted stays deleted.
    """

    def sweep(manager: SessionManager, cutoff: _Cutoff, dry_run: bool, progress: _Progress | None) -> list[str]:
        return manager.prune(
            cutoff.older_than,
            before=cutoff.before,
            kinds=kinds,
            agent_id=agent_ids or None,
            status=statuses or None,
            dry_run=dry_run,
            progress=progress,
        )

    words = _Words("Deleting", "Delete {}, ended before {}?", "deleted")
    keys = _swept(sweep, words, db, age, actor, dry_run=dry_run, is_sure=is_sure)
    _report(words.done, keys, dry_run=dry_run, as_json=as_json)


_Progress: TypeAlias = Callable[[int, int], object]


class _Cutoff(NamedTuple):
    """How old sessions must be: either of the two."""

    older_than: timedelta | None = None
    before: datetime | None = None


class _Words(NamedTuple):
    """How a sweep is called while it runs, before it begins, and when it is done."""

    doing: str
    question: str
    done: str


def _swept(
    sweep: Callable[[SessionManager, _Cutoff, bool, _Progress | None], list[str]],
    words: _Words,
    db: Database,
    age: timedelta,
    actor: str | None,
    *,
    dry_run: bool,
    is_sure: bool,
) -> list[str]:
    """The keys of the sessions that were swept, or would be; on a terminal, if the user agrees."""
    if dry_run:
        with reader(db) as manager:
            return sweep(manager, _Cutoff(older_than=age), True, None)
    require_answer(is_sure=is_sure)
    with writer(db, actor) as manager:
        cutoff = _Cutoff(older_than=age)
        if not is_sure:
            # A moment, so that nothing is swept that grew old enough only while the user read.
            before = clock.to_datetime(clock.now_ms()) - age
            cutoff = _Cutoff(before=before)
            keys = sweep(manager, cutoff, True, None)
            if not keys:
                return keys
            click.echo(_listed(keys), err=True)
            since = terminal.utc(clock.to_ms(before))
            ask(words.question.format(counted(len(keys), "session"), f"{since} UTC"), is_sure=False)
        done = 0

        def count(number: int, total: int) -> None:
            nonlocal done
            done = number
            progress.update(task, completed=number, total=total)

        with (
            interruption.telling(lambda: f"{_were(done)} {words.done}; repeating it does the rest."),
            progress_bar(MofNCompleteColumn()) as progress,
        ):
            task = progress.add_task(words.doing, total=None)
            return sweep(manager, cutoff, False, count)


def _listed(keys: Sequence[str]) -> str:
    shown = [terminal.one_line(key) for key in keys[:_KEYS_SHOWN]]
    if len(keys) > _KEYS_SHOWN:
        shown.append(f"and {len(keys) - _KEYS_SHOWN:,} more")
    return "\n".join(shown)


def _were(count: int) -> str:
    return f"{counted(count, 'session')} {'was' if count == 1 else 'were'}"


def _report(done: str, keys: Sequence[str], *, dry_run: bool, as_json: bool) -> None:
    if as_json:
        click.echo(terminal.to_json({"dryRun": dry_run, "count": len(keys), "keys": list(keys)}))
    elif dry_run:
        if keys:
            click.echo(_listed(keys))
        sessions = counted(len(keys), "session")
        click.echo(f"{sessions} would be {done}; nothing was changed (--dry-run).")
    else:
        click.echo(f"{_were(len(keys))} {done}.")


@cli.command("log-retention")
@click.option("--days", type=click.IntRange(1, MAX_AGE.days), help="Keep each event for this many days from now on.")
@as_json
@acting
@database
@click.pass_obj
def log_retention(db: Database, days: int | None, as_json: bool, actor: str | None) -> None:
    """Show or change how long the log is kept.

    The database refuses to delete an event that is younger. The log records the change. On Postgres, only the owner of
    the tables can make it.
    """
    with reader(db) if days is None else writer(db, actor) as manager:
        if days is not None:
            manager.set_log_retention(days)
        kept = manager.log_retention().days
    if as_json:
        click.echo(terminal.to_json({"days": kept}))
    else:
        click.echo(f"Each event is kept for {counted(kept, 'day')}.")


@cli.command()
@click.option("--limit", type=click.IntRange(min=0), default=50, show_default=True, help="How many at most.")
@as_json
@database
@click.pass_obj
def archive(db: Database, limit: int, as_json: bool) -> None:
    """List the sessions that have archived messages.

    Messages that a session no longer retains are archived where the session was made with `archive_trimmed`; elsewhere
    they are deleted. Those with the most come first. `history --archived` shows the messages of one.
    """
    with reader(db) as manager:
        archives = manager.archives(limit)
    if as_json:
        click.echo(terminal.to_json([archive.to_dict() for archive in archives]))
    elif archives:
        tables.print_archives(terminal.console(), archives)
        if len(archives) == limit:
            click.echo(f"These are the {limit:,} with the most; --limit shows more.")
    else:
        click.echo("No archived messages.")

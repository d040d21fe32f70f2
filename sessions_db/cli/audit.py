"""Commands that read, seal and verify the log."""

from __future__ import annotations

from collections.abc import Sequence

import click
from rich.console import Console

from sessions_db.cli import terminal
from sessions_db.cli.group import acting, as_json, cli, database, one_of, reader, writer
from sessions_db.enums import EventKind


@cli.group()
def audit() -> None:
    """Read the log, seal it, and verify it."""


@audit.command()
@click.option("--session", "session_key", metavar="KEY", help="Only what happened to this session.")
@click.option("--kind", "kinds", type=one_of(EventKind), multiple=True, help="Only this kind; may be repeated.")
@click.option("--after", "after_id", type=click.IntRange(min=0), help="Only events after the one with this id.")
@click.option("--limit", type=click.IntRange(min=0), default=50, show_default=True, help="How many at most.")
@as_json
@database
@click.pass_obj
def events(
    url: str | None,
    session_key: str | None,
    kinds: Sequence[str],
    after_id: int | None,
    limit: int,
    as_json: bool,
) -> None:
    """List the newest events, or with --after the next ones, oldest first."""
    with reader(url) as manager:
        found = manager.events(session_key=session_key, kind=kinds or None, after_id=after_id, limit=limit)
    if as_json:
        click.echo(terminal.to_json([event.to_dict() for event in found]))
    elif found:
        terminal.print_events(Console(), found)
    else:
        click.echo("No events.")


@audit.command()
@acting
@as_json
@database
@click.pass_obj
def seal(url: str | None, actor: str | None, as_json: bool) -> None:
    """Seal the log and print the seal's digest.

    Keep the digest where those who can write to the database can't reach it. `verify --expect DIGEST` then tells
    whether the log is still what was sealed. Events that come later are not covered until the next seal.
    """
    with writer(url, actor) as manager:
        made = manager.seal_log()
    if as_json:
        click.echo(terminal.to_json(None if made is None else made.to_dict()))
    elif made is None:
        click.echo("Nothing was logged yet, so there is nothing to seal.")
    else:
        click.echo(made.digest)


@audit.command()
@click.option("--expect", metavar="DIGEST", help="The digest of a seal that the log must hold.")
@click.option("--since", metavar="DIGEST", help="Verify only what came after the seal with this digest.")
@as_json
@database
@click.pass_obj
@click.pass_context
def verify(ctx: click.Context, url: str | None, expect: str | None, since: str | None, as_json: bool) -> None:
    """Verify that the sealed events are as they were sealed.

    Names the first event that was changed, removed or slipped in, with exit code 1. Without --expect, a digest that was
    kept elsewhere, changes by somebody who also remade the seals go unnoticed.
    """
    with reader(url) as manager:
        verdict = manager.verify_log(expect=expect, since=since)
    if as_json:
        click.echo(terminal.to_json(verdict.to_dict()))
    elif verdict.fault is not None:
        # The fault itself goes to stderr: what reads only stdout must not take this for success either.
        click.echo("Not verified")
    else:
        through = "nothing is sealed" if verdict.seal is None else f"sealed through {verdict.seal.through_event_id}"
        click.echo(f"Verified: {verdict.verified:,} events ({through})")
        click.echo(
            f"Deleted: {verdict.expired:,} sealed events, which is allowed once they are older than the log's retention"
        )
        click.echo(f"Not sealed yet: {verdict.unsealed:,} events")
    if verdict.fault is not None:
        where = "The log" if verdict.event_id is None else f"Event {verdict.event_id}"
        click.echo(f"{where}: {verdict.fault}", err=True)
        ctx.exit(1)

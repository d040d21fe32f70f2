"""Commands that read, seal and verify the log."""

from __future__ import annotations

from collections.abc import Sequence
from typing import IO

import click

from sessions_db.cli import tables, terminal
from sessions_db.cli.group import acting, as_json, cli, one_of
from sessions_db.cli.naming import complete_names, find_also_past
from sessions_db.cli.opening import Database, database, reader, writer
from sessions_db.enums import EventKind
from sessions_db.transfer import verify_export
from sessions_db.wording import counted


@cli.group()
def audit() -> None:
    """Read the log, seal it, and verify it."""


@audit.command()
@click.option(
    "--session",
    "session_keys",
    metavar="KEY",
    multiple=True,
    shell_complete=complete_names,
    help="Only what happened to this session; may be repeated.",
)
@click.option("--kind", "kinds", type=one_of(EventKind), multiple=True, help="Only this kind; may be repeated.")
@click.option("--after", "after_id", type=click.IntRange(min=0), help="Only events after the one with this id.")
@click.option("--limit", type=click.IntRange(min=0), default=50, show_default=True, help="How many at most.")
@as_json
@database
@click.pass_obj
def events(
    db: Database,
    session_keys: Sequence[str],
    kinds: Sequence[str],
    after_id: int | None,
    limit: int,
    as_json: bool,
) -> None:
    """List the newest events, or with --after the next ones, oldest first."""
    with reader(db) as manager:
        keys = find_also_past(manager, session_keys)
        found = manager.events(session_key=keys, kind=kinds or None, after_id=after_id, limit=limit)
    if as_json:
        click.echo(terminal.to_json([event.to_dict() for event in found]))
    elif found:
        tables.print_events(terminal.console(), found)
    else:
        click.echo("No events.")


@audit.command()
@acting
@as_json
@database
@click.pass_obj
def seal(db: Database, actor: str | None, as_json: bool) -> None:
    """Seal the log and the messages, and print the seal's digest.

    Keep the digest where those who can write to the database can't reach it. `verify --expect DIGEST` then tells
    whether both are still what was sealed. What comes later is not covered until the next seal.
    """
    with writer(db, actor) as manager:
        made = manager.seal_log()
    if as_json:
        click.echo(terminal.to_json({} if made is None else made.to_dict()))
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
def verify(ctx: click.Context, db: Database, expect: str | None, since: str | None, as_json: bool) -> None:
    """Verify the sealed events and messages.

    Names the first one that was changed, removed or slipped in, with exit code 1. Without --expect, a digest that was
    kept elsewhere, changes by somebody who also remade the seals go unnoticed.
    """
    with reader(db) as manager:
        verdict = manager.verify_log(expect=expect, since=since)
    if as_json:
        click.echo(terminal.to_json(verdict.to_dict()))
    elif verdict.fault is not None:
        # The fault itself goes to stderr: what reads only stdout must not take this for success either.
        click.echo("Not verified")
    else:
        through = "nothing is sealed" if verdict.seal is None else f"sealed through {verdict.seal.through_event_id}"
        click.echo(f"Verified: {counted(verdict.verified, 'event')} ({through})")
        click.echo(f"Deleted: {counted(verdict.expired, 'sealed event')}, which is allowed beyond the log's retention")
        click.echo(
            f"Not sealed yet: {counted(verdict.unsealed, 'event')}, {counted(verdict.messages_unsealed, 'message')}"
        )
        click.echo(
            f"Messages as they were sealed: {verdict.messages_verified:,} (redacted: {verdict.messages_redacted:,}, "
            f"trimmed or removed as the log says: {verdict.messages_gone:,})"
        )
    if verdict.fault is not None:
        where = "The log" if verdict.event_id is None else f"Event {verdict.event_id}"
        click.echo(f"{_place(verdict.session_key, verdict.seq) or where}: {verdict.fault}", err=True)
        ctx.exit(1)


@audit.command("verify-export")
@click.argument("file", type=click.File("rb"), metavar="FILE.jsonl")
@click.option("--expect", metavar="DIGEST", required=True, help="The digest of a seal, kept elsewhere.")
@as_json
@click.pass_context
def verify_export_(ctx: click.Context, file: IO[bytes], expect: str, as_json: bool) -> None:
    """Verify an export with proof, without a database.

    Tells whether its messages are those that were sealed, up to the seal with this digest. Names the first message
    that was changed or slipped in, with exit code 1. Messages that are absent from the file are counted: the file does
    not say whether they were trimmed or removed.
    """
    verdict = verify_export(file, expect)
    if as_json:
        click.echo(terminal.to_json(verdict.to_dict()))
    elif verdict.fault is not None:
        click.echo("Not verified")
    else:
        click.echo(f"Proved: {counted(verdict.proved, 'message')} of {counted(verdict.sessions, 'session')}")
        click.echo(f"Redacted: {counted(verdict.redacted, 'message')}")
        click.echo(f"Absent: {counted(verdict.absent, 'sealed message')}")
        click.echo(f"Not proved: {counted(verdict.unproved, 'message')}, sealed later than that or not at all")
    if verdict.fault is not None:
        where = _place(verdict.session_key, verdict.seq) or "The file"
        click.echo(terminal.one_line(f"{where}: {verdict.fault}"), err=True)
        ctx.exit(1)


def _place(session_key: str | None, seq: int | None) -> str | None:
    if session_key is None:
        return None
    key = terminal.one_line(str(session_key))
    return f"Session {key}" if seq is None else f"Message {seq} of {key}"

"""Commands that show sessions and messages."""

from __future__ import annotations

from collections.abc import Sequence

import click
from rich.console import Console

from sessions_db.cli import tables, terminal, transcript
from sessions_db.cli.group import as_json, cli, one_of
from sessions_db.cli.naming import agent_option, complete_names, find, find_also_past, key_argument
from sessions_db.cli.opening import Database, database, reader
from sessions_db.enums import SessionKind, SessionStatus
from sessions_db.errors import SessionNotFound
from sessions_db.models import Session
from sessions_db.validation import JsonValue

# If a session has more children, `show` prints the newest.
_CHILDREN_SHOWN = 10


@cli.command("list")
@click.option("--kind", "kinds", type=one_of(SessionKind), multiple=True, help="Only this kind; may be repeated.")
@click.option("--active", is_flag=True, help="Only sessions that have not ended.")
@click.option(
    "--status", "statuses", type=one_of(SessionStatus), multiple=True, help="Only this status; may be repeated."
)
@agent_option("Only this agent's sessions.")
@click.option(
    "--parent",
    "parent_key",
    metavar="KEY",
    shell_complete=complete_names,
    help="Only sessions that this one spawned.",
)
@click.option("--limit", type=click.IntRange(min=0), default=50, show_default=True, help="How many at most.")
@as_json
@database
@click.pass_obj
def list_(
    db: Database,
    kinds: Sequence[str],
    active: bool,
    statuses: Sequence[str],
    agent_id: str | None,
    parent_key: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """List sessions, the newest first.

    Only sessions that pass every given filter are listed.
    """
    with reader(db) as manager:
        parent_key = None if parent_key is None else find_also_past(manager, parent_key)
        found = manager.list(
            kinds or None, active, limit, agent_id=agent_id, parent_key=parent_key, status=statuses or None
        )
    if as_json:
        click.echo(terminal.to_json([terminal.without_messages(session) for session in found]))
        return
    if not found:
        click.echo("No sessions.")
        return
    tables.print_sessions(terminal.console(), found)
    if len(found) == limit:
        click.echo(f"These are the newest {limit:,}; --limit shows more.")


@cli.command()
@key_argument
@click.option("--limit", type=click.IntRange(min=0), help="At most this many messages, the newest.")
@click.option("--tools", is_flag=True, help="Tool messages too.")
@click.option("--after", "after_seq", type=click.IntRange(min=0), help="Only messages after this number.")
@click.option("--before", "before_seq", type=click.IntRange(min=0), help="Only messages before this number.")
@click.option("--archived", is_flag=True, help="Archived messages too.")
@as_json
@database
@click.pass_obj
def history(
    db: Database,
    key: str,
    limit: int | None,
    tools: bool,
    after_seq: int | None,
    before_seq: int | None,
    archived: bool,
    as_json: bool,
) -> None:
    """Show the messages of session KEY.

    They come oldest first, as many as the session retains. Long ones are shortened in the table.

    With --archived, also those that the session no longer retains, where it was made with `archive_trimmed`; elsewhere
    they are deleted. With --after, --limit keeps the oldest messages instead of the newest.
    """
    with reader(db) as manager:
        key = find(manager, key)
        messages = manager.history(key, limit, tools, after_seq=after_seq, before_seq=before_seq, archived=archived)
    if messages is None:
        raise SessionNotFound(key)
    if as_json:
        click.echo(terminal.to_json([message.to_dict() for message in messages]))
    elif messages:
        transcript.print_messages(terminal.console(), messages)
    elif tools:
        click.echo("No messages.")
    else:
        click.echo("No messages, tool messages aside (--tools shows them).")


@cli.command()
@key_argument
@as_json
@database
@click.pass_obj
def show(db: Database, key: str, as_json: bool) -> None:
    """Show session KEY and what it spawned.

    With --json its messages too.
    """
    with reader(db) as manager:
        key = find(manager, key)
        session = manager.get(key)
        if session is None:
            raise SessionNotFound(key)
        children = manager.children(key)
    if as_json:
        details: dict[str, JsonValue] = {
            "runtimeSecs": session.runtime_secs(),
            "retainedCount": len(session.messages),
            "children": [terminal.without_messages(child) for child in children],
        }
        click.echo(terminal.to_json({**session.to_dict(), **details}))
        return
    console = terminal.console()
    tables.print_session(console, session)
    if children:
        _print_children(console, children)


def _print_children(console: Console, children: Sequence[Session]) -> None:
    shown = list(reversed(children[-_CHILDREN_SHOWN:]))
    newest = f"the newest {len(shown)} of " if len(shown) < len(children) else ""
    tables.print_heading(console, f"Children: {newest}{len(children):,}")
    tables.print_sessions(console, shown)

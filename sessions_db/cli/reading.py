"""Commands that show a session and its messages."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import click
from rich.console import Console

from sessions_db.cli import tables, terminal, transcript
from sessions_db.cli.group import as_json, cli
from sessions_db.cli.naming import find, key_argument
from sessions_db.cli.opening import Database, database, reader
from sessions_db.enums import Role
from sessions_db.errors import SessionNotFound
from sessions_db.manager import SessionManager
from sessions_db.models import Message, Session
from sessions_db.validation import JsonValue

# If a session has more children, `show` prints the newest.
_CHILDREN_SHOWN = 10


@cli.command()
@key_argument
@click.option("--limit", type=click.IntRange(min=0), help="At most this many messages, the newest.")
@click.option("--tools", is_flag=True, help="Tool messages too.")
@click.option("--after", "after_seq", type=click.IntRange(min=0), help="Only messages after this number.")
@click.option("--before", "before_seq", type=click.IntRange(min=0), help="Only messages before this number.")
@click.option("--archived", is_flag=True, help="Archived messages too.")
@click.option("--full", is_flag=True, help="Whole messages, with their line breaks.")
@click.option("--follow", is_flag=True, help="Go on with what is appended, until the session ends.")
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
    full: bool,
    follow: bool,
    as_json: bool,
) -> None:
    """Show the messages of session KEY.

    They come oldest first, as many as the session retains. Long ones are shortened in the table.

    With --archived, also those that the session no longer retains, where it was made with `archive_trimmed`; elsewhere
    they are deleted. With --after, --limit keeps the oldest messages instead of the newest. With --follow, --json
    prints a line of JSON for each message.
    """
    if follow and (before_seq is not None or (limit is not None and after_seq is not None)):
        raise click.UsageError("With --follow, neither --before can be given nor --after and --limit together.")
    with reader(db) as manager:
        key = find(manager, key)
        until = _last_seq(manager, key) if follow else None
        messages = manager.history(
            key,
            limit,
            tools,
            after_seq=after_seq,
            before_seq=before_seq if until is None else until + 1,
            archived=archived,
        )
        if messages is None:
            raise SessionNotFound(key)
        if until is not None:
            newer = manager.follow(key, max(until, after_seq or 0))
            for message in chain(messages, (each for each in newer if tools or each.role is not Role.TOOL)):
                _print_next(message, in_full=full, as_json=as_json)
            click.echo(f"{terminal.one_line(key)} has ended.", err=True)
            return
    if as_json:
        click.echo(terminal.to_json([message.to_dict() for message in messages]))
    elif messages and full:
        for message in messages:
            transcript.print_message(terminal.console(), message, in_full=True)
    elif messages:
        transcript.print_messages(terminal.console(), messages)
    elif tools:
        click.echo("No messages.")
    else:
        click.echo("No messages, tool messages aside (--tools shows them).")


def _last_seq(manager: SessionManager, key: str) -> int:
    session = manager.get(key)
    if session is None:
        raise SessionNotFound(key)
    return session.message_count


def _print_next(message: Message, *, in_full: bool, as_json: bool) -> None:
    if as_json:
        click.echo(terminal.to_json_line(message.to_dict()))
    else:
        transcript.print_message(terminal.console(), message, in_full=in_full)


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

"""The command line: what to do for each command, and in what words it ends."""

from __future__ import annotations

import errno
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import IO

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from sessions_db import demo, migrate, terminal
from sessions_db.errors import SessionNotFound, SessionsError
from sessions_db.importing import Line, Outcome, import_lines
from sessions_db.manager import DEFAULT_URL, SessionManager, default_url
from sessions_db.models import Session, SessionKind, SessionStatus
from sessions_db.validation import JsonValue

# A shell's exit code for a command that SIGINT ended.
_INTERRUPTED = 130

# Of a session with more children `show` prints the newest.
_CHILDREN_SHOWN = 10


class _Commands(click.Group):
    """The commands, which end with one line where something is wrong outside of them."""

    def invoke(self, ctx: click.Context) -> object:
        """What the command returns."""
        try:
            return super().invoke(ctx)
        except SessionsError as error:
            raise click.ClickException(terminal.printable(str(error))) from error
        except OSError as error:
            if error.errno == errno.EPIPE:  # the reader, `head` say, has had enough: Click ends quietly
                raise
            _drop_unwritten_output()
            raise click.ClickException(terminal.printable(str(error))) from error
        except KeyboardInterrupt:
            click.echo("\nInterrupted", err=True)  # on a line of its own after the terminal's ^C
            ctx.exit(_INTERRUPTED)


def _drop_unwritten_output() -> None:
    """Forget what stdout could not take: Python would try again at its end, complain, and exit with 120."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _name_database(ctx: click.Context, _parameter: click.Parameter, url: str | None) -> None:
    if url is not None:
        ctx.obj = url


# Before the command or after it: people write both.
_db = click.option(
    "--db",
    metavar="URL",
    expose_value=False,
    callback=_name_database,
    help="The database: sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME.  "
    f"[default: $SESSIONS_DB_URL, or {DEFAULT_URL}]",
)


def _url(named: str | None) -> str:
    """The database that the command line, else the environment, names."""
    return named or default_url()


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@_db
@click.version_option(package_name="sessions-db")
def cli() -> None:
    """Look into a database of agent sessions, and put conversations into it.

    An empty database is given its tables by whichever command comes first.
    """


def _one_of(choices: type[StrEnum]) -> click.Choice[str]:
    return click.Choice([choice.value for choice in choices])


_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead, with nothing shortened.")


@cli.command()
@_db
@click.pass_obj
def upgrade(url: str | None) -> None:
    """Bring the database to this release's schema.

    An empty database is given its tables, one that an older release made is migrated; sessions and messages stay.
    Doing it again does nothing.
    """
    with SessionManager(_url(url), migrate=True) as manager:
        before, after = manager.found_revision, migrate.head_revision()
    if before == after:
        click.echo(f"The database is at revision {after} already.")
    elif before is None:
        click.echo(f"The database was empty and is now at revision {after}.")
    else:
        click.echo(f"The database was upgraded from revision {before} to {after}.")


@cli.command("import")
@click.argument("file", type=click.File("rb"), metavar="FILE.jsonl")
@click.option("--agent", "agent_id", metavar="ID", required=True, help="The agent that the conversations belong to.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@_db
@click.pass_obj
@click.pass_context
def import_(ctx: click.Context, url: str | None, file: IO[bytes], agent_id: str, as_json: bool) -> None:
    """Import chat-completions conversations.

    Each line of FILE.jsonl (- is standard input) is a JSON object:

    \b
      {"label": "...", "task": "...", "messages": [{"role": "user", ...}, ...]}

    It becomes a completed sub-agent session under the agent's main session, with its label and its task (both may be
    left out; the task is then the first text from the user). Messages are kept in such a way that they can be rebuilt
    exactly; as everywhere, a session retains the newest 100. What the user and the assistant say is sent to the main
    session too.

    A line that can't be imported is reported with its number; the others are imported, and the exit code is 1. A
    conversation that is there already, from an earlier import or an earlier line, is not imported again, so an import
    that was cut off can simply be repeated.
    """  # noqa: D301  # Click keeps the lines after a backspace as they are
    outcomes: Counter[Outcome] = Counter()
    messages = 0
    with SessionManager(_url(url)) as manager, _progress() as progress:
        task = progress.add_task("Importing", total=_size(file))
        for line in import_lines(manager, agent_id, file):
            outcomes[line.outcome] += 1
            messages += line.messages
            if line.outcome is Outcome.REFUSED:
                progress.console.print(_refusal(line), soft_wrap=True)
            progress.advance(task, line.size)
    imported, already_there, refused = (
        outcomes[outcome] for outcome in (Outcome.IMPORTED, Outcome.ALREADY_THERE, Outcome.REFUSED)
    )
    if as_json:
        click.echo(
            terminal.to_json(
                {"imported": imported, "alreadyThere": already_there, "refused": refused, "messages": messages}
            )
        )
    else:
        click.echo(f"Imported: {imported:,} conversations with {messages:,} messages")
        click.echo(f"Already there: {already_there:,} conversations")
        click.echo(f"Refused: {refused:,} lines")
    if refused:
        ctx.exit(1)


@cli.command("list")
@click.option("--kind", "kinds", type=_one_of(SessionKind), multiple=True, help="Only this kind; may be repeated.")
@click.option("--active", is_flag=True, help="Only sessions that have not ended.")
@click.option("--status", type=_one_of(SessionStatus), help="Only sessions with this status.")
@click.option("--agent", "agent_id", metavar="ID", help="Only this agent's sessions.")
@click.option("--parent", "parent_key", metavar="KEY", help="Only sessions that this one spawned.")
@click.option("--limit", type=click.IntRange(min=0), default=50, show_default=True, help="How many at most.")
@_as_json
@_db
@click.pass_obj
def list_(
    url: str | None,
    kinds: Sequence[str],
    active: bool,
    status: str | None,
    agent_id: str | None,
    parent_key: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """List sessions, the newest first.

    Only those are listed that pass every filter given.
    """
    with SessionManager(_url(url)) as manager:
        found = manager.list(kinds or None, active, limit, agent_id=agent_id, parent_key=parent_key, status=status)
    if as_json:
        click.echo(terminal.to_json([session.to_dict() for session in found]))
        return
    if not found:
        click.echo("No sessions.")
        return
    terminal.print_sessions(Console(), found)
    if len(found) == limit:
        click.echo(f"These are the newest {limit:,}; --limit shows more.")


@cli.command()
@click.argument("key")
@click.option("--limit", type=click.IntRange(min=0), help="Only the newest messages, so many at most.")
@click.option("--tools", is_flag=True, help="Tool messages too.")
@_as_json
@_db
@click.pass_obj
def history(url: str | None, key: str, limit: int | None, tools: bool, as_json: bool) -> None:
    """Show the messages of session KEY.

    They come oldest first, as many as the session retains. Long ones are shortened in the table.
    """
    with SessionManager(_url(url)) as manager:
        messages = manager.history(key, limit, tools)
    if messages is None:
        raise SessionNotFound(key)
    if as_json:
        click.echo(terminal.to_json([message.to_dict() for message in messages]))
    elif messages:
        terminal.print_messages(Console(), messages)
    elif tools:
        click.echo("No messages.")
    else:
        click.echo("No messages, tool messages aside (--tools shows them).")


@cli.command()
@click.argument("key")
@_as_json
@_db
@click.pass_obj
def show(url: str | None, key: str, as_json: bool) -> None:
    """Show session KEY and what it spawned.

    With --json its messages too.
    """
    with SessionManager(_url(url)) as manager:
        session = manager.get(key)
        if session is None:
            raise SessionNotFound(key)
        children = manager.children(key)
    if as_json:
        details: dict[str, JsonValue] = {
            "runtimeSecs": session.runtime_secs(),
            "retainedCount": len(session.messages),
            "children": [child.to_dict() for child in children],
        }
        click.echo(terminal.to_json({**session.to_dict(), **details}))
        return
    console = Console()
    terminal.print_session(console, session)
    if children:
        _print_children(console, children)


@cli.command("demo")
@_db
@click.pass_obj
def demo_(url: str | None) -> None:
    """Play a small run and show what it left.

    Several agents prepare a report, on a SQLite database that is removed in the end. With --db the run is stored in
    that database, under the agent "demo".
    """
    if url is not None:
        _show_demo(url)
        return
    with tempfile.TemporaryDirectory(prefix="sessions-db-demo-") as directory:
        _show_demo(f"sqlite:///{Path(directory, 'demo.db')}")


def _show_demo(url: str) -> None:
    console = Console()
    with SessionManager(url) as manager:
        demo.play(manager)

        _say(console, "An agent was asked for a report. It spawned sub-agents, and a nightly job ran meanwhile.")
        _heading(console, "The sessions, the newest first", f'manager.list(agent_id="{demo.AGENT}")')
        terminal.print_sessions(console, manager.list(agent_id=demo.AGENT))
        _say(
            console,
            f"Two sessions were spawned with the label {demo.LABEL!r}, and the newest owns it: "
            f"manager.get_by_label({demo.LABEL!r}) gives the one that was completed. {demo.REPEATED_TASK!r} was "
            "spawned twice with the same idempotency key, as after a lost connection: it is there once.",
        )

        main = manager.get_or_create_main(demo.AGENT)
        _heading(console, "The main session's history, capped", "manager.history(main.key, limit=3)")
        terminal.print_messages(console, manager.history(main.key, limit=3) or [])
        _say(
            console,
            f"Of {main.message_count} messages the session retains the newest {len(main.messages)}. The database "
            "itself trims the older ones, in the transaction of each append.",
        )

        _heading(console, "An audit query, in plain SQL")
        _say(console, f"{demo.AUDIT_QUERY}\n")
        with manager.transaction() as tx:
            result = tx.connection.exec_driver_sql(demo.AUDIT_QUERY)
            terminal.print_rows(console, result.keys(), result)

    _heading(console, "Where to go on")
    _say(console, "README.md has a quickstart in Python; docs/schema.md explains every table and column.")


def _heading(console: Console, title: str, call: str = "") -> None:
    console.print()
    console.rule(Text.assemble((title, "bold"), (f"  {call}" if call else "", "dim")), align="left")


def _say(console: Console, text: str) -> None:
    console.print(Text(f"\n{text}"))


def _print_children(console: Console, children: Sequence[Session]) -> None:
    shown = list(reversed(children[-_CHILDREN_SHOWN:]))
    newest = f"the newest {len(shown)} of " if len(shown) < len(children) else ""
    _heading(console, f"Children: {newest}{len(children):,}")
    terminal.print_sessions(console, shown)


def _progress() -> Progress:
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.file.isatty())


def _size(file: IO[bytes]) -> int | None:
    """The file's size in bytes; None for a pipe, which has no end in sight."""
    try:
        return os.fstat(file.fileno()).st_size or None
    except OSError:
        return None


def _refusal(line: Line) -> Text:
    return Text(terminal.printable(f"line {line.number}: {line.reason}"))

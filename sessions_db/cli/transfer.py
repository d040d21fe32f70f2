"""Commands that bring sessions into the database."""

from __future__ import annotations

import os
from collections import Counter
from typing import IO

import click
from rich.progress import DownloadColumn
from rich.text import Text

from sessions_db.cli import terminal
from sessions_db.cli.group import acting, as_json, cli, database, progress_bar, writer
from sessions_db.importing import Line, Outcome, import_lines


@cli.command("import")
@click.argument("file", type=click.File("rb"), metavar="FILE.jsonl")
@click.option("--agent", "agent_id", metavar="ID", required=True, help="The agent that the conversations belong to.")
@as_json
@acting
@database
@click.pass_obj
@click.pass_context
def import_(
    ctx: click.Context, url: str | None, file: IO[bytes], agent_id: str, as_json: bool, actor: str | None
) -> None:
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
    with writer(url, actor) as manager, progress_bar(DownloadColumn()) as progress:
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


def _size(file: IO[bytes]) -> int | None:
    """The file's size in bytes; None for a pipe, which has no end in sight."""
    try:
        return os.fstat(file.fileno()).st_size or None
    except OSError:
        return None


def _refusal(line: Line) -> Text:
    return Text(terminal.one_line(f"line {line.number}: {line.reason}"))

"""Commands that import and export sessions."""

from __future__ import annotations

import os
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import click
from rich.progress import DownloadColumn, MofNCompleteColumn
from rich.text import Text

from sessions_db.cli import interruption, terminal
from sessions_db.cli.group import acting, as_json, cli, one_of, progress_bar
from sessions_db.cli.naming import agents_option, complete_agents, complete_names, find
from sessions_db.cli.opening import Database, creator, database, reader
from sessions_db.enums import SessionKind, SessionStatus
from sessions_db.errors import InvalidInput
from sessions_db.escaping import printable
from sessions_db.transfer import Line, Outcome, export_lines, import_lines
from sessions_db.transfer.lines import is_session_line
from sessions_db.wording import counted


@cli.command("import")
@click.argument("file", type=click.File("rb"), metavar="FILE.jsonl")
@click.option(
    "--agent",
    "agent_id",
    metavar="ID",
    shell_complete=complete_agents,
    help="The agent that the conversations belong to.",
)
@as_json
@acting
@database
@click.pass_obj
@click.pass_context
def import_(
    ctx: click.Context, db: Database, file: IO[bytes], agent_id: str | None, as_json: bool, actor: str | None
) -> None:
    """Import exported sessions or chat-completions conversations.

    Each line of FILE.jsonl (- is standard input) is a JSON object of one of two kinds, which may be mixed.

    What `sessions-db export` wrote becomes the same session again, with its key, times, status, labels and messages.
    If a session with that key exists and differs, the line is refused. A label that a session here got later stays
    with it.

    A conversation, which needs --agent (without it, the first one ends the import), looks like this:

    \b
      {"label": "...", "task": "...", "messages": [{"role": "user", ...}, ...]}

    It becomes a completed sub-agent session under the agent's main session, with its label and its task (both may be
    left out; the task is then the first text from the user). Messages are stored so that they can be rebuilt
    exactly; as everywhere, a session retains the newest 100. What the user and the assistant say is sent to the main
    session too.

    A line that can't be imported is reported with its number; the others are imported, and the exit code is 1. What is
    there already, from an earlier import or an earlier line, is not imported again, so an interrupted import can
    simply be repeated.
    """  # noqa: D301  # Click keeps the lines after a backspace as they are
    outcomes: Counter[Outcome] = Counter()
    messages = 0

    def done() -> str:
        return (
            f"Imported by then: {counted(outcomes[Outcome.IMPORTED], 'session')} with "
            f"{counted(messages, 'message')}. Repeating it imports the rest, and nothing twice."
        )

    with (
        interruption.telling(done),
        _naming_agent(agent_id),
        creator(db, actor) as manager,
        progress_bar(DownloadColumn()) as progress,
    ):
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
        click.echo(f"Imported: {counted(imported, 'session')} with {counted(messages, 'message')}")
        click.echo(f"Already there: {counted(already_there, 'session')}")
        click.echo(f"Refused: {counted(refused, 'line')}")
    if refused:
        ctx.exit(1)


@contextmanager
def _naming_agent(agent_id: str | None) -> Iterator[None]:
    """Tell the user, who left the option out, that it is needed."""
    try:
        yield
    except InvalidInput as error:
        if agent_id is not None or error.argument != "agent_id":
            raise
        raise click.UsageError(f"--agent {error.reason}. What came before that line is imported.") from error


def _size(file: IO[bytes]) -> int | None:
    """The file's size in bytes; None for a pipe, whose size is unknown."""
    try:
        return os.fstat(file.fileno()).st_size or None
    except OSError:
        return None


def _refusal(line: Line) -> Text:
    return Text(terminal.one_line(f"line {line.number}: {line.reason}"))


@cli.command()
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write to this file, which appears only when it is complete.  [default: standard output]",
)
@agents_option("Only this agent's sessions")
@click.option("--kind", "kinds", type=one_of(SessionKind), multiple=True, help="Only this kind; may be repeated.")
@click.option(
    "--status", "statuses", type=one_of(SessionStatus), multiple=True, help="Only this status; may be repeated."
)
@click.option(
    "--session",
    "keys",
    metavar="KEY",
    multiple=True,
    shell_complete=complete_names,
    help="Only this session; may be repeated.",
)
@click.option("--proof", is_flag=True, help="Add what proves the messages, for `audit verify-export`.")
@click.option("--json", "as_json", is_flag=True, help="With --output: print what was written as JSON.")
@database
@click.pass_obj
def export(
    db: Database,
    output: Path | None,
    agent_ids: Sequence[str],
    kinds: Sequence[str],
    statuses: Sequence[str],
    keys: Sequence[str],
    proof: bool,
    as_json: bool,
) -> None:
    """Export sessions as JSON Lines.

    Each line is a session with everything about it: its messages, archived ones too, and the labels that it owns.
    The sessions are those of one moment, whatever others write meanwhile, the oldest first. `sessions-db import` reads
    the lines into the same database or another one, SQLite or Postgres; the same sessions give the same lines on both.

    With --proof there are more lines: the seals, and after each session what proves that its messages are those that
    were sealed. `sessions-db audit verify-export` needs no database for that; `sessions-db import` skips these lines.

    The log is not exported: it records what happened in its own database.
    """
    if str(output) == "-":
        output = None
    written = size = 0
    with (
        reader(db) as manager,
        export_lines(
            manager,
            agent_id=agent_ids or None,
            kinds=kinds or None,
            statuses=statuses or None,
            keys=[find(manager, key) for key in keys] or None,
            proof=proof,
        ) as exported,
        _written(output) as (file, on_terminal),
        # Two things that are written to a terminal at once are both unreadable.
        progress_bar(MofNCompleteColumn(), hidden=on_terminal) as progress,
    ):
        task = progress.add_task("Exporting", total=exported.total)
        for line in exported.lines:
            file.write(terminal.safe_json(line) if on_terminal else line)
            size += len(line)
            if is_session_line(line):
                written += 1
                progress.advance(task)
    if output is None or not output.is_file():  # e.g. /dev/stdout, where this would be mixed with the lines
        return
    if as_json:
        click.echo(terminal.to_json({"exported": written, "bytes": size, "file": str(output)}))
    else:
        click.echo(f"Exported: {counted(written, 'session')}, {size:,} bytes, to {printable(str(output))}")


@contextmanager
def _written(output: Path | None) -> Iterator[tuple[IO[bytes], bool]]:
    """Where to write, and whether that is a terminal. A regular file gets its name only if the block succeeds."""
    if output is None:
        # Opened before the bar is shown, which redirects `sys.stdout` to stderr.
        with click.open_file("-", "wb") as stdout:
            yield stdout, stdout.isatty()
            stdout.flush()
    elif output.exists() and not output.is_file():  # a device or a pipe
        with output.open("wb") as file:
            yield file, file.isatty()
    else:
        target = output.resolve()
        if not target.parent.is_dir():
            raise click.ClickException(terminal.one_line(f"The directory {target.parent} does not exist."))
        unfinished = target.with_name(f".export-{uuid.uuid4()}")
        try:
            with unfinished.open("xb") as file:
                yield file, False
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(target)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise

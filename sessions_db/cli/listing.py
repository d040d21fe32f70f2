"""The command that lists sessions."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields

import click

from sessions_db.cli import tables, terminal
from sessions_db.cli.group import as_json, cli, one_of
from sessions_db.cli.naming import agents_option, complete_names, find_also_past
from sessions_db.cli.opening import Database, database, reader
from sessions_db.enums import SessionKind, SessionStatus
from sessions_db.escaping import printable
from sessions_db.models import Session
from sessions_db.models.camel_case import json_name
from sessions_db.validation import JsonValue

_FIELDS = [json_name(field.name) for field in fields(Session) if field.name != "messages"]


class _Fields(click.ParamType[list[str]]):
    name = "fields"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> list[str]:
        """The names, in the order that is given."""
        names = str(value).split(",")
        for name in names:
            if name not in _FIELDS:
                self.fail(f"{name!r} is not one of {', '.join(_FIELDS)}.", param, ctx)
        return names


@cli.command("list")
@click.option("--kind", "kinds", type=one_of(SessionKind), multiple=True, help="Only this kind; may be repeated.")
@click.option("--active", is_flag=True, help="Only sessions that have not ended.")
@click.option(
    "--status", "statuses", type=one_of(SessionStatus), multiple=True, help="Only this status; may be repeated."
)
@agents_option("Only this agent's sessions")
@click.option(
    "--parent",
    "parents",
    metavar="KEY",
    multiple=True,
    shell_complete=complete_names,
    help="Only sessions that this one spawned; may be repeated.",
)
@click.option("--prefix", metavar="TEXT", help="Only sessions whose keys begin with this.")
@click.option("--limit", type=click.IntRange(min=0), default=50, show_default=True, help="How many at most.")
@click.option(
    "--fields",
    "names",
    metavar="NAME,…",
    type=_Fields(),
    help="Only these fields, such as key,status,createdMs: the names are those of --json.",
)
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV instead, with nothing shortened.")
@as_json
@database
@click.pass_obj
def list_(
    db: Database,
    kinds: Sequence[str],
    active: bool,
    statuses: Sequence[str],
    agent_ids: Sequence[str],
    parents: Sequence[str],
    prefix: str | None,
    limit: int,
    names: Sequence[str] | None,
    as_csv: bool,
    as_json: bool,
) -> None:
    """List sessions, the newest first.

    Only sessions that pass every given filter are listed.
    """
    if as_csv and as_json:
        raise click.UsageError("--csv and --json exclude each other.")
    with reader(db) as manager:
        found = manager.list(
            kinds or None,
            active,
            limit,
            key_prefix=prefix,
            agent_id=agent_ids or None,
            parent_key=find_also_past(manager, parents),
            status=statuses or None,
        )
    if as_json:
        click.echo(terminal.to_json([_chosen(session, names) for session in found]))
    elif as_csv:
        click.echo(_as_csv(found, names or _FIELDS), nl=False)
    elif not found:
        click.echo("No sessions.")
    else:
        if names is None:
            tables.print_sessions(terminal.console(), found)
        else:
            tables.print_rows(terminal.console(), names, _rows(found, names))
        if len(found) == limit:
            click.echo(f"These are the newest {limit:,}; --limit shows more.")


def _chosen(session: Session, names: Sequence[str] | None) -> dict[str, JsonValue]:
    shown = terminal.without_messages(session)
    return shown if names is None else {name: shown[name] for name in names if name in shown}


def _as_csv(sessions: Iterable[Session], names: Sequence[str]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for session in sessions:
        values = terminal.without_messages(session)
        writer.writerow(_cell(values.get(name)) for name in names)
    # A program gets what is stored; a terminal would act on some of it.
    return printable(text.getvalue()) if sys.stdout.isatty() else text.getvalue()


def _rows(sessions: Iterable[Session], names: Sequence[str]) -> Iterator[list[str]]:
    for session in sessions:
        values = terminal.without_messages(session)
        yield [_shown(name, values.get(name)) for name in names]


def _shown(name: str, value: JsonValue) -> str:
    return terminal.utc(value) if name.endswith("Ms") and isinstance(value, int) else _cell(value)


def _cell(value: JsonValue) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

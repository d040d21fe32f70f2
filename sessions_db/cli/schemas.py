"""Commands for the schemas of a database, of which each may hold sessions of its own."""

from __future__ import annotations

import click

from sessions_db.cli import interruption, tables, terminal
from sessions_db.cli.audit import audit
from sessions_db.cli.group import as_json, cli
from sessions_db.cli.opening import Database, database, named, waiting
from sessions_db.schemas import DEFAULT_INTO, find_schemas, make_audit_views
from sessions_db.wording import counted


@cli.command()
@as_json
@database
@click.pass_obj
def schemas(db: Database, as_json: bool) -> None:
    """List the schemas of a Postgres database that hold sessions."""
    with waiting() as seconds:
        found = find_schemas(named(db)[0], retry_budget_s=seconds)
    if as_json:
        click.echo(terminal.to_json([each.to_dict() for each in found]))
    elif found:
        rows = [
            (each.name, each.revision or "not readable", terminal.size(each.size_bytes), each.node) for each in found
        ]
        tables.print_rows(terminal.console(), ("SCHEMA", "REVISION", "SIZE", "NODE"), rows)
    else:
        click.echo("No schema holds sessions.")


@audit.command("all-schemas")
@click.option("--into", metavar="NAME", default=DEFAULT_INTO, show_default=True, help="The schema for the views.")
@as_json
@database
@click.pass_obj
def all_schemas(db: Database, into: str, as_json: bool) -> None:
    """Make views over all schemas, or make them anew.

    The view all_sessions has the rows of audit_sessions of every schema, and the schema's name as schema_name; so have
    all_messages, all_events and the others. Run it again when a schema was added.
    """
    interruption.will_change()
    with waiting() as seconds:
        covered = make_audit_views(named(db)[0], into, retry_budget_s=seconds)
    if as_json:
        click.echo(terminal.to_json({"into": into, "schemas": covered}))
    else:
        click.echo(terminal.one_line(f"The views in {into} show {counted(len(covered), 'schema')}."))

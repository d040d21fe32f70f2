"""The command that brings a database up to date."""

from __future__ import annotations

import click

from sessions_db.cli import terminal
from sessions_db.cli.group import as_json, cli
from sessions_db.cli.opening import Database, creator, database, named, named_schema, wait_s
from sessions_db.schemas import distribute_schema
from sessions_db.validation import JsonValue


@cli.command()
@database
@as_json
@click.pass_obj
def upgrade(db: Database, as_json: bool) -> None:
    """Bring the database to this release's schema.

    In an empty database the schema is created, a schema from an older release is migrated; sessions and messages stay.
    Running it again does nothing. On a Citus cluster, the schema that --schema names is distributed: it comes to lie on
    one of the nodes, as a whole.
    """
    with creator(db, migrate=True) as manager:
        before, after = manager.found_revision, manager.revision
    name = named_schema()
    node = None if name is None else distribute_schema(named(db)[0], name, retry_budget_s=wait_s())
    if as_json:
        fields: dict[str, JsonValue] = {"before": before, "after": after, "node": node}
        click.echo(terminal.to_json(terminal.without_none(fields)))
        return
    if node is not None:
        click.echo(f"The schema is on the node {node}.")
    if before == after:
        click.echo(f"The database is at revision {after} already.")
    elif before is None:
        click.echo(f"The database was empty and is now at revision {after}.")
    else:
        click.echo(f"The database was upgraded from revision {before} to {after}.")

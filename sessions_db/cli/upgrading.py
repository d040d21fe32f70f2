"""The command that brings a database up to date."""

from __future__ import annotations

import click

from sessions_db.cli import terminal
from sessions_db.cli.group import as_json, cli
from sessions_db.cli.opening import Database, creator, database


@cli.command()
@database
@as_json
@click.pass_obj
def upgrade(db: Database, as_json: bool) -> None:
    """Bring the database to this release's schema.

    In an empty database the schema is created, a schema from an older release is migrated; sessions and messages stay.
    Running it again does nothing.
    """
    with creator(db, migrate=True) as manager:
        before, after = manager.found_revision, manager.revision
    if as_json:
        click.echo(terminal.to_json(terminal.there({"before": before, "after": after})))
    elif before == after:
        click.echo(f"The database is at revision {after} already.")
    elif before is None:
        click.echo(f"The database was empty and is now at revision {after}.")
    else:
        click.echo(f"The database was upgraded from revision {before} to {after}.")

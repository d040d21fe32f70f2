"""The command that looks for problems in a database."""

from __future__ import annotations

import click
from rich.text import Text

from sessions_db.cli import terminal
from sessions_db.cli.group import as_json, cli
from sessions_db.cli.opening import Database, database, named, named_schema, wait_s
from sessions_db.doctor import examine
from sessions_db.enums import Severity
from sessions_db.escaping import printable

_STYLES = {Severity.OK: "green", Severity.WARNING: "yellow", Severity.FAILURE: "bold red"}


@cli.command()
@click.option("--quick", is_flag=True, help="Leave out the checks that read every message.")
@as_json
@database
@click.pass_obj
@click.pass_context
def doctor(ctx: click.Context, db: Database, quick: bool, as_json: bool) -> None:
    """Look for problems in the database.

    Prints a line for each check: ok, warning or failure. Nothing is changed. The exit code is 1 if there is a failure.
    """
    console = terminal.console()
    findings = []
    for finding in examine(named(db)[0], schema=named_schema(), quick=quick, retry_budget_s=wait_s()):
        findings.append(finding)
        if not as_json:
            line = Text.assemble((f"{finding.outcome.value:8}", _STYLES[finding.outcome]), f"{finding.check}: ")
            console.print(line.append(printable(finding.detail)), soft_wrap=True)
    if as_json:
        click.echo(
            terminal.to_json(
                [
                    {"check": finding.check, "outcome": finding.outcome.value, "detail": finding.detail}
                    for finding in findings
                ]
            )
        )
    if any(finding.outcome is Severity.FAILURE for finding in findings):
        ctx.exit(1)

"""The command that looks for problems in a database."""

from __future__ import annotations

import click
from rich.console import Console
from rich.text import Text

from sessions_db.cli import terminal
from sessions_db.cli.group import as_json, cli, database, named_schema
from sessions_db.default import default_url
from sessions_db.doctor import examine
from sessions_db.enums import Severity

_STYLES = {Severity.OK: "green", Severity.WARNING: "yellow", Severity.FAILURE: "bold red"}


@cli.command()
@click.option("--quick", is_flag=True, help="Leave out the checks that read every message.")
@as_json
@database
@click.pass_obj
@click.pass_context
def doctor(ctx: click.Context, url: str | None, quick: bool, as_json: bool) -> None:
    """Look for problems in the database.

    Prints a line for each check: ok, warning or failure. Nothing is changed. The exit code is 1 if there is a failure.
    """
    console = Console()
    findings = []
    for finding in examine(url or default_url(), schema=named_schema(), quick=quick):
        findings.append(finding)
        if not as_json:
            line = Text.assemble((f"{finding.outcome.value:8}", _STYLES[finding.outcome]), f"{finding.check}: ")
            console.print(line.append(terminal.printable(finding.detail)), soft_wrap=True)
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

"""The command that plays a small run and shows the result."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click
from rich.console import Console
from rich.text import Text

from sessions_db.cli import scenario, tables, terminal, transcript
from sessions_db.cli.group import cli
from sessions_db.cli.opening import Database, creator, database_or


@cli.command("demo")
@database_or("a temporary SQLite file")
@click.pass_obj
def demo_(db: Database) -> None:
    """Play a small run and show the result.

    Several agents prepare a report, on a SQLite database that is removed at the end. With --db the run is stored in
    that database, under the agent "demo".
    """
    if db is not None:
        _show_demo(db)
        return
    with tempfile.TemporaryDirectory(prefix="sessions-db-demo-") as directory:
        _show_demo(f"sqlite:///{Path(directory, 'demo.db')}")


def _show_demo(db: Database) -> None:
    console = terminal.console()
    with creator(db) as manager:
        scenario.play(manager)

        _say(console, "An agent was asked for a report. It spawned sub-agents, and a nightly job ran meanwhile.")
        tables.print_heading(console, "The sessions, the newest first", f'manager.list(agent_id="{scenario.AGENT}")')
        tables.print_sessions(console, manager.list(agent_id=scenario.AGENT))
        _say(
            console,
            f"Two sessions were spawned with the label {scenario.LABEL!r}, and the newest owns it: "
            f"manager.get_by_label({scenario.LABEL!r}) gives the one that was completed. {scenario.REPEATED_TASK!r} "
            "was spawned twice with the same idempotency key, as after a lost connection: it is there once.",
        )

        main = manager.get_or_create_main(scenario.AGENT)
        tables.print_heading(console, "The main session's history, capped", "manager.history(main.key, limit=3)")
        transcript.print_messages(console, manager.history(main.key, limit=3) or [])
        _say(
            console,
            f"Of {main.message_count} messages the session retains the newest {len(main.messages)}. The database "
            "itself trims the older ones, in the transaction of each append.",
        )

        tables.print_heading(console, "An audit query, in plain SQL")
        _say(console, f"{scenario.AUDIT_QUERY}\n")
        with manager.transaction() as tx:
            result = tx.connection.exec_driver_sql(scenario.AUDIT_QUERY)
            tables.print_rows(console, result.keys(), result)

    tables.print_heading(console, "Next steps")
    _say(console, "README.md has a quickstart in Python; docs/audit.md has an auditor's questions with their SQL.")


def _say(console: Console, text: str) -> None:
    console.print(Text(f"\n{text}"))

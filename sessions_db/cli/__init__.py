"""The command `sessions-db`."""

from sessions_db.cli import demo, reading, transfer, upgrading
from sessions_db.cli.group import cli

__all__ = ["cli", "demo", "reading", "transfer", "upgrading"]

"""The command `sessions-db`."""

from sessions_db.cli import audit, demo, doctor, reading, transfer, upgrading
from sessions_db.cli.group import cli

__all__ = ["audit", "cli", "demo", "doctor", "reading", "transfer", "upgrading"]

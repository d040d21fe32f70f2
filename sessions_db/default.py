"""The process's own manager, opened on first use."""

from __future__ import annotations

import atexit
import os
import threading
from typing import Final

from sessions_db.database.fork import in_child
from sessions_db.manager import SessionManager

DEFAULT_URL: Final = "sqlite:///sessions.db"
"""The database if the environment names none."""


def default_url() -> str:
    """The URL in the environment variable `SESSIONS_DB_URL`, or `DEFAULT_URL`."""
    return os.environ.get("SESSIONS_DB_URL") or DEFAULT_URL


_manager: SessionManager | None = None
_lock = threading.Lock()


def session_manager() -> SessionManager:
    """The process's own `SessionManager`, opened on first use from `SESSIONS_DB_URL` (default: a file `sessions.db` in
    the working directory).

    Raises:
        InvalidInput, SchemaMismatch, DatabaseUnavailable: as `SessionManager`.
    """
    global _manager
    with _lock:
        if _manager is None or _manager.closed:
            _manager = SessionManager(default_url())
            atexit.register(_manager.close)
        return _manager


def _renew_lock() -> None:
    global _lock
    # Another thread of the parent process may have held it.
    _lock = threading.Lock()


in_child(_renew_lock)

"""Whether a SQLite file is still the one that was opened.

What is written to a file that was removed or replaced meanwhile is lost, and SQLite says so in rollback mode only.
"""

from __future__ import annotations

import math
import os
import sqlite3
import time
import weakref
from typing import Final

from sqlalchemy import Connection, Dialect, Engine, event

from sessions_db.errors import DatabaseUnavailable

# How many seconds pass until the next look. One for each call took a twentieth of an append (synchronous=NORMAL,
# measured once).
_INTERVAL_S: Final = 0.1


class _File:
    def __init__(self, path: str) -> None:
        self.path = path
        self._identity = _identity(path)
        self._looked_at = time.monotonic()

    def look(self) -> bool:
        """Whether the path still leads to it. Once it does not, each look is a new one."""
        is_same = _identity(self.path) == self._identity
        self._looked_at = time.monotonic() if is_same else -math.inf
        return is_same

    def look_again(self) -> bool:
        """Like `look`, unless the last one was a moment ago."""
        return time.monotonic() - self._looked_at < _INTERVAL_S or self.look()


# The files that are open. By the dialect, which engines for the same file share.
_opened: weakref.WeakKeyDictionary[Dialect, _File] = weakref.WeakKeyDictionary()


def hold_to_file(engine: Engine, file: str) -> None:
    """Have all connections of the engine open the file that the first one has opened."""
    # SQLAlchemy keeps listeners for the life of the process.
    reference = weakref.ref(engine.dialect)

    @event.listens_for(engine, "do_connect")
    def refuse_another(dialect: Dialect, *_: object) -> None:
        if dialect in _opened and not _opened[dialect].look():
            raise sqlite3.OperationalError(_reason(file))

    @event.listens_for(engine, "connect")
    def note(*_: object) -> None:
        if (dialect := reference()) is not None and dialect not in _opened:
            _opened[dialect] = _File(file)


def is_same_file(conn: Connection) -> bool:
    """Whether the path led to the file that the connection has open, a tenth of a second ago at most."""
    file = _opened.get(conn.dialect)
    return file is None or file.look_again()


def require_same_file(conn: Connection) -> None:
    """Do nothing if the path led to the file that the connection has open, a tenth of a second ago at most.

    Raises:
        DatabaseUnavailable: it does not.
    """
    if not is_same_file(conn):
        raise DatabaseUnavailable(_reason(_opened[conn.dialect].path), 0.0)


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)  # noqa: PTH116  # a Path takes twice as long
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _reason(path: str) -> str:
    return f"the file was removed or replaced since it was opened, so open it anew: {path}"

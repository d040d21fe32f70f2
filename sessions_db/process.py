"""What engines need of the process they are in: writers to a SQLite file take turns, and a fork leaves none torn."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
import weakref
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import unquote, urlsplit

from sqlalchemy import URL, Dialect, Engine, Pool, QueuePool, event

from sessions_db.errors import SessionsError
from sessions_db.turns import Turns

# The engines to look after when the process forks.
_engines: weakref.WeakSet[Engine] = weakref.WeakSet()


@dataclass(frozen=True, slots=True)
class Turn:
    """What the threads of the process take turns by, and what it means that one waited in vain."""

    lock: threading.Lock | Turns
    refusal: str


# What the threads that use an engine take turns by: on a SQLite file the writers, else all of them.
_turns: weakref.WeakKeyDictionary[Engine, Turn] = weakref.WeakKeyDictionary()

# Pools that a forked child inherited from its parent. They are kept and never used: both ends of a Postgres
# connection are the parent's.
_inherited: list[Pool] = []

# Held by whoever connects to a SQLite file, and while the process forks.
_connecting = threading.Lock()

# The SQLite files to which this process inherited an open connection from its parent.
_busy: set[str] = set()

# For how long a fork waits for calls of other threads on SQLite.
_FORK_WAIT_S = 1.0


def look_after(engine: Engine, pool_size: int | None = None) -> None:
    """Keep the engine safe across forks, and have threads take turns: to write to a SQLite file, and for the
    connections of any other database, where the engine has no more than `pool_size`.
    """
    _engines.add(engine)
    if _is_sqlite_file(engine):
        # A plain lock, which goes to whoever is there: in order, up to a third less is written (synchronous=NORMAL).
        _turns[engine] = Turn(threading.Lock(), "database is locked by another transaction of this process")
        event.listen(engine, "do_connect", _connect_in_turn)
    elif pool_size is not None:
        _turns[engine] = Turn(Turns(pool_size), f"the pool's connections are in use, all {pool_size} of them")


def turn_of(engine: Engine, *, writing: bool) -> Turn | None:
    """What a thread needs before it asks the engine for a connection, if anything.

    SQLite has one writer at a time, and one that must wait sleeps and tries again. With 64 threads, taking turns brings
    the 99th percentile of an append from 520 to 94 ms.
    """
    return None if _is_sqlite_file(engine) and not writing else _turns.get(engine)


def is_in_memory(url: URL) -> bool:
    """Whether the database is gone with its only connection."""
    return url.get_backend_name() == "sqlite" and (
        url.database in (None, "", ":memory:", "file:", "file::memory:") or url.query.get("mode") == "memory"
    )


def _is_sqlite_file(engine: Engine) -> bool:
    return engine.dialect.name == "sqlite" and not is_in_memory(engine.url)


def _connect_in_turn(dialect: Dialect, _record: object, cargs: Any, cparams: Any) -> Any:
    with _connecting:
        if (file := _file_of(cargs[0])) in _busy:
            raise SessionsError(f"This process was forked while {file} was in use, so it can't use it safely")
        try:
            return dialect.connect(*cargs, **cparams)
        except sqlite3.OperationalError as error:
            # "unable to open database file": which one?
            error.args = (f"{error}: {file}",)
            raise


def _file_of(database: str) -> str:
    """The file's path, also where SQLite is given a URI."""
    return unquote(urlsplit(database).path) if database.startswith("file:") else database


def _before_fork() -> None:
    # SQLite keeps its locks in tables of the process. A child that inherits an open connection believes that it holds
    # the parent's locks and takes none of its own: what it commits can be lost. So none may be open.
    _connecting.acquire()
    for engine in filter(_is_sqlite_file, _engines):
        pool = engine.pool
        engine.dispose(close=False)
        if isinstance(pool, QueuePool):
            until = time.monotonic() + _FORK_WAIT_S
            while pool.checkedout() and time.monotonic() < until:
                time.sleep(0.001)
            if pool.checkedout():
                _busy.add(_file_of(engine.dialect.create_connect_args(engine.url)[0][0]))
        pool.dispose()


def _after_fork_in_parent() -> None:
    _busy.clear()
    _connecting.release()


def _after_fork_in_child() -> None:
    _connecting.release()
    # A thread of the parent's may have had a turn.
    for engine, turn in list(_turns.items()):
        lock = Turns(turn.lock.at_once) if isinstance(turn.lock, Turns) else threading.Lock()
        _turns[engine] = replace(turn, lock=lock)
    for engine in _engines:
        if engine.dialect.name == "postgresql":
            _inherited.append(engine.pool)
            engine.dispose(close=False)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)

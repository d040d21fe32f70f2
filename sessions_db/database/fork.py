"""Fork safety: what must happen to connections, threads and locks when the process forks.

SQLite tracks its file locks in the memory of the process. A child that inherits an open connection assumes that it
holds its parent's locks and takes none of its own, so what it commits can be lost: no connection may be open during a
fork. An inherited Postgres connection still belongs to the parent: the child must neither use nor close it.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable
from types import MethodType
from typing import Any, Final, Protocol

from sqlalchemy import Dialect, Engine, Pool, QueuePool, event

from sessions_db.database import BACKENDS
from sessions_db.database.sqlite import path_of
from sessions_db.errors import UnsafeFork


class Owner(Protocol):
    """Something that keeps an engine's connections between calls."""

    engine: Engine

    @property
    def held(self) -> int:
        """How many connections are lent to blocks, or in use on the caller's own engine."""

    def drop_idle(self) -> None:
        """Return idle connections to the engine's pool, and those in use as soon as they are free."""


_engines: weakref.WeakSet[Engine] = weakref.WeakSet()
_owners: weakref.WeakSet[Any] = weakref.WeakSet()

# What to call in a forked child: functions, and methods for as long as their objects live.
_functions: list[Callable[[], None]] = []
_methods: weakref.WeakKeyDictionary[Any, Callable[[Any], None]] = weakref.WeakKeyDictionary()

# What a child inherited from its parent and must not use, kept alive so that nothing closes it.
_inherited: list[object] = []

# Held while connecting to a SQLite file, and while the process forks.
_connecting = threading.Lock()

# The SQLite files to which this process has inherited an open connection.
_in_use: set[str] = set()

# How long a fork waits for other threads' calls on SQLite.
_WAIT_S: Final = 1.0


def guard(engine: Engine) -> None:
    """Keep the engine safe across forks."""
    _engines.add(engine)
    if _file(engine) is not None:
        event.listen(engine, "do_connect", _connect_unless_forking)


def guard_owner(owner: Owner) -> None:
    """Have the owner drop its idle connections to a SQLite file before a fork."""
    _owners.add(owner)


def in_child(reset: Callable[[], None]) -> None:
    """Call `reset` in each forked child. A method is called only while its object is alive."""
    if isinstance(reset, MethodType):
        _methods[reset.__self__] = reset.__func__
    else:
        _functions.append(reset)


def keep_inherited(value: object) -> None:
    """Keep the parent's connections that this value holds from ever being closed."""
    _inherited.append(value)


def _file(engine: Engine) -> str | None:
    return BACKENDS[engine.dialect.name].file(engine)


def _connect_unless_forking(dialect: Dialect, _record: object, cargs: Any, cparams: Any) -> Any:
    with _connecting:
        if (file := path_of(cargs[0])) in _in_use:
            raise UnsafeFork(file)
        try:
            return dialect.connect(*cargs, **cparams)
        except sqlite3.OperationalError as error:
            # "unable to open database file" does not say which file.
            error.args = (f"{error}: {file}",)
            raise


def _before_fork() -> None:
    _connecting.acquire()
    for engine in list(_engines):
        file = _file(engine)
        if file is None:
            continue
        owners = [owner for owner in list(_owners) if owner.engine is engine]
        # A call that begins now connects anew, and so waits for the fork.
        pool = engine.pool
        engine.dispose(close=False)
        for owner in owners:
            owner.drop_idle()
        if _is_free_in_time(pool, owners):
            pool.dispose()
        else:
            _in_use.add(file)


def _is_free_in_time(pool: Pool, owners: list[Any]) -> bool:
    until = time.monotonic() + _WAIT_S
    while True:
        in_use = pool.checkedout() if isinstance(pool, QueuePool) else 0
        # Blocks may use a connection of a pool that an earlier fork has replaced, or of one that does not count.
        if not in_use and not any(owner.held for owner in owners):
            return True
        if time.monotonic() > until:
            return False
        time.sleep(0.001)


def _after_fork_in_parent() -> None:
    _in_use.clear()
    _connecting.release()


def _after_fork_in_child() -> None:
    _connecting.release()
    for engine in list(_engines):
        if BACKENDS[engine.dialect.name].is_on_a_server:
            _inherited.append(engine.pool)
            engine.dispose(close=False)
    for function in _functions:
        function()
    for owner, method in list(_methods.items()):
        method(owner)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)

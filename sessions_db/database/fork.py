"""Fork safety: what must happen to connections, threads and locks when the process forks.

SQLite tracks its file locks in the memory of the process. A child that inherits an open connection assumes that it
holds its parent's locks and takes none of its own, so what it commits can be lost: no connection may be open during a
fork. An inherited Postgres connection still belongs to the parent: the child must neither use nor close it.
"""

from __future__ import annotations

import os
import sqlite3
import time
import weakref
from collections.abc import Callable
from types import MethodType
from typing import Any, Final, Protocol

from sqlalchemy import Dialect, Engine, Pool, PoolProxiedConnection, QueuePool, event

from sessions_db.database import BACKENDS
from sessions_db.database.connecting import CONNECTING, FilePool
from sessions_db.database.paths import path_of
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

# Those with our listeners. Engines that are derived from one another share their dialect and their pool's listeners,
# and each manager on the caller's engine derives one.
_guarded: weakref.WeakSet[Dialect] = weakref.WeakSet()

# What to call in a forked child: functions, and methods for as long as their objects live.
_functions: list[Callable[[], None]] = []
_methods: weakref.WeakKeyDictionary[Any, Callable[[Any], None]] = weakref.WeakKeyDictionary()

# What a child inherited from its parent and must not use, kept alive so that nothing closes it.
_inherited: list[object] = []

# The SQLite files to which this process has inherited an open connection.
_in_use: set[str] = set()

# The pools that were in use during a fork, each with its engine.
_replaced: list[tuple[Engine, Pool]] = []

# The connections that pools which do not count have given out, and those that came back but are still referenced.
_given_out: weakref.WeakSet[PoolProxiedConnection] = weakref.WeakSet()

# Of a pooled connection's `info`: its file.
_FILE: Final = "sessions_db_file"

# How long a fork waits for other threads' calls on SQLite.
_WAIT_S: Final = 1.0


def guard(engine: Engine) -> None:
    """Keep the engine safe across forks."""
    _engines.add(engine)
    if _file(engine) is not None and engine.dialect not in _guarded:
        _guarded.add(engine.dialect)
        event.listen(engine, "do_connect", _connect_unless_forking)
        event.listen(engine, "connect", _refuse_inherited, insert=True)
        if not isinstance(engine.pool, QueuePool):
            event.listen(engine, "checkout", _count)


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
    with CONNECTING:
        if (file := path_of(cargs[0])) in _in_use:
            raise UnsafeFork(file)
        try:
            return dialect.connect(*cargs, **cparams)
        except sqlite3.OperationalError as error:
            # "unable to open database file" does not say which file.
            error.args = (f"{error}: {file}",)
            raise


def _refuse_inherited(connection: sqlite3.Connection, record: Any) -> None:
    # SQLAlchemy does not ask before a `creator` of the caller's connects.
    if (file := _note_file(connection, record)) in _in_use:
        connection.close()
        raise UnsafeFork(file)


def _count(connection: sqlite3.Connection, record: Any, given_out: PoolProxiedConnection) -> None:
    # The pool may have made the connection before it was guarded.
    _note_file(connection, record)
    _given_out.add(given_out)


def _note_file(connection: sqlite3.Connection, record: Any) -> str:
    if _FILE not in record.info:
        cursor = connection.cursor()
        cursor.row_factory = None
        record.info[_FILE] = path_of(os.fsdecode(cursor.execute("PRAGMA database_list").fetchone()[2]))
        cursor.close()
    return str(record.info[_FILE])


def _before_fork() -> None:
    CONNECTING.acquire()
    until = time.monotonic() + _WAIT_S
    # Several managers may share the pool of the caller's engine.
    sharing = [(owner, owner.engine.pool) for owner in list(_owners)]
    for engine in list(_engines):
        file = _file(engine)
        if file is None:
            continue
        # A call that begins now connects anew, and so waits for the fork.
        pool = engine.pool
        owners = [owner for owner, shared in sharing if shared is pool]
        engine.dispose(close=False)
        _succeed(pool, engine.pool)
        for owner in owners:
            owner.drop_idle()
        if _is_free_in_time(pool, file, owners, until):
            pool.dispose()
        else:
            _in_use.add(file)
            _replaced.append((engine, pool))


def _succeed(pool: Pool, successor: Pool) -> None:
    """Have callers that wait for the fork in this pool go on in the other, which takes its place."""
    if isinstance(pool, FilePool) and isinstance(successor, FilePool):
        pool.successor, successor.successor = successor, None


def _is_free_in_time(pool: Pool, file: str, owners: list[Any], until: float) -> bool:
    while True:
        in_use = pool.checkedout() if isinstance(pool, QueuePool) else _number_given_out(file)
        # Blocks may use a connection of a pool that an earlier fork has replaced.
        if not in_use and not any(owner.held for owner in owners):
            return True
        if time.monotonic() > until:
            return False
        time.sleep(0.001)


def _number_given_out(file: str) -> int:
    return sum(given_out.is_valid and given_out.info.get(_FILE) == file for given_out in list(_given_out))


def _after_fork_in_parent() -> None:
    _in_use.clear()
    # Otherwise nothing would close what returns to a pool that no engine has. The last one first: engines that share a
    # pool have replaced it one after the other.
    while _replaced:
        engine, pool = _replaced.pop()
        _succeed(engine.pool, pool)
        engine.pool = pool
    CONNECTING.release()


def _after_fork_in_child() -> None:
    CONNECTING.release()
    _inherited.extend(_replaced)
    _replaced.clear()
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

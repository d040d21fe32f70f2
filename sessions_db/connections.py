"""Who may use which connection, and when: threads take turns, and a fork leaves nothing torn."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote, urlsplit

from sqlalchemy import URL, Connection, Dialect, Engine, Pool, QueuePool, event

from sessions_db.errors import DatabaseUnavailable, SessionsError
from sessions_db.retry import RetryBudget
from sessions_db.turns import Turns


class Connections:
    """The connections of an engine, each for one thread at a time.

    Those of an engine of the library's own are kept from call to call, as SQLAlchemy's `Connection`s: to get one from
    the pool and to give it back each time takes a fifth of an append to SQLite (synchronous=NORMAL).

    Args:
        engine: an engine of the library's own, or the caller's.
        owned: whether it is the library's own; the caller may share the connections of another.
    """

    def __init__(self, engine: Engine, *, owned: bool) -> None:
        self.engine = engine
        self.closed = False
        self._owned = owned
        self._idle: list[Connection] = []
        self._renew_turns()
        _managed.add(self)
        if owned:
            # One broke, and those that lie idle may have as well.
            event.listen(engine, "invalidate", lambda *_: self.drop_idle())

    def _renew_turns(self) -> None:
        pool = self.engine.pool
        self._turns = Turns(pool.size()) if self._owned and isinstance(pool, QueuePool) else None
        # SQLite has one writer at a time, and one that must wait sleeps and tries again. With 64 threads, taking turns
        # brings the 99th percentile of an append from 520 to 94 ms. The lock goes to whoever is there: in order, up to
        # a third less is written (synchronous=NORMAL).
        self._writing = threading.Lock() if _is_sqlite_file(self.engine) else None

    @contextmanager
    def use(
        self,
        budget: RetryBudget,
        connect: Callable[[], Connection],
        *,
        writing: bool,
        lent: bool = False,
    ) -> Iterator[Connection]:
        """A connection for the block, once it is this thread's turn.

        Args:
            budget: how long to wait for the turn.
            connect: gives a new connection of the engine, where none is at hand.
            writing: whether the block writes.
            lent: whether others get hold of the connection, and may leave it with other options.

        Raises:
            DatabaseUnavailable: the budget was spent before.
            SessionsError: the connections are closed.
        """
        if self.closed:
            raise SessionsError("This SessionManager is closed")
        # Each is given back where it was taken: a fork replaces them, and who drops idle connections their list.
        lock, turns, idle = self._writing if writing else None, self._turns, self._idle
        # The lock comes first: a writer that waits for it keeps no connection from those who read.
        if lock is not None and not lock.acquire(timeout=budget.left_s):
            raise DatabaseUnavailable("database is locked by another transaction of this process", budget.spent_s)
        try:
            if turns is not None and not turns.acquire(timeout=budget.left_s):
                refusal = f"the pool's connections are in use, all {turns.at_once} of them"
                raise DatabaseUnavailable(refusal, budget.spent_s)
            try:
                conn = self._idle_of(idle) or connect()
                try:
                    yield conn
                finally:
                    self._give_back(conn, idle, lent=lent)
            finally:
                if turns is not None:
                    turns.release()
        finally:
            if lock is not None:
                lock.release()

    def _idle_of(self, idle: list[Connection]) -> Connection | None:
        while conn := _newest(idle):
            # A `Connection` logs, or does not, as was asked for when it was made.
            if conn._echo == self.engine._should_log_info():  # noqa: SLF001  # neither has a public name
                return conn
            conn.close()
        return None

    def _give_back(self, conn: Connection, idle: list[Connection], *, lent: bool) -> None:
        if not self._owned or lent or conn.invalidated:
            self._close(conn)
            return
        conn.rollback()
        idle.append(conn)
        if idle is not self._idle:
            self._close_all(idle)

    def _close(self, conn: Connection) -> None:
        if self.closed and self._owned and not (conn.closed or conn.invalidated):
            # The pool that it would go back to is gone.
            conn.detach()
        conn.close()

    def _close_all(self, idle: list[Connection]) -> None:
        while conn := _newest(idle):
            self._close(conn)

    def drop_idle(self) -> None:
        """Give the pool what is kept, and what is in use when it is given back."""
        idle, self._idle = self._idle, []
        self._close_all(idle)

    def close(self) -> None:
        """Close the connections, those in use when they are given back. What is the caller's stays open."""
        self.closed = True
        self.drop_idle()
        if self._owned:
            self.engine.dispose()

    def begin_in_child(self) -> None:
        """Begin anew in a process that was forked from the one that has used the connections so far."""
        if not is_in_memory(self.engine.url):
            # They are not closed: both ends of a Postgres connection are the parent's.
            _inherited.append(self._idle)
            self._idle = []
        # Another thread of the parent's may have had a turn.
        self._renew_turns()


def _newest(idle: list[Connection]) -> Connection | None:
    try:
        return idle.pop()
    except IndexError:
        return None


_managed: weakref.WeakSet[Connections] = weakref.WeakSet()

# The engines to look after when the process forks.
_engines: weakref.WeakSet[Engine] = weakref.WeakSet()

# What a forked child got from its parent and never uses, kept so that nothing closes it.
_inherited: list[Pool | list[Connection]] = []

# Held by whoever connects to a SQLite file, and while the process forks.
_connecting = threading.Lock()

# The SQLite files to which this process inherited an open connection from its parent.
_busy: set[str] = set()

# For how long a fork waits for calls of other threads on SQLite.
_FORK_WAIT_S = 1.0


def look_after(engine: Engine) -> None:
    """Keep the engine safe across forks."""
    _engines.add(engine)
    if _is_sqlite_file(engine):
        event.listen(engine, "do_connect", _connect_in_turn)


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
        for connections in _managed:
            if connections.engine is engine:
                connections.drop_idle()
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
    for engine in _engines:
        if engine.dialect.name == "postgresql":
            _inherited.append(engine.pool)
            engine.dispose(close=False)
    for connections in _managed:
        connections.begin_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)

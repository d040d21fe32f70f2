"""Which thread uses which connection, and when."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Dialect, Engine, QueuePool, StaticPool, event

from sessions_db.database import BACKENDS
from sessions_db.database.fork import guard_owner, in_child, keep_inherited
from sessions_db.database.retry import RetryBudget
from sessions_db.database.semaphores import FairSemaphore, Semaphore, Token, UnfairSemaphore
from sessions_db.database.statement import logs_as_its_engine
from sessions_db.database.transactions import raising_what_interrupts
from sessions_db.errors import DatabaseUnavailable, ManagerClosed

_log = logging.getLogger("sessions_db")

# For each engine with one connection, which several managers may share. By its dialect: engines that are derived from
# one another have it in common, and it outlives the pool, which `dispose` replaces.
_one_at_a_time: weakref.WeakKeyDictionary[Dialect, FairSemaphore] = weakref.WeakKeyDictionary()


def _forget_semaphores() -> None:
    # Another thread of the parent process may have held one.
    _one_at_a_time.clear()


in_child(_forget_semaphores)


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolStatus:
    """A manager's connections at this moment.

    Args:
        size: the most connections that there can be; None for the caller's own engine.
        in_use: connections that a call or a `transaction()` is using.
        idle: open connections that nobody is using.
        waiting: calls waiting for a connection, for the write lock (SQLite), or for other appends of the manager.
    """

    size: int | None
    in_use: int
    idle: int
    waiting: int


class Connections:
    """The connections of an engine, each used by one thread at a time.

    Those of the library's own engine are kept between calls as SQLAlchemy `Connection`s: checking one out of the pool
    and returning it on every call took a fifth of the time of an append to SQLite (synchronous=NORMAL, measured once).

    Args:
        engine: the library's own engine, or the caller's.
        owned: whether it is the library's own. The caller may use the connections of its own engine elsewhere.
    """

    def __init__(self, engine: Engine, *, owned: bool) -> None:
        self.engine = engine
        self.closed = False
        self.generation = 0
        """How often all idle connections were dropped, because one of them broke or before a fork."""
        self._backend = BACKENDS[engine.dialect.name]
        self._owned = owned
        self._idle: list[Connection] = []
        self._renew_locks()
        guard_owner(self)
        in_child(self._begin_in_child)
        if owned:
            _drop_idle_on_disconnect(self)

    def _renew_locks(self) -> None:
        pool = self.engine.pool
        self._semaphore: Semaphore | None = None
        if self._owned and isinstance(pool, QueuePool):
            self._semaphore = FairSemaphore(pool.size())
        elif isinstance(pool, StaticPool):
            # It gives the same connection to all threads at once.
            self._semaphore = _one_at_a_time.setdefault(self.engine.dialect, FairSemaphore(1))
        # SQLite has one writer at a time; others sleep and retry. With 64 threads, an in-process lock lowered the 99th
        # percentile of an append from 520 to 94 ms. The lock is not fair: in order of arrival, throughput was up to a
        # third lower (synchronous=NORMAL, measured once with `benchmarks`, section concurrency).
        has_one_writer = self._backend.file(self.engine) is not None
        self._write_lock = UnfairSemaphore(1) if has_one_writer else None
        self._held: weakref.WeakSet[Connection] = weakref.WeakSet()

    @contextmanager
    def use(
        self,
        budget: RetryBudget,
        connect: Callable[[], Connection],
        *,
        writing: bool,
        lent: bool = False,
    ) -> Iterator[Connection]:
        """A connection for the block, as soon as one is free.

        Args:
            budget: how long to wait for it.
            connect: opens a new connection of the engine, if none is idle.
            writing: whether the block writes.
            lent: whether the connection is handed to the caller, who may change its options.

        Raises:
            DatabaseUnavailable: the budget ran out first.
            ManagerClosed: the connections are closed.
        """
        if self.closed:
            raise ManagerClosed
        # Kept, to release what was acquired: a fork replaces the locks, and dropping idle connections their list.
        write_lock, semaphore, idle = self._write_lock if writing else None, self._semaphore, self._idle
        writes = token = conn = None
        completed = False
        try:
            # The write lock comes first: a writer that waits for it must not keep a connection from readers.
            if write_lock is not None and (writes := _acquired(write_lock, budget)) is None:
                raise DatabaseUnavailable("database is locked by another transaction of this process", budget.spent_s)
            if semaphore is not None and (token := _acquired(semaphore, budget)) is None:
                refusal = f"the pool's connections are in use, all {semaphore.size} of them"
                raise DatabaseUnavailable(refusal, budget.spent_s)
            conn = self._take(idle, connect)
            if lent or not self._owned:
                self._held.add(conn)
            yield conn
            completed = True
        finally:
            # What an exception keeps from being released here is released when the exception is dropped.
            try:
                if conn is not None:
                    self._give_back(conn, idle, lent=lent, completed=completed)
            finally:
                if semaphore is not None and token is not None:
                    semaphore.release(token)
                if write_lock is not None and writes is not None:
                    write_lock.release(writes)

    @property
    def held(self) -> int:
        """How many connections are lent to blocks, or in use on the caller's own engine."""
        # Not its length, which counts what was dropped while an exception interrupted the set.
        return sum(1 for _ in self._held)

    def status(self) -> PoolStatus:
        """The current figures. Each is read separately, so under load they may not add up exactly."""
        pool = self.engine.pool
        waiting = [lock.waiting for lock in (self._semaphore, self._write_lock) if lock is not None]
        return PoolStatus(
            size=None if self._semaphore is None else self._semaphore.size,
            in_use=self.held if self._semaphore is None else self._semaphore.taken,
            idle=len(self._idle) + (pool.checkedin() if isinstance(pool, QueuePool) else 0),
            waiting=sum(waiting),
        )

    def _take(self, idle: list[Connection], connect: Callable[[], Connection]) -> Connection:
        while True:
            conn = _newest(idle) or connect()
            if not self._backend.is_usable(conn):
                conn.invalidate()
            elif logs_as_its_engine(conn):
                return conn
            raising_what_interrupts(conn.close)

    def _give_back(self, conn: Connection, idle: list[Connection], *, lent: bool, completed: bool) -> None:
        if lent or not self._owned:
            self._held.discard(conn)
        if not (completed or conn.closed or conn.invalidated or self._backend.is_idle(conn)):
            # An exception interrupted a statement, and the next one would meet what is left of it.
            conn.invalidate()
        if not self._owned or lent or conn.invalidated:
            self._close(conn)
            return
        raising_what_interrupts(conn.rollback)
        idle.append(conn)
        if idle is not self._idle:
            self._close_all(idle)

    def _close(self, conn: Connection) -> None:
        if self.closed and self._owned and not (conn.closed or conn.invalidated):
            # The pool that it would return to no longer exists.
            conn.detach()
        raising_what_interrupts(conn.close)

    def _close_all(self, idle: list[Connection]) -> None:
        while conn := _newest(idle):
            self._close(conn)

    def drop_idle(self) -> None:
        """Return idle connections to the engine's pool, and those in use as soon as they are free."""
        idle, self._idle = self._idle, []
        self.generation += 1
        self._close_all(idle)

    def close(self) -> None:
        """Close the connections, those in use as soon as they are free. The caller's own stay open."""
        self.closed = True
        self.drop_idle()
        if self._owned:
            self.engine.dispose()

    def _begin_in_child(self) -> None:
        if not self._backend.is_in_memory(self.engine.url):
            keep_inherited(self._idle)
            self._idle = []
        # Another thread of the parent process may have held one.
        self._renew_locks()


def _acquired(semaphore: Semaphore, budget: RetryBudget) -> Token | None:
    # Tokens are mostly free, and then nobody has to read the clock.
    return semaphore.try_acquire() or semaphore.acquire(timeout=budget.left_s)


def _newest(idle: list[Connection]) -> Connection | None:
    try:
        return idle.pop()
    except IndexError:
        return None


def _drop_idle_on_disconnect(connections: Connections) -> None:
    # SQLAlchemy keeps listeners for the life of the process: a strong reference would keep the object alive too.
    reference = weakref.ref(connections)

    @event.listens_for(connections.engine, "invalidate")
    def drop_idle(_connection: Any, _record: object, error: BaseException | None) -> None:
        if (found := reference()) is not None:
            reason = "ended by the server" if error is None else type(error).__name__
            _log.warning("A connection broke and is replaced, with all idle ones: %s", reason)
            found.drop_idle()

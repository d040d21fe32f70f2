"""How a manager runs an operation: on a connection that meets its needs, repeated while that is safe."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import ParamSpec, TypeVar

from sqlalchemy import Connection, Engine

from sessions_db.database import BACKENDS
from sessions_db.database.connections import Connections
from sessions_db.database.retry import Retry, RetryBudget
from sessions_db.database.transactions import raising_what_interrupts, transaction
from sessions_db.errors import ReadOnly
from sessions_db.operations.acting import acting_as, take_back_names
from sessions_db.operations.operation import Needs, Operation

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Calls:
    """Runs operations, each a call of its own.

    Args:
        engine: the library's own engine, or the caller's.
        owned: whether it is the library's own.
        actor: the name for the log.
        read_only: whether operations that write are refused.
        retry_budget_s: seconds for all attempts of a call.
    """

    def __init__(
        self, engine: Engine, *, owned: bool, actor: str | None, read_only: bool, retry_budget_s: float
    ) -> None:
        self.connections = Connections(engine, owned=owned)
        self.backend = BACKENDS[engine.dialect.name]
        self.read_only = read_only
        self._engine = engine
        self.owned = owned
        self._actor = actor
        self.retry_budget_s = retry_budget_s

    def run(self, operation: Operation[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """What the operation returns."""
        needs = operation.needs
        writing = not needs.is_reading
        if self.read_only and writing:
            raise ReadOnly
        retry = self.retry()
        in_transaction = needs in (Needs.SNAPSHOT, Needs.TRANSACTION) or (
            needs in (Needs.LOGGED_STATEMENT, Needs.UNNAMED_STATEMENT) and self._actor is not None
        )

        def attempt() -> _T:
            with self.connection(retry, writing=writing) as conn:
                if in_transaction:
                    with self.begun(conn, read_only=not writing):
                        retry.sent = writing
                        return operation.function(conn, *args, **kwargs)
                retry.sent = writing
                if needs is Needs.LOGGED_STATEMENT:
                    take_back_names(conn)
                result = operation.function(conn, *args, **kwargs)
                self.commit(conn)
                return result

        return retry.run(attempt)

    def commit(self, conn: Connection) -> None:
        """Commit what a statement did, on the caller's engine, which may begin transactions by itself."""
        if not self.owned:
            raising_what_interrupts(conn.commit)

    @contextmanager
    def begun(self, conn: Connection, *, read_only: bool) -> Iterator[None]:
        """Have the block be a transaction."""
        with transaction(conn, read_only=read_only), nullcontext() if read_only else acting_as(conn, self._actor):
            yield

    def connection(self, retry: Retry, *, writing: bool, lent: bool = False) -> AbstractContextManager[Connection]:
        """A connection for the block."""
        connect = partial(retry.connect, self._engine.connect)
        return self.connections.use(retry.budget, connect, writing=writing, lent=lent)

    def retry(self) -> Retry:
        """The attempts of a call that begins now."""
        longest_wait_s = self.backend.longest_wait_s if self.owned else 1.0
        budget = RetryBudget(self.retry_budget_s, longest_wait_s=longest_wait_s)
        return Retry(self.backend, budget, password=self._engine.url.password)

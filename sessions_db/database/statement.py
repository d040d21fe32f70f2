"""Frequent statements, compiled once for each kind of database and sent through the driver's own cursor.

The only module that uses SQLAlchemy's private names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, cast

from sqlalchemy import ClauseElement, Connection
from sqlalchemy.sql.compiler import SQLCompiler

_Text: TypeAlias = tuple[str, dict[str, Any], list[str] | None]

SENT_DIRECTLY = "sessions_db_sent_directly"
"""The execution option of an engine on whose connections `Statement` may bypass `Connection.execute`."""


class Statement:
    """A statement that is built and compiled when it is first sent to each kind of database.

    `Connection.execute` looks up a statement by its structure, converts each parameter and row by type, and creates a
    context and a result for each execution. That took as long as SQLite takes to append a message (measured once), and
    none of it is needed here: values are passed in the form that the drivers accept (JSON as text) and returned as the
    drivers return them.
    """

    def __init__(self, build: Callable[[str], ClauseElement]) -> None:
        """`build` makes the statement for a dialect, given by name."""
        self._build = build
        self._by_dialect: dict[str, _Text] = {}

    def rows(
        self, conn: Connection, parameters: Mapping[str, object], first: Sequence[object] = ()
    ) -> Sequence[Sequence[Any]]:
        """All rows of the statement; none if it returns no rows.

        Args:
            conn: a connection.
            parameters: the values of its parameters.
            first: the values of those that come first in it, which then are not named: there may be thousands. Only
                where the driver takes parameters by their positions.
        """
        sql, literals, order = self._text(conn)
        if order is None:
            return rows_of(conn, sql, {**literals, **parameters})
        # Without a copy of all names: it would have those of `first` too.
        rest = [parameters[name] if name in parameters else literals[name] for name in order[len(first) :]]
        return rows_of(conn, sql, (*first, *rest))

    def _text(self, conn: Connection) -> _Text:
        text = self._by_dialect.get(conn.dialect.name)
        if text is None:
            compiled = cast(SQLCompiler, self._build(conn.dialect.name).compile(dialect=conn.dialect))
            text = compiled.string, dict(compiled.params), compiled.positiontup
            self._by_dialect[conn.dialect.name] = text
        return text


def rows_of(conn: Connection, sql: str, values: dict[str, Any] | tuple[Any, ...]) -> Sequence[Sequence[Any]]:
    """All rows of a statement in the driver's own form; none if it returns no rows."""
    if _is_watched(conn):
        result = conn.exec_driver_sql(sql, values)
        return result.all() if result.returns_rows else []
    cursor = conn.connection.cursor()
    try:
        cursor.execute(sql, values)
        # Not asked of `description`, for which psycopg makes an object of each column: a twentieth of a read's time
        # (measured once). Without rows its `rownumber` is None; sqlite3 has no such attribute, and fetches none.
        has_rows = getattr(cursor, "rownumber", 0) is not None
        # Fetch to the end: SQLite commits in the last step, and only then reports what went wrong.
        rows = cursor.fetchall() if has_rows else []
    except conn.dialect.loaded_dbapi.Error as error:
        # Raises SQLAlchemy's own error. Any other exception, such as one of a signal handler, is raised as it is.
        conn._handle_dbapi_exception(error, sql, None, cursor, None)  # noqa: SLF001  # it has no public name
    cursor.close()
    return rows


def _is_watched(conn: Connection) -> bool:
    """Whether SQLAlchemy must see each statement: for its log, for listeners such as tracing, or because the engine is
    the caller's, and may begin transactions by itself.
    """
    return (
        not conn.get_execution_options().get(SENT_DIRECTLY)
        or conn._has_events  # noqa: SLF001  # what SQLAlchemy itself checks before it calls listeners
        or conn.engine._has_events  # noqa: SLF001
        or conn._echo  # noqa: SLF001
    )


def logs_as_its_engine(conn: Connection) -> bool:
    """Whether the connection logs statements as its engine does now; it keeps the setting that it was opened with."""
    return bool(conn._echo == conn.engine._should_log_info())  # noqa: SLF001  # neither has a public name

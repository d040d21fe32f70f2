"""Statements that are sent often: rendered once for each database, and sent by the driver's own cursor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, cast

from sqlalchemy import ClauseElement, Connection
from sqlalchemy.sql.compiler import SQLCompiler

_Text: TypeAlias = tuple[str, dict[str, Any], list[str] | None]

SENT_DIRECTLY = "sessions_db_sent_directly"
"""The execution option of an engine whose connections `Rendered` may use past SQLAlchemy's execution."""


class Rendered:
    """A statement that is built and rendered when it is first sent to a database of each kind.

    `Connection.execute` looks a statement up in a cache by its structure, processes each parameter and row by its
    type, and keeps a context and a result for each execution. That takes as long as SQLite takes to append a message,
    and none of it is needed here: values are passed as the drivers take them (JSON as text) and come back as the
    drivers give them.
    """

    def __init__(self, build: Callable[[str], ClauseElement]) -> None:
        """`build` makes the statement for a dialect, given by its name."""
        self._build = build
        self._by_dialect: dict[str, _Text] = {}

    def rows(self, conn: Connection, parameters: Mapping[str, object]) -> Sequence[Sequence[Any]]:
        """All rows of the statement, with values for its named parameters."""
        text = self._by_dialect.get(conn.dialect.name)
        if text is None:
            text = self._by_dialect[conn.dialect.name] = self._render(conn)
        sql, literals, order = text
        named = {**literals, **parameters}
        values = named if order is None else tuple([named[name] for name in order])
        if _is_watched(conn):
            return conn.exec_driver_sql(sql, values).all()
        cursor = conn.connection.cursor()
        try:
            cursor.execute(sql, values)
            # To the end: SQLite commits with the last step, and says only then what went wrong.
            rows = cursor.fetchall()
        except BaseException as error:  # noqa: BLE001  # it is raised again
            # As SQLAlchemy's own error. If the connection is broken, or was left in the middle, the pool drops it.
            conn._handle_dbapi_exception(error, sql, None, cursor, None)  # noqa: SLF001  # it has no public name
        cursor.close()
        return rows

    def _render(self, conn: Connection) -> _Text:
        compiled = cast(SQLCompiler, self._build(conn.dialect.name).compile(dialect=conn.dialect))
        return compiled.string, dict(compiled.params), compiled.positiontup


def _is_watched(conn: Connection) -> bool:
    """Whether SQLAlchemy is to know of each statement: for a log, for somebody's listeners (tracing, say), or because
    the engine is the caller's, who may have it begin transactions by itself.
    """
    return (
        not conn.get_execution_options().get(SENT_DIRECTLY)
        or conn._has_events  # noqa: SLF001  # what SQLAlchemy itself asks before it calls listeners
        or conn.engine._has_events  # noqa: SLF001
        or conn._echo  # noqa: SLF001
    )

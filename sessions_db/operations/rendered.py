"""Statements that are sent often, as the SQL text that SQLAlchemy renders once for each database."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, cast

from sqlalchemy import ClauseElement, Connection, CursorResult
from sqlalchemy.sql.compiler import SQLCompiler

_Text: TypeAlias = tuple[str, dict[str, Any], list[str] | None]


class Rendered:
    """A statement that is built and rendered when it is first sent to a database of each kind.

    `Connection.execute` looks a statement up in a cache by its structure and processes each parameter and row by its
    type. That takes as long as SQLite takes to append a message, and none of it is needed here: values are passed as
    the drivers take them (JSON as text) and come back as the drivers give them.
    """

    def __init__(self, build: Callable[[str], ClauseElement]) -> None:
        """`build` makes the statement for a dialect, given by its name."""
        self._build = build
        self._by_dialect: dict[str, _Text] = {}

    def execute(self, conn: Connection, parameters: Mapping[str, object]) -> CursorResult[Any]:
        """Send the statement with values for its named parameters."""
        text = self._by_dialect.get(conn.dialect.name)
        if text is None:
            text = self._by_dialect[conn.dialect.name] = self._render(conn)
        sql, literals, order = text
        values = {**literals, **parameters}
        return conn.exec_driver_sql(sql, values if order is None else tuple([values[name] for name in order]))

    def _render(self, conn: Connection) -> _Text:
        compiled = cast(SQLCompiler, self._build(conn.dialect.name).compile(dialect=conn.dialect))
        return compiled.string, dict(compiled.params), compiled.positiontup

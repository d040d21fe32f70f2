"""Whether a database's triggers are the ones that this release made."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain

from sqlalchemy import Connection

from sessions_db.schema import postgresql_triggers, sqlite_triggers
from sessions_db.schema.columns import tables_of

_TRIGGERS = {"sqlite": sqlite_triggers, "postgresql": postgresql_triggers}


def trigger_faults(conn: Connection) -> Iterator[tuple[str, str]]:
    """The triggers that are not as this release made them, each with what is wrong: missing, disabled or changed."""
    triggers = _TRIGGERS[conn.dialect.name]
    found = {
        (name, table): (fault, _compared(definition), _squeezed(text))
        for name, table, fault, definition, text in conn.exec_driver_sql(triggers.STORED)
    }
    for name, table, definition, text in _expected(conn):
        fault, *as_found = found.get((name, table), ("missing", "", ""))
        if fault or as_found != [_compared(definition), _squeezed(text)]:
            yield name, fault or "changed"


def foreign_triggers(conn: Connection) -> list[str]:
    """The triggers of this release's tables that are not this release's, each with its table."""
    triggers = _TRIGGERS[conn.dialect.name]
    expected = {(name, table) for name, table, *_ in _expected(conn)}
    tables = {table.name for table in tables_of(conn.dialect.name)}
    found = {(name, table) for name, table, *_ in conn.exec_driver_sql(triggers.STORED) if table in tables}
    return [f"{name} on {table}" for name, table in sorted(found - expected)]


def _expected(conn: Connection) -> Iterator[tuple[str, str, str, str]]:
    triggers = _TRIGGERS[conn.dialect.name]
    return chain.from_iterable(map(triggers.stored, triggers.TRIGGERS.values()))


def _compared(definition: str) -> str:
    return re.sub(r"[()\s]", "", definition).lower()


def _squeezed(sql: str) -> str:
    return " ".join(sql.split())

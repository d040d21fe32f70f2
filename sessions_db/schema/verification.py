"""Whether a database's triggers are the ones that this release made."""

from __future__ import annotations

import re
from collections.abc import Iterator

from sqlalchemy import Connection

from sessions_db.schema import postgresql_triggers, sqlite_triggers

_TRIGGERS = {"sqlite": sqlite_triggers, "postgresql": postgresql_triggers}


def trigger_faults(conn: Connection) -> Iterator[tuple[str, str]]:
    """The triggers that are not as this release made them, each with what is wrong: missing, disabled or changed."""
    triggers = _TRIGGERS[conn.dialect.name]
    found = {name: (fault, _squeezed(text)) for name, fault, text in conn.exec_driver_sql(triggers.STORED)}
    for sql in triggers.TRIGGERS.values():
        expected = _squeezed(triggers.stored_text(sql))
        for name in re.findall(r"CREATE TRIGGER (\w+)", sql):
            fault, text = found.get(name, ("missing", ""))
            if fault or text != expected:
                yield name, fault or "changed"


def _squeezed(sql: str) -> str:
    return " ".join(sql.split())

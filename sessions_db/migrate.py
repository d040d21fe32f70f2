"""Alembic's part: find the migrations, upgrade under a lock, refuse a schema of another revision."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, Engine

from sessions_db.errors import SchemaMismatch
from sessions_db.schema import TRIGGERS

VERSION_TABLE = "sessions_db_version"
"""Alembic's table of ours; a host application's own `alembic_version` is left alone."""

# Any constant will do, as long as nothing else in the database takes the same advisory lock.
_ADVISORY_LOCK = 0x5E5510_0DB


# Alembic's `context` and `op`, which the scripts use, are globals of the process.
_alembic = threading.Lock()


def _after_fork_in_child() -> None:
    global _alembic
    # Another thread of the parent's may have held it.
    _alembic = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def ensure_head(engine: Engine, *, migrate: bool, create: bool) -> str | None:
    """The revision that was found; the schema is created in an empty database if `create`, upgraded if `migrate`.

    Raises:
        SchemaMismatch: the database is empty or behind and is to stay so, or it is ahead of this release.
    """
    scripts = ScriptDirectory.from_config(_config())
    head = scripts.get_current_head()
    with engine.connect() as conn:
        try:
            found = current_revision(conn)
        except CommandError as error:
            raise SchemaMismatch(f"{VERSION_TABLE} with several rows", head, "restore a backup") from error
        if found == head:
            # Who only reads is shown what there is: a log that somebody has tampered with, say.
            if create:
                _require_triggers(conn)
            return found
    if found is not None and not _is_known(scripts, found):
        raise SchemaMismatch(found, head, "a newer release has migrated it, install that one")
    if found is None and not create:
        raise SchemaMismatch(None, head, "nothing has created it yet, `sessions-db upgrade` does")
    if found is not None and not migrate:
        raise SchemaMismatch(found, head, "run `sessions-db upgrade` on it, or open it with migrate=True")
    upgrade(engine)
    return found


def head_revision() -> str | None:
    """The newest revision that this release knows."""
    return ScriptDirectory.from_config(_config()).get_current_head()


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Run the migrations up to `revision`, in one transaction. Processes that do so at once take turns."""
    with _alembic, engine.connect() as conn:
        config = _config()
        config.attributes["connection"] = conn
        command.upgrade(config, revision)


def current_revision(conn: Connection) -> str | None:
    """The revision of the database, or None where this library has no schema yet."""
    return MigrationContext.configure(conn, opts={"version_table": VERSION_TABLE}).get_current_revision()


def lock(conn: Connection) -> None:
    """Let one migration run at a time, until the transaction ends. On SQLite its BEGIN IMMEDIATE has done so."""
    if conn.dialect.name == "postgresql":
        conn.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_ADVISORY_LOCK})")


def trigger_faults(conn: Connection) -> Iterator[tuple[str, str]]:
    """The triggers that are not as this release made them, each with what is wrong: missing, disabled or changed."""
    if conn.dialect.name == "sqlite":
        query = "SELECT name, '', sql FROM sqlite_master WHERE type = 'trigger'"
    else:
        query = (
            "SELECT t.tgname, CASE WHEN t.tgenabled IN ('O', 'A') THEN '' ELSE 'disabled' END, p.prosrc"
            " FROM pg_trigger AS t JOIN pg_proc AS p ON p.oid = t.tgfoid"
            " WHERE NOT t.tgisinternal AND pg_table_is_visible(t.tgrelid)"
        )
    found = {name: (fault, _squeezed(text)) for name, fault, text in conn.exec_driver_sql(query)}
    for sql in TRIGGERS[conn.dialect.name].values():
        expected = _squeezed(sql if conn.dialect.name == "sqlite" else sql.split("$$")[1])
        for name in re.findall(r"CREATE TRIGGER (\w+)", sql):
            fault, text = found.get(name, ("missing", ""))
            if fault or text != expected:
                yield name, fault or "changed"


def _squeezed(sql: str) -> str:
    return " ".join(sql.split())


def _require_triggers(conn: Connection) -> None:
    # Without them appends would go through that trim nothing and deletions that are not logged, unnoticed for long.
    faults = [f"trigger {name} is {fault}" for name, fault in trigger_faults(conn) if fault != "changed"]
    if faults:
        raise SchemaMismatch(None, None, f"{', '.join(faults)}; restore it from a backup")


def _config() -> Config:
    config = Config()
    # A wheel carries the scripts inside the package; a checkout has them beside it.
    package = Path(__file__).parent
    scripts = next(path for path in (package / "migrations", package.parent / "migrations") if path.is_dir())
    # ConfigParser reads % as the start of an interpolation.
    config.set_main_option("script_location", str(scripts).replace("%", "%%"))
    return config


def _is_known(scripts: ScriptDirectory, revision: str) -> bool:
    # Not `get_revision`, which takes "head", "", and the first characters of a revision too.
    return any(script.revision == revision for script in scripts.walk_revisions())

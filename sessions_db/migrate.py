"""Alembic's part: find the migrations, upgrade under a lock, refuse a schema of another revision."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, Engine

from sessions_db.errors import SchemaMismatch

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


def _config() -> Config:
    config = Config()
    # A wheel carries the scripts inside the package; a checkout has them beside it.
    package = Path(__file__).parent
    scripts = next(path for path in (package / "migrations", package.parent / "migrations") if path.is_dir())
    # ConfigParser reads % as the start of an interpolation.
    config.set_main_option("script_location", str(scripts).replace("%", "%%"))
    return config


def _is_known(scripts: ScriptDirectory, revision: str) -> bool:
    try:
        return scripts.get_revision(revision) is not None
    except CommandError:
        return False

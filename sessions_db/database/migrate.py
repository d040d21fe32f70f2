"""Migrations: find them, run them under a lock, refuse a schema of another revision."""

from __future__ import annotations

import logging
import threading
from functools import cache
from pathlib import Path

from sqlalchemy import Connection, Engine, column, inspect, select, table

from sessions_db.database import backend_of
from sessions_db.database.fork import in_child
from sessions_db.errors import SchemaMismatch
from sessions_db.schema import trigger_faults

_log = logging.getLogger("sessions_db")

VERSION_TABLE = "sessions_db_version"
"""Our table for Alembic; a host application's own `alembic_version` is left alone."""

# Alembic's `context` and `op`, which the scripts use, are process-wide globals.
_alembic = threading.Lock()


def _renew_lock() -> None:
    global _alembic
    # Another thread of the parent process may have held it.
    _alembic = threading.Lock()


in_child(_renew_lock)


def ensure_head(engine: Engine, *, migrate: bool, create: bool, read_only: bool) -> str | None:
    """The revision that was found. The schema is created in an empty database if `create`, and upgraded if `migrate`.

    Raises:
        SchemaMismatch: the database is empty or behind and may not be changed, it is ahead of this release, or the
            connection does not lead to one schema whose triggers fire.
    """
    head = head_revision()
    with engine.connect() as conn:
        require_settings(conn)
        found = current_revision(conn)
        if found == head:
            # A read-only manager may read anything, even a log that somebody has tampered with.
            if not read_only:
                _require_triggers(conn)
            return found
    if found is not None and not is_known(found):
        raise SchemaMismatch(found, head, "a newer release has migrated it, install that one")
    if found is None and not create:
        raise SchemaMismatch(None, head, "nothing has created it yet, `sessions-db upgrade` does")
    if found is not None and not migrate:
        raise SchemaMismatch(found, head, "run `sessions-db upgrade` on it, or open it with migrate=True")
    upgrade(engine)
    _log.info("Migrated the database from revision %s to %s", found, head)
    with engine.connect() as conn:
        _require_triggers(conn)
    return found


def head_revision() -> str | None:
    """The newest revision that this release knows."""
    return next(iter(_revisions()), None)


def is_known(revision: str) -> bool:
    """Whether this release has the migration to this revision."""
    return revision in _revisions()


@cache
def _revisions() -> tuple[str, ...]:
    """All revisions that this release knows, newest first: each file of a migration begins with its own."""
    files = (_scripts() / "versions").iterdir()
    return tuple(sorted((file.name.partition("_")[0] for file in files if file.suffix == ".py"), reverse=True))


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Run the migrations up to `revision`, in one transaction. Concurrent upgrades wait for each other."""
    # Most processes open a database at head, and to import Alembic takes a quarter of what it takes to import us.
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415

    with _alembic, engine.connect() as conn:
        config = Config()
        # ConfigParser reads % as the start of an interpolation.
        config.set_main_option("script_location", str(_scripts()).replace("%", "%%"))
        config.attributes["connection"] = conn
        command.upgrade(config, revision)


def current_revision(conn: Connection) -> str | None:
    """The revision of the database, or None if it has no schema of this library yet.

    Raises:
        SchemaMismatch: it has several, which no migration leaves.
    """
    if not inspect(conn).has_table(VERSION_TABLE):
        return None
    found: list[str] = [*conn.scalars(select(column("version_num")).select_from(table(VERSION_TABLE)))]
    if len(found) > 1:
        raise SchemaMismatch(f"{VERSION_TABLE} with several rows", head_revision(), "restore a backup")
    return next(iter(found), None)


def require_settings(conn: Connection) -> None:
    """Do nothing if the tables that the connection finds are those that it writes to.

    Raises:
        SchemaMismatch: they are not, or their triggers do not fire.
    """
    if (cure := backend_of(conn).settings_cure(conn)) is not None:
        raise SchemaMismatch(None, None, cure)


def _require_triggers(conn: Connection) -> None:
    # Without them, appends would not trim and deletions would not be logged, and nobody would notice for a long time.
    faults = [f"trigger {name} is {fault}" for name, fault in trigger_faults(conn)]
    if faults:
        raise SchemaMismatch(None, None, f"{', '.join(faults)}; restore it from a backup")


def _scripts() -> Path:
    # A wheel carries the scripts inside the package; a checkout has them next to it.
    package = Path(__file__).parent.parent
    return next(path for path in (package / "migrations", package.parent / "migrations") if path.is_dir())

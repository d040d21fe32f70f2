"""Databases for the tests: SQLite files, and databases of one real Postgres server."""

from __future__ import annotations

import itertools
import os
import shutil
import sqlite3
import time
from contextlib import closing, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy import URL, make_url

from sessions_db import SessionManager, schema
from tests.support.client import driver_url

_counter = itertools.count(1)


class SQLiteDatabases:
    """Database files in a directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._at_head = directory / "at_head.db"
        SessionManager(f"sqlite:///{self._at_head}").close()

    def create(self, *, at_head: bool, own: bool = False) -> str:
        """A new file, which each test's own is anyway."""
        path = self._directory / f"{next(_counter)}.db"
        if at_head:
            shutil.copy(self._at_head, path)
        return f"sqlite:///{path}"

    def drop(self, url: str) -> None:
        # SQLite removes the log when the last connection closes, so a log that is left means a leaked connection. A
        # read-only connection can't remove it, so the last one is ours.
        path = Path(str(make_url(url).database))
        with closing(sqlite3.connect(path)) as connection, suppress(sqlite3.DatabaseError):
            connection.execute("SELECT count(*) FROM sqlite_master").fetchall()
        leaked = path.with_name(path.name + "-wal").exists()
        path.unlink(missing_ok=True)
        assert not leaked, "a connection to the database was left open"


_OURS = "sessions_db_tests"

OTHERS = (
    "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    f" AND application_name <> '{_OURS}'"
)
"""The other connections to a database, without the one that empties it after each test."""

_TABLES = [table.name for table in reversed(schema.tables_of("postgresql")) if table.name != "log_policy"]

# The triggers let nobody empty the log. LOCAL: behind PgBouncer, somebody else gets the connection afterwards.
# DELETE takes a twentieth of the time of TRUNCATE, which creates new files, but leaves dead rows (measured once).
_EMPTYING = f"""
BEGIN;
SET LOCAL session_replication_role = replica;
DO $$ BEGIN
    IF (SELECT sum(pg_relation_size(name)) FROM unnest('{{{", ".join(_TABLES)}}}'::regclass[]) AS name) > 1000000 THEN
        TRUNCATE {", ".join(_TABLES)};
    ELSE
        {"; ".join(f"DELETE FROM {table}" for table in _TABLES)};
    END IF;
    UPDATE log_policy SET retention_days = 180;
    PERFORM setval(oid, 1, false) FROM pg_class WHERE relkind = 'S' AND relnamespace = 'public'::regnamespace;
END $$;
COMMIT
"""


class PostgresDatabases:
    """Databases of a server. Those at head are emptied and reused: creating one takes 0.1 s (measured once).

    One whose schema the test may change is a copy, because to migrate takes longer than to copy.
    """

    def __init__(self, server: URL) -> None:
        self._server = server
        self._prefix = f"sessions_db_test_{os.getpid()}"
        self._at_head: set[str] = set()
        self._free: list[str] = []
        self._copied: str | None = None
        self._connections: dict[str, psycopg.Connection] = {}

    def create(self, *, at_head: bool, own: bool = False) -> str:
        if not at_head:
            return self._create()
        if own:
            return self._create(self._template())
        if self._free:
            return self._free.pop()
        url = self._create()
        SessionManager(url).close()
        self._at_head.add(url)
        return url

    def _create(self, template: str = "template1") -> str:
        name = f"{self._prefix}_{next(_counter)}"
        # Copying files is four times as fast as logging every page (measured once). PostgreSQL 14 does nothing else.
        copying = "" if self._version < 15_00_00 else "STRATEGY = FILE_COPY"
        self._execute(self._server, f"CREATE DATABASE {name} TEMPLATE {template} {copying}")
        return self._server.set(database=name).render_as_string(hide_password=False)

    def _template(self) -> str:
        if self._copied is None:
            self._copied = self._create()
            SessionManager(self._copied).close()
        return str(make_url(self._copied).database)

    def drop(self, url: str) -> None:
        if url not in self._at_head:
            # Refused while anyone is connected, so this finds leaked connections too.
            self._execute(self._server, f"DROP DATABASE {make_url(url).database}")
            return
        try:
            self._empty(url)
        except psycopg.OperationalError:
            # The test has ended all connections.
            self._connections.pop(url).close()
            self._empty(url)
        self._free.append(url)

    def _empty(self, url: str) -> None:
        # Kept, because a new one takes seven times as long (measured once). Through PgBouncer, a prepared statement may
        # be missing on the next server connection.
        if url not in self._connections:
            self._connections[url] = psycopg.connect(
                driver_url(make_url(url)), autocommit=True, prepare_threshold=None, application_name=_OURS
            )
        connection = self._connections[url]
        # A server process ends a moment after its connection is closed.
        deadline = time.monotonic() + 5
        while (leaked := connection.execute(OTHERS).fetchall()) and time.monotonic() < deadline:
            time.sleep(0.001)
        assert leaked == [], "a connection to the database was left open"
        connection.execute(_EMPTYING)

    @cached_property
    def _version(self) -> int:
        return int(self._execute(self._server, "SHOW server_version_num")[0][0])

    def close(self) -> None:
        for connection in self._connections.values():
            connection.close()
        for url in self._at_head if self._copied is None else {*self._at_head, self._copied}:
            self._execute(self._server, f"DROP DATABASE {make_url(url).database}")

    def _execute(self, database: URL, sql: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(driver_url(database), autocommit=True) as connection:
            cursor = connection.execute(sql)
            return cursor.fetchall() if cursor.description else []


class DistributedSchemas(PostgresDatabases):
    """Distributed schemas of a Citus cluster, each in the place of a database."""

    def create(self, *, at_head: bool, own: bool = False) -> str:
        if at_head and self._free and not own:
            return self._free.pop()
        name = f"test_{os.getpid()}_{next(_counter)}"
        if at_head:
            SessionManager(self._server, schema=name).close()
        else:
            self._execute(self._server, f"SET citus.enable_schema_based_sharding = on; CREATE SCHEMA {name}")
        url = self._server.update_query_dict({"options": f"-csearch_path={name}"}).render_as_string(hide_password=False)
        if at_head and not own:
            self._at_head.add(url)
        return url

    def drop(self, url: str) -> None:
        if url not in self._at_head:
            self._drop(url)
            return
        with psycopg.connect(driver_url(make_url(url))) as connection:
            # Sent on to the node that the schema is on.
            connection.execute("SET citus.propagate_set_commands = local")
            connection.execute("SET LOCAL session_replication_role = replica")
            for table in _TABLES:
                connection.execute(f"DELETE FROM {table}")
            connection.execute("UPDATE log_policy SET retention_days = 180")
            # The coordinator numbers what a client inserts there.
            connection.execute("SELECT setval('session_events_id_seq', 1, false)")
        self._free.append(url)

    def close(self) -> None:
        for url in self._at_head:
            self._drop(url)

    def _drop(self, url: str) -> None:
        name = str(make_url(url).query["options"]).removeprefix("-csearch_path=")
        self._execute(self._server, f"DROP SCHEMA {name} CASCADE")

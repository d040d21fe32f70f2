"""The schemas of a Postgres database that hold sessions, and views over all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, TypeVar

from sqlalchemy import URL, Connection, CursorResult

from sessions_db import schema, validation
from sessions_db.calls import Calls
from sessions_db.database import BACKENDS, EngineOptions, backend_of
from sessions_db.database.engine import open_engine
from sessions_db.database.migrate import VERSION_TABLE, head_revision
from sessions_db.database.urls import shown
from sessions_db.errors import InvalidInput, SchemaMismatch
from sessions_db.models.camel_case import camel_case
from sessions_db.operations.operation import Needs, Operation
from sessions_db.validation import JsonValue

_T = TypeVar("_T")

DEFAULT_INTO: Final = "audit"
"""The schema for the views over all schemas, unless told otherwise."""

_RETRY_BUDGET_S: Final = EngineOptions().retry_budget_s

_FOUND: Final = f"""\
SELECT n.nspname, quote_ident(n.nspname), quote_literal(n.nspname),
  has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT'),
  (SELECT sum(pg_total_relation_size(t.oid))::bigint FROM pg_class AS t
   WHERE t.relnamespace = n.oid AND t.relkind = 'r')
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attname = 'version_num' AND a.atttypid = 'varchar'::regtype
WHERE c.relname = '{VERSION_TABLE}' AND c.relkind = 'r'
ORDER BY n.nspname COLLATE "C\""""

# The node that each distributed schema is on. The tables on the coordinator are empty shells.
_NODES: Final = """\
SELECT c.relnamespace::regnamespace::text, min(s.nodename || ':' || s.nodeport), sum(s.shard_size)::bigint
FROM citus_shards AS s JOIN pg_class AS c ON c.oid = s.table_name::oid
WHERE s.citus_table_type = 'schema'
GROUP BY c.relnamespace"""

_TO_DISTRIBUTE: Final = """\
SELECT quote_ident(n.nspname), quote_ident(c.relname)
FROM pg_namespace AS n JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relkind = 'r'
WHERE n.nspname = %s AND n.oid NOT IN (SELECT schemaid FROM pg_dist_schema)
ORDER BY c.relname"""

_TARGET: Final = "SELECT quote_ident(%(name)s), to_regnamespace(quote_ident(%(name)s)) IS NOT NULL"

_COLUMNS: Final = """\
SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped ORDER BY attnum"""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundSchema:
    """A schema that holds sessions.

    `revision` is None where the login may not read it. `size_bytes` counts tables and indexes. `node` is the host and
    port of the Citus node that it is on, if it is distributed.
    """

    name: str
    revision: str | None
    size_bytes: int
    node: str | None = None

    def to_dict(self) -> dict[str, JsonValue]:
        """The fields as camelCase JSON, without those that are None."""
        return camel_case(self)


def find_schemas(url: str | URL, *, retry_budget_s: float = _RETRY_BUDGET_S) -> list[FoundSchema]:
    """The schemas of a Postgres database that hold sessions, by name.

    Tries for `retry_budget_s` seconds to reach it, like the others here.

    Raises:
        InvalidInput: it is not on Postgres.
        DatabaseUnavailable: it can't be reached.
    """
    return _run(url, Operation(_find, Needs.READ), retry_budget_s)


def make_audit_views(url: str | URL, into: str = DEFAULT_INTO, *, retry_budget_s: float = _RETRY_BUDGET_S) -> list[str]:
    """Make, or make anew, the views `all_sessions`, `all_messages` and so on in the schema `into`.

    Each has the columns of the view `audit_…` of that name after `schema_name`, and the rows of all schemas that hold
    sessions. Rights that were granted on them stay, unless a release has changed the columns.

    Returns:
        The names of these schemas.

    Raises:
        InvalidInput: the database is not on Postgres, or `into` is no name for a schema.
        SchemaMismatch: no schema holds sessions, or one of them is at another revision.
        DatabaseUnavailable: the database can't be reached.
    """
    name = validation.optional_schema_name(into)
    return _run(url, Operation(lambda conn: _make_views(conn, name or DEFAULT_INTO), Needs.TRANSACTION), retry_budget_s)


def distribute_schema(url: str | URL, name: str, *, retry_budget_s: float = _RETRY_BUDGET_S) -> str | None:
    """The node that a schema is on, if the database is a Citus cluster's: it is distributed unless it is already.

    Its sessions and its log go with it as they are. Writers to it wait.

    Raises:
        InvalidInput: the database is not on Postgres.
        StatementRefused: Citus can't distribute it.
        DatabaseUnavailable: the database can't be reached.
    """
    return _run(url, Operation(lambda conn: _distribute(conn, name), Needs.TRANSACTION), retry_budget_s)


def _run(url: str | URL, operation: Operation[[], _T], retry_budget_s: float) -> _T:
    options = EngineOptions(pool_size=1, retry_budget_s=validation.seconds("retry_budget_s", retry_budget_s))
    engine = open_engine(url, options)
    if not BACKENDS[engine.dialect.name].is_on_a_server:
        raise InvalidInput("database", "must be on Postgres: SQLite has no schemas", shown(engine.url))
    calls = Calls(engine, owned=True, actor=None, read_only=False, retry_budget_s=options.retry_budget_s)
    try:
        return calls.run(operation)
    finally:
        calls.connections.close()


def _find(conn: Connection) -> list[FoundSchema]:
    nodes = {name: place for name, *place in conn.exec_driver_sql(_NODES)} if _is_on_citus(conn) else {}
    found = []
    for name, quoted, _, is_readable, local_size in conn.exec_driver_sql(_FOUND).all():
        node, size = nodes.get(quoted, (None, local_size))
        revision = _revision(conn, quoted) if is_readable else None
        found.append(FoundSchema(name=name, revision=revision, size_bytes=size, node=node))
    return found


def _is_on_citus(conn: Connection) -> bool:
    return conn.exec_driver_sql("SELECT to_regclass('pg_catalog.pg_dist_schema') IS NOT NULL").scalar_one() is True


def _distribute(conn: Connection, name: str) -> str | None:
    if not _is_on_citus(conn):
        return None
    backend_of(conn).lock_migrations(conn)
    tables = conn.exec_driver_sql(_TO_DISTRIBUTE, (name,)).all()
    # Citus copies the rows, which would be logged, and refused, as new ones.
    for schema_name, table in tables:
        _send(conn, f"ALTER TABLE {schema_name}.{table} DISABLE TRIGGER USER")
    for schema_name in {schema_name for schema_name, _ in tables}:
        conn.exec_driver_sql("SELECT citus_schema_distribute(%s::regnamespace)", (schema_name,))
    for schema_name, table in tables:
        _send(conn, f"ALTER TABLE {schema_name}.{table} ENABLE TRIGGER USER")
    return next((each.node for each in _find(conn) if each.name == name), None)


def _revision(conn: Connection, quoted: str) -> str | None:
    found: str | None = _send(conn, f"SELECT min(version_num) FROM {quoted}.{VERSION_TABLE}").scalar_one()
    return found


def _make_views(conn: Connection, into: str) -> list[str]:
    backend_of(conn).lock_migrations(conn)
    found, head = _find(conn), head_revision()
    if not found:
        raise SchemaMismatch(None, head, "no schema holds sessions yet, `sessions-db upgrade --schema` makes one")
    for each in found:
        if each.revision != head:
            raise SchemaMismatch(each.revision, head, f"run `sessions-db upgrade --schema` on {each.name!r} first")
    quoted, is_there = conn.exec_driver_sql(_TARGET, {"name": into}).one()
    if not is_there:
        _send(conn, f"CREATE SCHEMA {quoted}")
    names = [(quoted, literal) for _, quoted, literal, *_ in conn.exec_driver_sql(_FOUND)]
    for view in schema.VIEWS[conn.dialect.name]:
        made = f"{quoted}.{view.replace('audit_', 'all_', 1)}"
        if _columns(conn, made) not in ([], ["schema_name", *_columns(conn, f"{names[0][0]}.{view}")]):
            _send(conn, f"DROP VIEW {made}")
        rows = [f"SELECT {literal}::text AS schema_name, v.* FROM {of}.{view} AS v" for of, literal in names]
        _send(conn, f"CREATE OR REPLACE VIEW {made} AS {' UNION ALL '.join(rows)}")
    return [each.name for each in found]


def _columns(conn: Connection, view: str) -> list[str]:
    return [*conn.exec_driver_sql(_COLUMNS, (view,)).scalars()]


def _send(conn: Connection, sql: str) -> CursorResult[Any]:
    # The driver reads % as the start of a parameter, and a name may hold one.
    return conn.exec_driver_sql(sql.replace("%", "%%"))

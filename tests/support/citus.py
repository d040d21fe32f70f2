"""A Citus cluster on loopback: a coordinator and two workers."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg
import pytest

from tests.support.servers import Server, postgres

VERSION = 15
_INSTALLED = Path(f"/usr/lib/postgresql/{VERSION}")
_LIBRARY = _INSTALLED / "lib" / "citus.so"

# What docs/operations.md tells to set on every node.
SETTINGS = {
    "shared_preload_libraries": "citus",
    "wal_level": "logical",
    "citus.enable_unsafe_triggers": "on",
    "citus.node_conninfo": "sslmode=disable",
    "max_connections": "300",
    "max_prepared_transactions": "300",
    "max_worker_processes": "32",
}


class Cluster:
    """A coordinator and its workers."""

    def __init__(self, coordinator: Server, workers: list[Server]) -> None:
        self.coordinator = coordinator
        self.workers = workers
        self.url = coordinator.url()

    def execute(self, sql: str) -> list[tuple[object, ...]]:
        """The rows of a statement on the coordinator."""
        return self.coordinator.execute(sql)

    def run(self, command: str, *arguments: str) -> None:
        """Run a client of the coordinator's release."""
        subprocess.run([_INSTALLED / "bin" / command, "--dbname", self.url, *arguments], check=True)

    def node_of(self, schema: str) -> int:
        """The port of the node that a schema is on."""
        ((port,),) = self.execute(
            "SELECT DISTINCT nodeport FROM citus_shards"
            f" WHERE table_name::oid IN (SELECT oid FROM pg_class WHERE relnamespace = '{schema}'::regnamespace)"
        )
        assert isinstance(port, int)
        return port

    def place(self, schema: str, worker: Server, mode: str = "block_writes") -> None:
        """Move a schema to a worker, unless it is there."""
        if self.node_of(schema) != worker.port:
            self.execute(f"SELECT citus_schema_move('{schema}', '127.0.0.1', {worker.port}, '{mode}')")

    def move(self, schema: str) -> None:
        """Move a schema to the other worker, while others write to it: they wait for a moment at the end only."""
        here = self.node_of(schema)
        (other,) = [worker for worker in self.workers if worker.port != here]
        self.place(schema, other, "force_logical")


@contextmanager
def citus(**settings: str) -> Iterator[Cluster]:
    """A running cluster. The test is skipped if Citus is not installed."""
    if not _LIBRARY.exists():
        pytest.skip(f"Citus is not installed: no {_LIBRARY}")
    with ExitStack() as stack:
        nodes = [stack.enter_context(postgres(VERSION, **SETTINGS | settings)) for _ in range(3)]
        for node in nodes:
            node.execute("CREATE EXTENSION citus")
        coordinator, *others = nodes
        with psycopg.connect(coordinator.url(), autocommit=True) as connection:
            connection.execute("SELECT citus_set_coordinator_host('127.0.0.1', %s)", [coordinator.port])
            for node in others:
                connection.execute("SELECT citus_add_node('127.0.0.1', %s)", [node.port])
        yield Cluster(coordinator, others)

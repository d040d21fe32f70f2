"""Both databases side by side: the same is done to each, and the results are compared."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sessions_db import SessionEvent, SessionManager, SessionsError
from sessions_db.schema import archived_messages, labels, messages, sessions
from tests.support.client import PlainClient
from tests.support.databases import PostgresDatabases, SQLiteDatabases

MAIN = "agent:main:main"
SUBAGENT = "agent:main:subagent:00000000-0000-7000-8000-000000000001"
CRON = "agent:main:cron:00000000-0000-7000-8000-000000000002"

_START = f"""
DELETE FROM sessions;
INSERT INTO sessions (key, agent_id, kind, status, label, task, run_id, parent_key, created_ms, finished_ms,
                      last_activity_ms, metadata)
VALUES
  ('{MAIN}', 'main', 'main', 'active', NULL, NULL, NULL, NULL, 1000, NULL, 1000, NULL),
  ('{SUBAGENT}', 'main', 'subagent', 'active', 'research', 'Test', 'run-1', '{MAIN}', 2000, NULL, 2000, '{{"a": 1}}'),
  ('{CRON}', 'main', 'cron', 'completed', NULL, 'Test', 'run-2', '{SUBAGENT}', 3000, 4000, 3000, NULL);
INSERT INTO messages (session_key, seq, role, content, tool_name, timestamp_ms)
VALUES ('{MAIN}', 1, 'user', 'Hello', NULL, 1000), ('{MAIN}', 2, 'tool', 'found', 'search', 1000);
INSERT INTO labels (label, session_key, assigned_ms) VALUES ('research', '{SUBAGENT}', 2000)
"""

_SIZE = """
SELECT
  (SELECT count(*) FROM sessions), (SELECT count(*) FROM messages), (SELECT count(*) FROM labels),
  (SELECT count(*) FROM sessions WHERE status = 'active'), (SELECT max(last_seq) FROM sessions),
  (SELECT max(assigned_ms) FROM labels), (SELECT CAST(sum(last_activity_ms) AS bigint) FROM sessions)
"""

_TABLES = {
    table.name: [column.name for column in table.columns] for table in (sessions, messages, labels, archived_messages)
}  # in the order of their columns

# What differs between the databases or between calls: random UUIDs, addresses in memory.
_RANDOM = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}|(?:\b0x|\.\.\.x?)[0-9a-f]{5,}(?=>)"
)

State = dict[str, list[dict[str, Any]]]


@dataclass(frozen=True)
class Failure:
    """What a call raised."""

    kind: type[BaseException]
    text: str
    data: str


def comparable(value: object) -> str:
    """The value as text to compare: 1 and 1.0 differ, random UUIDs do not."""
    return _RANDOM.sub("<random>", repr(value))


def assert_same(values: list[Any]) -> None:
    """Assert that the values of all databases are the same."""
    shown = [comparable(value) for value in values]
    assert shown[0] == shown[1], " != ".join(map(reprlib.repr, shown))


class Both:
    """A SQLite file and a Postgres database with the same content."""

    def __init__(self, managers: dict[str, SessionManager], clients: dict[str, PlainClient]) -> None:
        self.managers = managers
        self.clients = clients
        self.calls = 0
        self.reset()

    def reset(self) -> None:
        """Three sessions, two messages and a label, and nothing else."""
        for client in self.clients.values():
            client("BEGIN")
            for statement in _START.split(";"):
                client(statement)
            client("COMMIT")

    def state(self) -> State:
        """All rows, which must be the same on both."""
        states = [self._rows(client) for client in self.clients.values()]
        assert_same(states)
        return states[0]

    def size(self) -> list[tuple[Any, ...]]:
        """What any write changes, which must be the same on both; quicker to read than all rows."""
        sizes = [client(_SIZE) for client in self.clients.values()]
        assert_same(sizes)
        return sizes[0]

    def outcome(self, call: Callable[[SessionManager], object]) -> Failure | object:
        """What the call returns or raises, which must be the same on both. Only the library's own errors are caught."""
        self.calls += 1
        outcomes = [_outcome(call, manager) for manager in self.managers.values()]
        # Events have ids, times and users that differ between databases.
        if not all(isinstance(outcome, list) for outcome in outcomes) or not any(map(_are_events, outcomes)):
            assert_same(outcomes)
        return outcomes[0]

    @staticmethod
    def _rows(client: PlainClient) -> State:
        state: State = {}
        for table, columns in _TABLES.items():
            selected = ("CAST(metadata AS text)" if column == "metadata" else column for column in columns)
            rows = client(f"SELECT {', '.join(selected)} FROM {table}")
            state[table] = sorted((dict(zip(columns, row, strict=True)) for row in rows), key=repr)
        return state


def _are_events(outcome: Any) -> bool:
    return bool(outcome) and isinstance(outcome[0], SessionEvent)


def _outcome(call: Callable[[SessionManager], object], manager: SessionManager) -> Failure | object:
    try:
        return call(manager)
    except SessionsError as error:
        return Failure(type(error), str(error), repr(vars(error)))


@contextmanager
def both_databases(sqlite: SQLiteDatabases, postgres: PostgresDatabases) -> Iterator[Both]:
    """A database of each kind, for the duration of the block."""
    urls = {"sqlite": sqlite.create(at_head=True), "postgresql": postgres.create(at_head=True)}
    managers = {backend: SessionManager(url, synchronous="NORMAL") for backend, url in urls.items()}
    clients = {backend: PlainClient(url) for backend, url in urls.items()}
    try:
        yield Both(managers, clients)
    finally:
        for backend in urls:
            managers[backend].close()
            clients[backend].close()
        sqlite.drop(urls["sqlite"])
        postgres.drop(urls["postgresql"])

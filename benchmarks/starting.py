"""Starting and importing sessions, against an append in the same rounds."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterator
from typing import Final

from benchmarks.databases import BACKENDS
from benchmarks.managers import append, durability_of, full_session, inhabited, new_message
from benchmarks.names import OURS
from benchmarks.rounds import Operation, cost, interleaved
from benchmarks.sections import Bench, Results
from sessions_db import SessionManager
from sessions_db.transfer import Outcome, export_lines, import_lines

OPERATIONS: Final = ("spawn", "spawn with a label", "import")
IMPORTED_MESSAGES: Final = 10

ROUNDS = 11

_AGENT, _LABEL = "imported", "label of the imported"


def run(bench: Bench) -> Results:
    """Spawns with and without a label, and a session imported, on both databases."""
    results = Results()
    for backend in BACKENDS:
        with SessionManager(inhabited(bench, backend)) as manager:
            results.durability[backend] = durability_of(manager)
            key = full_session(manager, bench.messages)
            subjects = {
                OURS: append(manager, key, bench.messages),
                "spawn": _spawn(manager, key),
                "spawn with a label": _spawn_with_label(manager, key),
                "import": _import(bench, manager),
            }
            times = interleaved(subjects, bench.plan(ROUNDS), bench.runner)
        for name in OPERATIONS:
            results.figures[f"{backend}.{name}"] = cost(times, name, against=OURS)
    return results


def _spawn(manager: SessionManager, parent_key: str) -> Operation:
    return lambda _number: manager.spawn_subagent("bench", "Be measured", parent_key=parent_key)


def _spawn_with_label(manager: SessionManager, parent_key: str) -> Operation:
    labels = map("label {}".format, itertools.count())
    return lambda _number: manager.spawn_subagent("bench", "Be measured", next(labels), parent_key)


def _import(bench: Bench, manager: SessionManager) -> Operation:
    """Imports the next line of an endless file of sessions."""
    key = manager.spawn_subagent(_AGENT, "Be imported", _LABEL)
    manager.add_messages(key, map(new_message, bench.messages[:IMPORTED_MESSAGES]))
    with export_lines(manager, agent_id=_AGENT) as export:
        (line,) = export.lines
    session = manager.get(key)
    assert session is not None
    assert session.run_id is not None
    own_id, run_id = key.rpartition(":")[2].encode(), session.run_id.encode()

    def lines() -> Iterator[bytes]:
        while True:
            again = line
            for part in (own_id, run_id, _LABEL.encode()):
                again = again.replace(part, str(uuid.uuid4()).encode())
            yield again

    reading = import_lines(manager, None, lines())

    def operation(_number: int) -> None:
        assert next(reading).outcome is Outcome.IMPORTED

    return operation

"""Starting and importing sessions, against an append in the same rounds."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from benchmarks.conversations import ChatMessage
from benchmarks.databases import BACKENDS
from benchmarks.managers import append, durability_of, full_session, inhabited, new_message
from benchmarks.names import OURS
from benchmarks.rounds import Operation, cost, interleaved
from benchmarks.sections import Bench, Results
from sessions_db import SessionManager
from sessions_db.transfer import Outcome, export_lines, import_lines

IMPORTED_MESSAGES: Final = 10

ROUNDS = 11


def run(bench: Bench) -> Results:
    """Spawns with and without a label, and a session imported, on both databases."""
    results = Results()
    for backend in BACKENDS:
        with SessionManager(inhabited(bench, backend)) as manager:
            results.durability[backend] = durability_of(manager)
            key = full_session(manager, bench.messages)
            subjects = {OURS: append(manager, key, bench.messages)}
            subjects |= {name: start(manager, key, bench.messages) for name, start in OPERATIONS.items()}
            times = interleaved(subjects, bench.plan(ROUNDS), bench.runner)
        for name in OPERATIONS:
            results.figures[f"{backend}.{name}"] = cost(times, name, against=OURS)
    return results


def _spawn(manager: SessionManager, parent_key: str, _messages: Sequence[ChatMessage]) -> Operation:
    return lambda _number: manager.spawn_subagent("bench", "Be measured", parent_key=parent_key)


def _spawn_with_label(manager: SessionManager, parent_key: str, _messages: Sequence[ChatMessage]) -> Operation:
    labels = map("label {}".format, itertools.count())
    return lambda _number: manager.spawn_subagent("bench", "Be measured", next(labels), parent_key)


def _import(manager: SessionManager, _parent_key: str, messages: Sequence[ChatMessage]) -> Operation:
    """Imports the next line of an endless file of sessions."""
    agent_id = f"imported-{uuid.uuid4().hex}"
    label = f"label of {agent_id}"
    key = manager.spawn_subagent(agent_id, "Be imported", label)
    manager.add_messages(key, map(new_message, messages[:IMPORTED_MESSAGES]))
    with export_lines(manager, agent_id=agent_id) as export:
        (line,) = export.lines
    session = manager.get(key)
    assert session is not None
    assert session.run_id is not None
    own_id, run_id = key.rpartition(":")[2].encode(), session.run_id.encode()

    def lines() -> Iterator[bytes]:
        while True:
            again = line
            for part in (own_id, run_id, label.encode()):
                again = again.replace(part, str(uuid.uuid4()).encode())
            yield again

    reading = import_lines(manager, None, lines())

    def operation(_number: int) -> None:
        assert next(reading).outcome is Outcome.IMPORTED

    return operation


OPERATIONS: Final[dict[str, Callable[[SessionManager, str, Sequence[ChatMessage]], Operation]]] = {
    "spawn": _spawn,
    "spawn with a label": _spawn_with_label,
    "import": _import,
}
"""For a manager, the key of a parent and messages: the operation that starts a session."""

"""What the plain driver reaches with the statements that the library sends for 64 writers and for new sessions.

No Python around these statements can be faster than none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from time import perf_counter
from typing import Any, Final

from sqlalchemy import URL

from benchmarks import driver
from benchmarks.concurrency import SESSIONS
from benchmarks.conversations import ChatMessage
from benchmarks.databases import BACKENDS, TITLES, driver_durability
from benchmarks.driver import Recorded
from benchmarks.managers import append, durability_of, full_session, inhabited, new_message
from benchmarks.names import OURS
from benchmarks.rounds import Operation, alternate, cost
from benchmarks.sections import RETAINED, Bench, Results
from benchmarks.starting import OPERATIONS
from sessions_db import SessionManager
from sessions_db.operations.appending_together import Append, append_together

WRITERS: Final = 64
"""How many appends a group holds."""

ROUNDS = 11
OPERATIONS_PER_SLOT = 500


def run(bench: Bench) -> Results:
    """Groups of appends against a lone one, and each way to start a session, on both databases."""
    results = Results()
    plan = bench.plan(ROUNDS)
    times = OPERATIONS_PER_SLOT // 10 if bench.quick else OPERATIONS_PER_SLOT
    for backend in BACKENDS:
        url, recorded_url = inhabited(bench, backend), inhabited(bench, backend)
        with (
            SessionManager(url) as manager,
            closing(driver.connect(url)) as connection,
            driver.recording(recorded_url) as (engine, recorded),
            SessionManager(engine) as recording_manager,
        ):
            keys = [full_session(manager, bench.messages) for _ in range(WRITERS)]
            results.durability[f"{TITLES[backend]}: {OURS}"] = durability_of(manager)
            results.durability[f"{TITLES[backend]}: the plain driver"] = driver_durability(connection)
            slots: dict[str, Callable[[], float]] = {
                OURS: partial(_repeated, append(manager, keys[0], bench.messages), times)
            }
            for sessions, chosen in zip(SESSIONS, (keys, keys[:1] * WRITERS), strict=True):
                groups = _groups(url, chosen, bench.messages)
                slots[sessions] = partial(_group_slot, connection, groups, times)
            parent_key, recorded_key = (each.get_or_create_main("parent").key for each in (manager, recording_manager))
            for name, start in OPERATIONS.items():
                slots[name] = partial(_repeated, start(manager, parent_key, bench.messages), times)
                again = start(recording_manager, recorded_key, bench.messages)
                slots[_sent(name)] = partial(_sent_slot, connection, again, recorded, times)
            measured = alternate(slots, plan.rounds)
        for sessions in SESSIONS:
            results.figures[f"{backend}.{sessions}"] = cost(measured, OURS, against=sessions)
        for name in OPERATIONS:
            results.figures[f"{backend}.{name}"] = cost(measured, name, against=_sent(name))
    return results


def _sent(name: str) -> str:
    return f"{name}, sent by the plain driver"


def _groups(url: URL, keys: Sequence[str], messages: Sequence[ChatMessage]) -> list[Recorded]:
    """The statements that append a message to each of the keys, the messages taking turns."""
    ready = [new_message(message) for message in messages]
    groups = []
    with driver.recording(url) as (engine, recorded), engine.begin() as connection:
        for first in range(RETAINED):
            new = [ready[(first + number) % len(ready)] for number in range(len(keys))]
            recorded.clear()
            append_together(connection, [Append(key, [message]) for key, message in zip(keys, new, strict=True)])
            (group,) = recorded
            groups.append(group)
    return groups


def _repeated(operation: Operation, times: int) -> float:
    started = perf_counter()
    for number in range(times):
        operation(number % RETAINED)
    return (perf_counter() - started) / times


def _group_slot(connection: Any, groups: Sequence[Recorded], times: int) -> float:
    """Seconds an append takes in a group."""

    def send(number: int) -> None:
        group = groups[number]
        connection.execute(group.sql, group.parameters).fetchall()

    return _repeated(send, max(1, times // 10)) / WRITERS


def _sent_slot(connection: Any, operation: Operation, recorded: list[Recorded], times: int) -> float:
    """Seconds the plain driver takes for what the operation sends when it is repeated in another database."""
    recorded.clear()
    for number in range(times):
        operation(number % RETAINED)
    # What only a manager asks that was given its engine is left out.
    statements = [each for each in recorded if not each.sql.startswith(("PRAGMA", "SELECT"))]
    before = _sessions(connection)
    is_begun = False
    started = perf_counter()
    for statement in statements:
        if statement.sql.startswith("BEGIN"):
            if is_begun:
                connection.execute("COMMIT")
            is_begun = True
        connection.execute(statement.sql, statement.parameters)
    if is_begun:
        connection.execute("COMMIT")
    return (perf_counter() - started) / (_sessions(connection) - before)


def _sessions(connection: Any) -> int:
    ((number,),) = connection.execute("SELECT count(*) FROM sessions").fetchall()
    return int(number)

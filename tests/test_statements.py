"""How many statements a call sends to SQLite, where each takes a fixed time of its own."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby

import pytest

from sessions_db import SessionManager
from tests.support.statements import driver_connection, traced

pytestmark = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)

# The first words of each statement. SELECT is the look for names that somebody left in `event_actor`.
LOOKING = ["SELECT", "INSERT INTO sessions"]
ALONE = ["INSERT INTO sessions"]
WITH_LABEL = ["INSERT INTO labelled_sessions"]

CALLS: dict[str, tuple[Callable[[SessionManager, str], object], list[str]]] = {
    "spawn": (lambda m, _: m.spawn_subagent("main", "Test"), ALONE),
    "spawn with a parent": (lambda m, key: m.spawn_subagent("main", "Test", parent_key=key), ALONE),
    "idempotent spawn": (lambda m, _: m.spawn_subagent("main", "Test", idempotency_key="once"), ALONE),
    "new conversation": (lambda m, _: m.get_or_create("main", "talk"), ["WITH page", *LOOKING]),
    "spawn with a label": (lambda m, _: m.spawn_subagent("main", "Test", "new"), WITH_LABEL),
    "spawn with a free label": (
        lambda m, _: m.spawn_subagent("main", "Test", "new", on_label_conflict="error"),
        ["BEGIN", "SELECT", "INSERT INTO sessions", "INSERT INTO labels", "COMMIT"],
    ),
    "spawn that takes a label over": (
        lambda m, _: m.spawn_subagent("main", "Test", "taken"),
        WITH_LABEL,
    ),
}


@pytest.mark.parametrize("call", CALLS)
def test_spawn_sends_only_these_statements(manager: SessionManager, call: str) -> None:
    operation, expected = CALLS[call]
    key = manager.spawn_subagent("main", "Test", "taken")
    sent: list[str] = []

    with traced(driver_connection(manager), lambda statement, _: sent.append(statement)):
        operation(manager, key)

    # A statement comes again for each statement of the triggers that it fires.
    statements = [statement for statement, _ in groupby(sent)]
    assert len(statements) == len(expected)
    assert all(statement.startswith(first) for statement, first in zip(statements, expected, strict=True))

"""How what is printed fits a narrow terminal, a wide one and a pipe."""

from __future__ import annotations

import pytest

from sessions_db import SessionManager
from tests.support.commands import process, run
from tests.support.conversations import NASTY

TASK = "Find the cheapest flight " * 12


@pytest.fixture
def key(manager: SessionManager) -> str:
    key = manager.spawn_subagent("airline", TASK.strip(), "flight")
    manager.send_message(key, TASK.strip())
    manager.add_message(key, "assistant", "Done.")
    return key


def shown(url: str, command: str, key: str, columns: int) -> list[str]:
    """The lines that a command prints."""
    arguments = {"list": [], "events": [], "search": ["cheapest"]}.get(command, [key])
    result = run(*(["audit"] if command == "events" else []), command, *arguments, db=url, columns=columns)
    assert result.exit_code == 0
    return result.stdout.splitlines()


@pytest.mark.parametrize("command", ["list", "show", "tree", "history", "search", "events"])
@pytest.mark.parametrize("columns", [60, 80, 180])
def test_only_a_whole_key_makes_a_line_wider_than_the_terminal(url: str, key: str, command: str, columns: int) -> None:
    lines = shown(url, command, key, columns)

    assert command == "history" or any(key in line for line in lines)
    assert max(len(line) for line in lines if key not in line) <= columns
    assert [line for line in lines if line.endswith(" ")] == []


@pytest.mark.parametrize("backend", ["sqlite"])
@pytest.mark.parametrize("command", ["list", "history"])
def test_a_terminal_that_claims_to_have_no_columns_gets_narrow_output(url: str, key: str, command: str) -> None:
    assert any("Find the" in line for line in shown(url, command, key, 0))


@pytest.mark.parametrize("command", ["list", "show", "tree", "history"])
def test_a_wide_terminal_is_used(url: str, key: str, command: str) -> None:
    assert max(map(len, shown(url, command, key, 180))) > 160


# Starting a process takes long, so what becomes of its output is tried with one database.


@pytest.mark.parametrize("backend", ["sqlite"])
@pytest.mark.parametrize("command", ["list", "show", "tree", "history"])
def test_nothing_is_cut_in_a_pipe(url: str, key: str, command: str) -> None:
    piped = process(command, *([] if command == "list" else [key]), db=url, columns=None)

    assert TASK.strip() in piped.communicate(timeout=60)[0].decode()


@pytest.mark.parametrize("backend", ["sqlite"])
def test_a_session_has_a_line_of_its_own_in_a_pipe(url: str, manager: SessionManager, key: str) -> None:
    other = manager.spawn_subagent("b", f"{NASTY}\nsecond line", NASTY)

    piped = process("list", db=url, columns=None).communicate(timeout=60)[0].decode()

    head, *lines = piped.splitlines()
    assert head.split() == ["Session", "Status", "Messages", "Created", "(UTC)", "Label,", "task"]
    assert [line.split()[:3] for line in lines] == [[other, "active", "0"], [key, "active", "2"]]

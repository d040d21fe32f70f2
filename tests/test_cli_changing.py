"""The commands that change one session: what they do, that they ask first, and what the log says."""

from __future__ import annotations

import json

import pytest

from sessions_db import SessionManager
from tests.support.commands import answering, ok, ok_json, run


@pytest.fixture
def key(manager: SessionManager) -> str:
    key = manager.spawn_subagent("a", "Work", label="worker")
    manager.send_message(key, "secret")
    return key


def test_stop_ends_the_session_with_its_reason_under_the_actors_name(
    url: str, manager: SessionManager, key: str
) -> None:
    shown = ok("stop", key, "--reason", "too slow", "--actor", "ops", "--yes", db=url)

    assert shown == f"{key} was stopped.\n"
    session = manager.get(key)
    assert session is not None
    assert (session.status, session.end_reason) == ("stopped", "too slow")
    assert manager.events(session_key=key)[-1].actor == "ops"
    assert ok("stop", key, "--yes", db=url) == f"{key} had been stopped before.\n"


def test_reopen_makes_it_active_again(url: str, manager: SessionManager, key: str) -> None:
    manager.complete_session(key)

    reopened = ok_json("reopen", key, "--yes", db=url)

    assert reopened["status"] == "active"
    assert "messages" not in reopened
    session = manager.get(key)
    assert session is not None
    assert session.status == "active"


def test_delete_removes_it(url: str, manager: SessionManager, key: str) -> None:
    assert ok_json("delete", key, "--yes", db=url) == {"key": key, "deleted": True}

    assert manager.get(key) is None


def test_send_appends_a_message_of_the_user(url: str, manager: SessionManager, key: str) -> None:
    assert ok("send", key, "--yes", "--", "-Hello\n", db=url) == f"Message 2 was sent to {key}.\n"

    messages = manager.history(key)
    assert messages is not None
    assert [(message.role, message.content) for message in messages] == [("user", "secret"), ("user", "-Hello\n")]


def test_redact_takes_out_the_text(url: str, manager: SessionManager, key: str) -> None:
    assert ok("redact", key, "1", "--reason", "a password", "--yes", db=url) == f"Message 1 of {key} is redacted.\n"

    messages = manager.history(key)
    assert messages is not None
    assert "secret" not in messages[0].content
    assert messages[0].metadata == {"redacted": "a password"}


COMMANDS = [["stop"], ["reopen"], ["delete"], ["send", "More"], ["redact", "1", "--reason", "private"]]


@pytest.mark.parametrize(("command", "rest"), [(name, rest) for name, *rest in COMMANDS])
def test_a_label_names_the_session_too(url: str, key: str, command: str, rest: list[str]) -> None:
    assert key in ok(command, "worker", *rest, "--yes", db=url)


@pytest.mark.parametrize(("command", "rest"), [(name, rest) for name, *rest in COMMANDS])
def test_without_a_terminal_it_changes_nothing_unless_it_is_told_to(
    url: str, manager: SessionManager, key: str, command: str, rest: list[str]
) -> None:
    before = manager.get(key)

    result = run(command, key, *rest, db=url)

    assert result.exit_code == 2
    assert "--yes" in result.stderr
    assert manager.get(key) == before


@pytest.mark.parametrize(("answer", "exit_code"), [("y", 0), ("n", 1), ("", 1)])
def test_on_a_terminal_it_asks(url: str, manager: SessionManager, key: str, answer: str, exit_code: int) -> None:
    code, shown, written = answering(url, "delete", "worker", "--json", answer=answer)

    assert code == exit_code
    assert f"Delete {key} (active, 1 message retained)? [y/N]" in shown
    assert (manager.get(key) is None) == (code == 0)
    assert (json.loads(written) if code == 0 else written) == ({"key": key, "deleted": True} if code == 0 else "")


@pytest.mark.parametrize(("command", "rest"), [(name, rest) for name, *rest in COMMANDS])
@pytest.mark.usefixtures("manager")
def test_unknown_session_is_one_line_of_error(url: str, command: str, rest: list[str]) -> None:
    result = run(command, "nobody", *rest, "--yes", db=url)

    assert (result.exit_code, result.stdout, result.stderr) == (1, "", "Error: Session not found: nobody\n")


def test_message_that_is_not_there_is_an_error(url: str, key: str) -> None:
    result = run("redact", key, "7", "--reason", "private", "--yes", db=url)

    assert result.exit_code == 1
    assert "7" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.usefixtures("manager")
def test_log_retention_is_shown_and_changed(url: str) -> None:
    assert ok("log-retention", db=url) == "Each event is kept for 180 days.\n"
    assert ok_json("log-retention", "--days", "1000", db=url) == {"days": 1000}
    assert ok("log-retention", db=url) == "Each event is kept for 1,000 days.\n"
    assert run("log-retention", "--days", "0", db=url).exit_code == 2

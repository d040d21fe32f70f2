"""How people name a session, and what a shell completes."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from sessions_db import SessionManager
from sessions_db.cli import cli
from tests.support.client import PlainClient
from tests.support.commands import ok_json, run
from tests.support.rows import insert

FIRST = "agent:a:cron:0193-aa17"
SECOND = "agent:b:cron:0194-bb17"


@pytest.fixture
def keys(plain: PlainClient) -> list[str]:
    """The keys of two sessions that end alike, oldest first. The first has a label."""
    for number, key in enumerate((FIRST, SECOND)):
        insert(plain, key, created_ms=number)
    plain("INSERT INTO labels (label, session_key, assigned_ms) VALUES ('research', ?, 1)", FIRST)
    return [FIRST, SECOND]


READING = [["show"], ["history"], ["tree"], ["list", "--parent"], ["audit", "events", "--session"]]
COMMANDS = [*READING, ["export", "--session"], ["stop", "--yes"], ["delete", "--yes"]]


@pytest.mark.parametrize("command", READING, ids=" ".join)
@pytest.mark.usefixtures("keys")
def test_label_and_end_of_the_key_name_the_session(url: str, manager: SessionManager, command: list[str]) -> None:
    manager.spawn_subagent("a", "Work", parent_key=FIRST)
    manager.send_message(FIRST, "Hello")

    by_key, by_label, by_end = (ok_json(*command, name, db=url) for name in (FIRST, "research", "aa17"))

    if command == ["show"]:
        # Of an active session it grows from one call to the next.
        assert by_key.pop("runtimeSecs") <= by_label.pop("runtimeSecs") <= by_end.pop("runtimeSecs")
    assert by_key
    assert by_key == by_label == by_end


def test_a_label_is_preferred_to_the_end_of_a_key(url: str, manager: SessionManager, keys: list[str]) -> None:
    labelled = manager.spawn_subagent("a", "Work", "aa17")

    assert ok_json("show", "aa17", db=url)["key"] == labelled
    assert ok_json("show", keys[0], db=url)["key"] == keys[0]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.usefixtures("keys")
def test_the_end_of_several_keys_is_refused_with_all_of_them(
    url: str, manager: SessionManager, command: list[str]
) -> None:
    before = manager.list()

    result = run(*command, "17", db=url)

    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"Error: 17 is the end of 2 keys:\n  {SECOND}\n  {FIRST}\n"
    assert manager.list() == before


@pytest.mark.parametrize(
    ("command", "name"), [*((each, "nobody") for each in COMMANDS), *((["show"], each) for each in ("%17", "AA17"))]
)
@pytest.mark.usefixtures("keys")
def test_the_name_of_no_session_is_an_error(url: str, command: list[str], name: str) -> None:
    result = run(*command, name, db=url)

    assert (result.exit_code, result.stdout, result.stderr) == (1, "", f"Error: Session not found: {name}\n")


def test_an_empty_name_is_wrong_usage_where_there_is_but_one_session(url: str, manager: SessionManager) -> None:
    key = manager.get_or_create_main("a").key

    assert run("delete", "", "--yes", db=url).exit_code == 2
    assert manager.get(key) is not None


def test_many_candidates_are_not_all_listed(url: str, plain: PlainClient) -> None:
    for number in range(12):
        insert(plain, f"agent:c{number}:main", kind="main", run_id=None)

    result = run("show", "main", db=url)

    assert result.stderr.startswith("Error: main is the end of more than 10 keys:\n")
    assert result.stderr.count("agent:c") == 10
    assert result.stderr.endswith("\n  …\n")


def test_a_deleted_session_is_found_by_its_key_where_others_name_it(url: str, manager: SessionManager) -> None:
    parent = manager.spawn_cron("a", "Work")
    child = manager.spawn_subagent("a", "Work", parent_key=parent)
    manager.delete_session(parent)

    assert [session["key"] for session in ok_json("list", "--parent", parent, db=url)] == [child]
    events = ok_json("audit", "events", "--session", parent, db=url)
    assert [event["event"] for event in events] == ["created", "deleted"]


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let completion wait for a busy machine."""
    monkeypatch.setattr("sessions_db.cli.naming._COMPLETION_S", 30.0)


def offered(line: str, db: str) -> list[str]:
    environment = {"_SESSIONS_DB_COMPLETE": "bash_complete", "COMP_LINE": line, "SESSIONS_DB_URL": db}
    result = CliRunner(env=environment).invoke(cli, prog_name="sessions-db")
    assert (result.exit_code, result.stderr) == (0, "")
    return [offer.removeprefix("plain,") for offer in result.stdout.splitlines() if offer]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("sessions-db t", ["timeout-idle", "tree"]),
        ("sessions-db show ", ["research", SECOND, FIRST]),
        ("sessions-db stop re", ["research"]),
        ("sessions-db show agent:a:c", [FIRST]),
        ("sessions-db audit events --session agent:b:cron:", [SECOND]),
        ("sessions-db list --agent ", ["a", "b"]),
        ("sessions-db prune --agent=b", ["--agent=b"]),
        ("sessions-db show agent:nobody", []),
    ],
)
@pytest.mark.usefixtures("keys", "patient")
def test_keys_labels_and_agents_are_completed_from_the_database(url: str, line: str, expected: list[str]) -> None:
    assert offered(line, url) == expected


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("label", ["$(reboot)", "a b", "~", "-x", "a'b", "a\nplain,b", "a*", "a;b"])
def test_nothing_is_offered_that_a_shell_would_act_on(url: str, manager: SessionManager, label: str) -> None:
    key = manager.spawn_subagent("a", "Work", label)

    assert offered("sessions-db show ", url) == [key]


def test_where_the_database_does_not_answer_nothing_is_offered_and_nothing_said(tmp_path: Path) -> None:
    broken = tmp_path / "broken.db"
    broken.write_text("This is no database. " * 100)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        for db in (f"sqlite:///{tmp_path}/none.db", f"sqlite:///{broken}", f"postgresql://127.0.0.1:{port}/x", "what"):
            assert offered("sessions-db show ", db) == []

    assert [*tmp_path.iterdir()] == [broken]


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no Bash")
def test_bash_replaces_what_comes_after_the_last_colon_or_equals_sign(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/sessions.db"
    with SessionManager(url) as manager:
        manager.get_or_create_main("a")
    command = tmp_path / "sessions-db"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m sessions_db "$@"\n')
    command.chmod(0o755)
    ask = 'ask() { COMP_LINE=$1 COMP_POINT=${#1}; _sessions_db_completion "$0"; echo "${COMPREPLY[@]}"; }'
    lines = ["show agent:a:", "list --parent=agent:a:", "list --agent="]
    script = "\n".join([run("completion", "bash").stdout, ask, *(f"ask 'sessions-db {line}'" for line in lines)])

    answer = subprocess.run(
        ["bash", "--norc", "-c", script, str(command)],
        env={**os.environ, "SESSIONS_DB_URL": url},
        capture_output=True,
        text=True,
        check=True,
    )

    assert (answer.stdout, answer.stderr) == ("main\nmain\na\n", "")


@pytest.mark.parametrize("command", [["bash", "--norc", "-i"], ["zsh", "-f", "-i"], ["fish", "--no-config", "-i"]])
def test_shell_without_any_settings_takes_its_script(command: list[str]) -> None:
    if shutil.which(command[0]) is None:
        pytest.skip(f"there is no {command[0]}")
    script = run("completion", command[0]).stdout
    result = subprocess.run([*command, "-c", script], capture_output=True, text=True, check=False)

    assert (result.returncode, result.stdout) == (0, "")
    assert not re.search("not found|error|unknown", result.stderr, re.IGNORECASE)

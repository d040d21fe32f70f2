"""What `list` and `history` print besides their tables: CSV, chosen fields, whole messages, those to come."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys

import pytest

from sessions_db import NewMessage, SessionManager
from tests.support.commands import ok, ok_json, process, run
from tests.support.conversations import NASTY


@pytest.fixture
def key(manager: SessionManager) -> str:
    key = manager.spawn_subagent("a", 'Say "a, b"\nand c', "quotes", metadata={"n": [1, None]})
    manager.add_messages(
        key, [NewMessage("user", "First\n\n  second"), NewMessage("tool", "found", "look"), NewMessage("user", "Third")]
    )
    return key


def test_csv_has_the_fields_of_json(url: str, manager: SessionManager, key: str) -> None:
    other = manager.get_or_create_main("b").key

    rows = [*csv.DictReader(io.StringIO(ok("list", "--csv", db=url)))]

    assert [row["key"] for row in rows] == [other, key]
    for row, session in zip(rows, ok_json("list", db=url), strict=True):
        given = {name: value for name, value in row.items() if value}
        assert given == {
            name: value if isinstance(value, str) else json.dumps(value) for name, value in session.items()
        }
    assert ok("list", "--csv", "--limit", "0", "--fields", "key,task", db=url) == "key,task\n"


def test_fields_are_chosen_and_ordered(url: str, key: str) -> None:
    fields = ("--fields", "status,key,createdMs")
    (session,) = ok_json("list", *fields, db=url)
    table = ok("list", *fields, db=url, columns=120)

    assert [*session] == ["status", "key", "createdMs"]
    assert ok("list", *fields, "--csv", db=url) == f"status,key,createdMs\nactive,{key},{session['createdMs']}\n"
    assert table.split()[:5] == ["status", "key", "createdMs", "active", key]
    assert str(session["createdMs"]) not in table


@pytest.mark.parametrize("options", [["--fields", "key,messages"], ["--fields", ""], ["--csv", "--json"]], ids=" ".join)
def test_fields_that_are_not_there_are_wrong_usage(url: str, options: list[str]) -> None:
    assert run("list", *options, db=url).exit_code == 2


@pytest.mark.parametrize("backend", ["sqlite"])
@pytest.mark.parametrize(
    ("command", "closed", "code", "stderr"),
    [
        (["list"], ">&-", 0, ""),
        (["show", "nobody"], "2>&-", 1, ""),
        (["delete", "quotes"], "<&-", 2, "--yes does it without asking."),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
@pytest.mark.usefixtures("key")
def test_command_works_where_a_stream_is_closed(
    url: str, command: list[str], closed: str, code: int, stderr: str
) -> None:
    whole = (sys.executable, "-m", "sessions_db", "--db", url, *command)
    result = subprocess.run(["sh", "-c", f'"$@" {closed}', "sh", *whole], capture_output=True, text=True, check=False)

    assert (result.returncode, result.stdout) == (code, "")
    assert result.stderr.strip().endswith(stderr)
    assert "Traceback" not in result.stderr


def test_history_in_full_keeps_line_breaks_and_cuts_nothing(url: str, manager: SessionManager, key: str) -> None:
    manager.add_message(key, "assistant", "word " * 200 + NASTY, metadata={"tool_calls": []})

    shown = ok("history", key, "--full", "--tools", db=url, columns=60)

    assert "\nFirst\n\n  second\n\n#2  tool: look  " in shown
    assert shown.count("word") == 200
    assert "…" not in shown
    assert not set("\x1b\x9b\r\u202e") & set(shown)


@pytest.mark.parametrize("options", [[], ["--full"]], ids=["short", "full"])
def test_follow_prints_what_comes_until_the_session_ends(
    url: str, manager: SessionManager, key: str, options: list[str]
) -> None:
    following = process("history", "quotes", "--follow", *options, db=url)
    assert following.stdout is not None
    seen = b""
    while b"Third" not in seen:
        seen += following.stdout.readline()
    manager.add_messages(key, [NewMessage("tool", "left out", "look"), NewMessage("assistant", "Fifth")])
    while b"Fifth" not in seen:
        seen += following.stdout.readline()
    manager.complete_session(key)
    rest, stderr = following.communicate(timeout=60)

    assert (following.returncode, stderr.decode()) == (0, f"{key} has ended.\n")
    assert b"left out" not in seen + rest
    assert [line.split()[:2] for line in seen.decode().splitlines() if line.startswith("#")] == [
        ["#1", "user"],
        ["#3", "user"],
        ["#5", "assistant"],
    ]


def test_follow_as_json_is_a_line_for_each_message(url: str, manager: SessionManager, key: str) -> None:
    manager.complete_session(key)
    expected = [message.to_dict() for message in manager.history(key, include_tools=True) or []]

    for options, first in (([], 0), (["--after", "1"], 1), (["--limit", "1"], 2), (["--after", "9"], 3)):
        result = run("history", key, "--follow", "--tools", "--json", *options, db=url)
        assert result.exit_code == 0
        assert [json.loads(line) for line in result.stdout.splitlines()] == expected[first:]
    for wrong in (["--before", "2"], ["--after", "1", "--limit", "1"]):
        assert run("history", key, "--follow", *wrong, db=url).exit_code == 2

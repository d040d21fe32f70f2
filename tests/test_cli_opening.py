"""Which database a command works on, what it says where there is none, and what it says when it is interrupted."""

from __future__ import annotations

import os
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
from tests.support.commands import ok, run
from tests.support.interrupting import AtCall
from tests.support.rows import insert

WRITING = [
    ["stop", "nobody", "--yes"],
    ["send", "nobody", "Hello", "--yes"],
    ["prune", "--older-than", "1d", "--yes"],
    ["timeout-idle", "--older-than", "1d", "--yes"],
    ["log-retention", "--days", "7"],
    ["audit", "seal"],
]
READING = [["list"], ["show", "nobody"], ["search", "x"], ["stats"], ["export"], ["audit", "verify"]]


def test_a_database_may_be_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for path in ("plain.db", "100% odd?#name.db", f"{tmp_path}/whole.db"):
        assert ok("upgrade", db=path).startswith("The database was empty")
        assert ok("list", db=path) == "No sessions.\n"
        assert Path(path).is_file()

    assert run("list", db="sqlite:plain.db").stderr.startswith("Error: --db must be a database URL")
    assert {path.name.partition(".db")[0] for path in tmp_path.iterdir()} == {"plain", "100% odd?#name", "whole"}


@pytest.mark.parametrize("command", [*WRITING, *READING], ids=" ".join)
def test_a_missing_file_is_not_created_and_the_error_says_what_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    named, default = run(*command, db="none.db"), run(*command)

    said = "does not exist{}. `sessions-db upgrade` creates it, and so does `sessions-db import`.\n"
    assert (named.exit_code, named.stdout, default.exit_code) == (1, "", 1)
    assert named.stderr == f"Error: {tmp_path.resolve()}/none.db {said.format('')}"
    hint = " (--db and SESSIONS_DB_URL name another)"
    assert default.stderr == f"Error: {tmp_path.resolve()}/sessions.db {said.format(hint)}"
    assert [*tmp_path.iterdir()] == []


def test_an_argument_that_is_not_utf_8_is_refused_with_its_bytes(tmp_path: Path) -> None:
    database = str(tmp_path / "sessions.db")
    ok("upgrade", db=database)
    given = os.fsdecode(b"caf\xe9")

    assert run("show", given, db=database).stderr == "Error: name must be UTF-8, got 'caf\\xe9'\n"
    assert run("list", "--prefix", given, db=database).stderr == "Error: key_prefix must be UTF-8, got 'caf\\xe9'\n"


@pytest.mark.parametrize("command", [["list"], ["stop", "nobody", "--yes"], ["import", "-"], ["upgrade"], ["doctor"]])
@pytest.mark.parametrize(
    ("database", "said"),
    [
        ("sqlite://", "A database in memory begins empty and ends with the command: name a file.\n"),
        (".", " is a directory.\n"),
        (
            "sqlite:///file:a%00b?uri=true",
            "--db must be a URL that the driver takes, got sqlite+pysqlite:///file%3Aa%00b\n",
        ),
        ("mysql://host/x", "--db must be a SQLite or Postgres URL "),
    ],
)
def test_a_database_that_no_command_can_use_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str], database: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(*command, db=database)

    assert (result.exit_code, result.stdout) == (1, "")
    assert said in result.stderr
    assert result.stderr.count("\n") == 1
    assert run(*command, db="").exit_code == 2
    assert [*tmp_path.iterdir()] == []


def test_an_option_that_libpq_does_not_know_is_named() -> None:
    result = run("list", db="postgresql://127.0.0.1:1/x?sslmod=require")

    assert result.stderr == 'Error: Database unavailable after 0.0 s: invalid connection option "sslmod"\n'


@pytest.mark.skipif(sys.platform == "win32", reason="directories have no modes there")
def test_a_reader_is_told_how_to_read_in_a_directory_that_is_not_writable(tmp_path: Path) -> None:
    directory = tmp_path / "media"
    directory.mkdir()
    file = directory / "sessions.db"
    SessionManager(f"sqlite:///{file}").close()
    # To root, modes mean nothing unless it gives this right up.
    caps = "-dac_override,-dac_read_search"
    lesser = [] if os.geteuid() else ["setpriv", f"--bounding-set={caps}", f"--inh-caps={caps}"]
    if lesser and shutil.which("setpriv") is None:
        pytest.skip("there is no setpriv")

    def listed(db: str) -> subprocess.CompletedProcess[str]:
        command = [*lesser, sys.executable, "-m", "sessions_db", "--db", db, "list"]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    directory.chmod(0o555)
    try:
        refused, read = listed(str(file)), listed(f"sqlite:///file:{file}?immutable=1&uri=true")
    finally:
        directory.chmod(0o755)

    assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (1, "", 1)
    assert f"{file} is in a directory that can't be written to" in refused.stderr
    assert "add immutable=1" in refused.stderr
    assert (read.returncode, read.stdout, read.stderr) == (0, "No sessions.\n", "")


def test_a_wrong_environment_is_named() -> None:
    result = CliRunner(env={"SESSIONS_DB_URL": "sessions.db"}).invoke(cli, ["list"])

    assert result.stderr.startswith("Error: SESSIONS_DB_URL must be a database URL such as sqlite:///sessions.db")


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    result = run("upgrade", db=f"{tmp_path}/none/sessions.db")

    assert (result.exit_code, result.stderr) == (1, f"Error: The directory {tmp_path}/none does not exist.\n")


@pytest.mark.parametrize("command", ["list", "schemas", "audit all-schemas"])
def test_a_command_says_that_it_waits_for_a_server_that_is_down(command: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    result = run(*command.split(), "--wait", "2s", db=f"postgresql://127.0.0.1:{port}/x")

    waiting, error = result.stderr.splitlines()
    assert result.exit_code == 1
    assert waiting == "Waiting for the database, 2 s at most (--wait)."
    assert error.startswith("Error: Database unavailable after 2.")


@pytest.mark.parametrize("option", [["list", "--wait"], ["search", "x", "--timeout"]], ids=" ".join)
@pytest.mark.parametrize(
    ("value", "said"),
    [("10", "is not a duration such as 30d, 2h, 15m or 90s"), ("0s", "is not between 1s and 24d"), ("25d", "24d")],
)
def test_a_wait_is_a_duration(option: list[str], value: str, said: str) -> None:
    result = run(*option, value)

    assert result.exit_code == 2
    assert said in result.stderr


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (["list"], "Nothing was changed."),
        (["stop", "agent:a:cron:1", "--yes"], "It was done or it was not; repeating it is safe."),
        (
            ["send", "agent:a:cron:1", "Hello", "--yes"],
            "It was sent or it was not: `sessions-db history agent:a:cron:1` shows which.",
        ),
        (["prune", "--older-than", "1d", "--yes"], "0 sessions were deleted; repeating it does the rest."),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_interruption_says_what_was_done(url: str, plain: PlainClient, command: list[str], told: str) -> None:
    insert(plain, "agent:a:cron:1")
    method = {"list": "list", "stop": "stop_session", "send": "send_message", "prune": "prune"}[command[0]]
    code = getattr(SessionManager, method).__code__

    def interrupt(frame: object, _event: str, _argument: object) -> None:
        if getattr(frame, "f_code", None) is code:
            AtCall(1, KeyboardInterrupt)(frame, "call", None)

    sys.settrace(interrupt)
    try:
        result = run(*command, db=url)
    finally:
        sys.settrace(None)

    assert (result.exit_code, result.stdout) == (130, "")
    assert result.stderr == f"\nInterrupted. {told}\n"


# What runs before the command: at the call of a function with this name, the process gets a signal.
_AT_CALL = """
import atexit, signal, sys

class Finalized:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)

def trace(frame, event, argument):
    if frame.f_code.co_name == {function!r}:
        sys.settrace(None)
        {interrupt}

signal.signal(signal.SIGINT, signal.default_int_handler)
atexit.register(lambda: {at_exit})
from sessions_db.__main__ import main
sys.settrace(trace)
main()
"""


@pytest.mark.parametrize("backend", ["sqlite"])
@pytest.mark.parametrize(
    ("function", "interrupt", "command"),
    [
        ("parse_args", "signal.raise_signal(signal.SIGINT)", ["list"]),
        # The pool logs what stops it from taking a connection back.
        ("_reset", "signal.raise_signal(signal.SIGINT)", ["audit", "verify"]),
        # Nothing can catch what a finalizer raises, and this command would go on for ever.
        ("follow", "Finalized()", ["history", "agent:a:main", "--follow"]),
    ],
    ids=["parsing", "pool", "finalizer"],
)
def test_interruption_is_answered_in_one_line_wherever_it_comes(
    url: str, manager: SessionManager, function: str, interrupt: str, command: list[str]
) -> None:
    manager.get_or_create_main("a")

    result = at_call(url, function, interrupt, command)

    assert (result.returncode, result.stdout, result.stderr) == (130, "", "\nInterrupted. Nothing was changed.\n")


@pytest.mark.parametrize("backend", ["sqlite"])
@pytest.mark.usefixtures("manager")
def test_interruption_of_a_command_that_is_done_changes_nothing(url: str) -> None:
    result = at_call(url, "nothing", "", ["list"], at_exit="signal.raise_signal(signal.SIGINT)")

    assert (result.returncode, result.stdout, result.stderr) == (0, "No sessions.\n", "")


def at_call(
    url: str, function: str, interrupt: str, command: list[str], at_exit: str = "None"
) -> subprocess.CompletedProcess[str]:
    """Run a command that interrupts itself at the call of a function."""
    script = _AT_CALL.format(function=function, interrupt=interrupt or "pass", at_exit=at_exit)
    return subprocess.run(
        [sys.executable, "-c", script, "--db", url, *command], capture_output=True, text=True, check=False, timeout=60
    )

"""The command `sessions-db`, run in this process, in its own process, or on a terminal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
from click.testing import CliRunner, Result

from sessions_db.cli import cli

# Variables that a user's or a CI's environment may set, and what the tests set instead.
ALTERING = {"FORCE_COLOR", "NO_COLOR", "PYTHONUNBUFFERED", "SESSIONS_DB_URL"}
SETTLED = {"COLUMNS": "80", "TERM": "xterm"}


def run(*arguments: str, db: str | None = None, stdin: bytes | None = None, columns: int = 80) -> Result:
    environment = {**dict.fromkeys(ALTERING), **SETTLED, "COLUMNS": str(columns)}
    database = () if db is None else ("--db", db)
    return CliRunner(env=environment).invoke(cli, [*database, *arguments], prog_name="sessions-db", input=stdin)


def ok(*arguments: str, db: str, columns: int = 80) -> str:
    result = run(*arguments, db=db, columns=columns)
    assert (result.exit_code, result.stderr) == (0, "")
    return result.stdout


def ok_json(*arguments: str, db: str) -> Any:
    return json.loads(ok(*arguments, "--json", db=db))


def process(
    *arguments: str,
    db: str,
    stdin: int = subprocess.PIPE,
    stdout: int = subprocess.PIPE,
    stderr: int = subprocess.PIPE,
    columns: int | None = 80,
) -> Any:
    settled = {**SETTLED, "COLUMNS": "" if columns is None else str(columns)}
    return subprocess.Popen(
        [sys.executable, "-m", "sessions_db", "--db", db, *arguments],
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        env={name: value for name, value in os.environ.items() if name not in ALTERING} | settled,
    )


def on_terminal(url: str, *arguments: str, stdout: bool) -> tuple[bytes, bytes]:
    """What a command wrote to its terminal, which is its stderr and optionally its stdout, and to its pipe."""
    pty = pytest.importorskip("pty", reason="terminals of this kind are not there on Windows")
    ours, theirs = pty.openpty()
    command: subprocess.Popen[bytes] = process(
        *arguments, db=url, stdout=theirs if stdout else subprocess.PIPE, stderr=theirs
    )
    os.close(theirs)
    shown = read_all(ours)
    piped, _ = command.communicate(timeout=60)
    os.close(ours)
    assert command.returncode == 0
    return shown, piped or b""


def answering(url: str, *arguments: str, answer: str) -> tuple[int, str, str]:
    """The exit code of a command that asks on its terminal, what it wrote there and to its stdout."""
    pty = pytest.importorskip("pty", reason="terminals of this kind are not there on Windows")
    ours, theirs = pty.openpty()
    os.write(ours, f"{answer}\n".encode())
    command: subprocess.Popen[bytes] = process(*arguments, db=url, stdin=theirs, stderr=theirs)
    os.close(theirs)
    shown = read_all(ours)
    written, _ = command.communicate(timeout=60)
    os.close(ours)
    return command.returncode, shown.decode(), written.decode()


def read_all(descriptor: int) -> bytes:
    shown = b""
    while chunk := read(descriptor):
        shown += chunk
    return shown


def read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 4096)
    except OSError:  # how Linux reports that the other end of a terminal is closed
        return b""

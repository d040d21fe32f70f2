"""The command `sessions-db`: its output, exit codes and behaviour on a terminal."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from sessions_db import Session, SessionManager
from sessions_db.cli import cli
from sessions_db.database import EngineOptions, migrate
from sessions_db.database.engine import open_engine
from sessions_db.validation import JsonValue
from tests.support.client import PlainClient
from tests.support.commands import ok, ok_json, process, read, run
from tests.support.conversations import NASTY, jsonl

COMMANDS = [
    "upgrade",
    "import",
    "export",
    "list",
    "search",
    "history",
    "show",
    "tree",
    "stats",
    "archive",
    "timeout-idle",
    "prune",
    "mcp",
    "completion",
    "audit",
    "doctor",
    "web",
    "schemas",
    "demo",
    "stop",
    "reopen",
    "delete",
    "send",
    "redact",
    "log-retention",
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file of 30 conversations of one message each."""
    path = tmp_path / "conversations.jsonl"
    path.write_bytes(jsonl(*(f"question {number}" for number in range(30))))
    return path


def test_upgrade_of_an_empty_database_says_what_it_created(empty_url: str) -> None:
    first = ok("upgrade", db=empty_url)
    again = ok("upgrade", db=empty_url)

    assert re.fullmatch(r"The database was empty and is now at revision \w+\.\n", first)
    assert re.fullmatch(r"The database is at revision \w+ already\.\n", again)


def test_a_database_that_is_behind_is_refused_until_upgraded(empty_url: str) -> None:
    engine = open_engine(empty_url, EngineOptions(retry_budget_s=1, pool_size=1))
    migrate.upgrade(engine, "0001")
    engine.dispose()
    refused = run("list", db=empty_url)
    upgraded = ok("upgrade", db=empty_url)

    assert refused.exit_code == 1
    assert refused.stderr.count("\n") == 1
    assert "run `sessions-db upgrade` on it" in refused.stderr
    assert re.fullmatch(r"The database was upgraded from revision 0001 to \w+\.\n", upgraded)
    assert ok("list", db=empty_url) == "No sessions.\n"


def test_import_sums_up_what_it_did(url: str, file: Path) -> None:
    first = ok("import", str(file), "--agent", "support", db=url)
    again = ok_json("import", str(file), "--agent", "support", db=url)

    assert first == "Imported: 30 sessions with 30 messages\nAlready there: 0 sessions\nRefused: 0 lines\n"
    assert again == {"imported": 0, "alreadyThere": 30, "refused": 0, "messages": 0}


def test_import_reports_bad_lines_on_stderr_and_exits_with_1(url: str) -> None:
    lines = jsonl("one") + b"\x1b[31moops\n" + b"\n" + jsonl("two") + b'{"messages": [{"role": "critic"}]}\n'

    result = run("import", "-", "--agent", "support", "--json", db=url, stdin=lines)

    assert result.exit_code == 1
    assert json.loads(result.stdout) == {"imported": 2, "alreadyThere": 0, "refused": 2, "messages": 2}
    assert [line.partition(" (")[0] for line in result.stderr.splitlines()] == [
        "line 2: conversation must be JSON",
        "line 5: messages[0]: role must be one of user, assistant, system, tool, developer, function, got 'critic'",
    ]


def test_import_of_conversations_without_an_agent_is_wrong_usage_told_once(url: str, manager: SessionManager) -> None:
    manager.get_or_create_main("support")
    exported = ok("export", db=url).encode()
    manager.delete_session("agent:support:main")

    result = run("import", "-", db=url, stdin=b"oops\n" + exported + jsonl("one") + jsonl("two"))

    assert (result.exit_code, result.stdout) == (2, "")
    refused, *usage = result.stderr.splitlines()
    assert refused.startswith("line 1: conversation must be JSON")
    assert " ".join(usage).startswith("Usage: sessions-db import ")
    assert usage[-1] == (
        "Error: --agent must be given: line 3 is a conversation. What came before that line is imported."
    )
    assert [session.key for session in manager.list()] == ["agent:support:main"]


def test_two_imports_at_once_import_everything_once(url: str, file: Path) -> None:
    imports = [process("import", str(file), "--agent", "support", "--json", db=url) for _ in range(2)]
    summaries = [json.loads(each.communicate(timeout=60)[0]) for each in imports]

    assert [each.returncode for each in imports] == [0, 0]
    assert sum(summary["imported"] for summary in summaries) == 30
    assert sum(summary["alreadyThere"] for summary in summaries) == 30
    with SessionManager(url) as manager:
        assert len(manager.list(["subagent"])) == 30
        assert manager.get_or_create_main("support").message_count == 30


def test_import_shows_its_progress_on_a_terminal_only(url: str, file: Path) -> None:
    pty = pytest.importorskip("pty")
    master, terminal = pty.openpty()
    importing = process("import", str(file), "--agent", "support", db=url, stderr=terminal)
    os.close(terminal)
    shown = b""
    while chunk := read(master):
        shown += chunk
    importing.communicate(timeout=60)
    os.close(master)

    assert b"Importing" in shown
    # `ok` insists on an empty stderr.
    assert ok("import", str(file), "--agent", "sales", db=url).startswith("Imported: 30")


def test_interruption_before_the_command_begins_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text("raise KeyboardInterrupt")
    command = [sys.executable, "-m", "sessions_db", "list"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}

    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)

    assert (result.returncode, result.stdout) == (130, "")
    assert result.stderr == "\nInterrupted. Nothing was changed.\n"


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT can't be sent to another process there")
def test_an_interrupted_import_ends_with_130_and_keeps_what_it_imported(url: str) -> None:
    # A process started in the background may ignore SIGINT, and its children inherit that.
    start = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "from sessions_db.__main__ import main; main()"
    )
    importing = subprocess.Popen(
        [sys.executable, "-c", start, "--db", url, "import", "-", "--agent", "support"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert importing.stdin is not None
    assert importing.stderr is not None
    importing.stdin.write(jsonl("one") + b"oops\n")
    importing.stdin.flush()
    # The report of line 2 means that line 1 is stored and the command is waiting for line 3.
    reported = importing.stderr.readline()
    importing.send_signal(signal.SIGINT)
    _, rest = importing.communicate(timeout=60)

    assert reported.startswith(b"line 2: ")
    assert importing.returncode == 130
    assert rest.decode().split("\n") == [
        "",
        "Interrupted. Imported by then: 1 session with 1 message. Repeating it imports the rest, and nothing twice.",
        "",
    ]
    with SessionManager(url) as manager:
        assert len(manager.list(["subagent"])) == 1


def test_an_unreadable_database_ends_the_command_with_one_line(tmp_path: Path) -> None:
    broken = tmp_path / "broken.db"
    broken.write_text("This is no database. " * 100)

    for arguments in (["list"], ["upgrade"], ["import", str(broken), "--agent", "support"]):
        result = run(*arguments, db=f"sqlite:///{broken}")
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr == f"Error: Database unavailable after 0.0 s: file is not a database: {broken}\n"


@pytest.mark.parametrize("database", ["mysql://me:hush@host/x", "postgresql://me:hush@host:port/x"])
def test_a_password_is_never_shown(database: str) -> None:
    result = run("upgrade", db=database)

    assert result.exit_code == 1
    assert "hush" not in result.output


def without_messages(session: Session) -> dict[str, JsonValue]:
    """What is printed of a session whose messages were not read."""
    printed = session.to_dict()
    assert printed.pop("messages") == []
    return printed


@pytest.fixture
def family(manager: SessionManager) -> dict[str, Session]:
    """Sessions of each kind, some of them ended."""
    main = manager.get_or_create_main("support").key
    manager.send_message(main, "Hello")
    done = manager.spawn_subagent("support", "Find the parcel", "parcel", main, metadata={"ticket": 7})
    manager.add_message(done, "user", "Where is it?")
    manager.add_message(done, "assistant", "", metadata={"tool_calls": [{"function": {"name": "look_up"}}]})
    manager.add_message(done, "tool", '{"at": "depot"}', tool_name="look_up")
    manager.add_message(done, "assistant", "At the depot.")
    manager.complete_session(done, "found")
    cron = manager.spawn_cron("support", "Count the parcels")
    other = manager.get_or_create_main("sales").key
    keys = {"main": main, "done": done, "cron": cron, "other": other}
    return {session.key: session for session in manager.list()} | {
        name: next(session for session in manager.list() if session.key == key) for name, key in keys.items()
    }


FILTERED: list[tuple[list[str], list[str]]] = [
    ([], ["cron", "done", "main", "other"]),
    (["--kind", "subagent", "--kind", "cron"], ["cron", "done"]),
    (["--active"], ["cron", "main", "other"]),
    (["--status", "completed"], ["done"]),
    (["--status", "completed", "--status", "timeout"], ["done"]),
    (["--status", "completed", "--status", "active", "--agent", "support"], ["cron", "done", "main"]),
    (["--status", "active", "--status", "completed", "--active"], ["cron", "main", "other"]),
    (["--agent", "sales"], ["other"]),
    (["--agent", "sales", "--agent", "support", "--kind", "main"], ["main", "other"]),
    (["--parent", "agent:support:main", "--parent", "agent:sales:main"], ["done"]),
    (["--parent", "agent:support:main"], ["done"]),
    (["--agent", "support", "--status", "active", "--kind", "cron"], ["cron"]),
    (["--prefix", "agent:support:cron:"], ["cron"]),
    (["--limit", "0"], []),
]


def test_list_applies_every_filter(url: str, family: dict[str, Session], subtests: pytest.Subtests) -> None:
    for options, expected in FILTERED:
        with subtests.test(" ".join(options)):
            found = ok_json("list", *options, db=url)

            assert sorted(session["key"] for session in found) == sorted(family[name].key for name in expected)


@pytest.mark.usefixtures("family")
def test_list_as_json_is_the_sessions_newest_first(url: str, manager: SessionManager) -> None:
    found = ok_json("list", db=url)

    assert len(found) == 4
    assert found == [without_messages(session) for session in manager.list()]


def test_list_shows_keys_in_full_and_fits_80_columns(url: str, family: dict[str, Session]) -> None:
    table = ok("list", db=url)

    assert all(family[name].key in table for name in ("main", "done", "cron", "other"))
    assert "[parcel] Find the parcel" in table
    assert "4 messages" in table
    assert max(map(len, table.splitlines())) <= 80


def test_list_is_too_wide_rather_than_breaking_a_key(url: str, manager: SessionManager) -> None:
    key = manager.spawn_subagent("a" * 200, "Test")

    table = ok("list", db=url)

    assert key in table
    assert "completed" not in table
    assert "active" in table


@pytest.mark.usefixtures("family")
def test_list_says_when_there_may_be_more(url: str) -> None:
    assert "--limit shows more" in ok("list", "--limit", "2", db=url)
    assert "--limit shows more" not in ok("list", db=url)


def test_history_as_json_is_the_messages(url: str, manager: SessionManager, family: dict[str, Session]) -> None:
    key = family["done"].key

    for options, arguments in (([], (None, False)), (["--tools"], (None, True)), (["--limit", "2"], (2, False))):
        expected = manager.history(key, *arguments)
        assert expected
        assert ok_json("history", key, *options, db=url) == [message.to_dict() for message in expected]


def test_history_shows_who_said_what(url: str, family: dict[str, Session]) -> None:
    table = ok("history", family["done"].key, "--tools", db=url)

    for shown in ("Where is it?", "tool: look_up", '{"at": "depot"}', '{"tool_calls": ', "At the depot."):
        assert shown in table
    assert max(map(len, table.splitlines())) <= 80


def test_history_shortens_a_long_message(url: str, manager: SessionManager) -> None:
    key = manager.get_or_create_main("support").key
    manager.send_message(key, "word " * 10_000)

    table = ok("history", key, db=url)

    assert "…" in table
    assert len(table.splitlines()) < 8
    assert len(ok_json("history", key, db=url)[0]["content"]) == 50_000


def test_history_without_messages_says_so(url: str, family: dict[str, Session]) -> None:
    key = family["cron"].key

    assert ok("history", key, db=url) == "No messages, tool messages aside (--tools shows them).\n"
    assert ok("history", key, "--tools", db=url) == "No messages.\n"
    assert ok_json("history", family["cron"].key, db=url) == []


def test_show_as_json_is_the_session_with_counts_and_children(
    url: str, manager: SessionManager, family: dict[str, Session]
) -> None:
    main = manager.get(family["main"].key)
    assert main is not None

    shown = ok_json("show", main.key, db=url)

    assert shown.pop("runtimeSecs") >= 0
    assert shown == {
        **main.to_dict(),
        "retainedCount": 1,
        "children": [without_messages(child) for child in manager.children(main.key)],
    }


def test_show_has_every_field(url: str, family: dict[str, Session]) -> None:
    done = family["done"]

    shown = ok("show", done.key, db=url)

    fields = dict(re.findall(r"^(\w+(?: \w+)?)  +(.*?) *$", shown, re.MULTILINE))
    assert fields["Key"] == done.key
    assert fields["Run ID"] == done.run_id
    assert fields["Parent"] == family["main"].key
    assert fields["Run time"] == f"{done.runtime_secs()} s"
    assert fields["Messages"] == "4 in all, the newest 4 retained"
    expected = {
        "Agent": "support",
        "Kind": "subagent",
        "Status": "completed",
        "End reason": "found",
        "Label": "parcel",
        "Task": "Find the parcel",
        "Metadata": '{"ticket": 7}',
    }
    assert {name: fields[name] for name in expected} == expected
    assert {"Created", "Finished", "Last activity"} < set(fields)


def test_show_prints_the_newest_children(url: str, manager: SessionManager) -> None:
    main = manager.get_or_create_main("support").key
    keys = [manager.spawn_subagent("support", f"Task {number}", parent_key=main) for number in range(12)]

    shown = ok("show", main, db=url)

    assert "Children: the newest 10 of 12" in shown
    assert [key for key in keys if key in shown] == keys[2:]


def test_a_time_beyond_the_calendar_is_shown_as_a_number(url: str, manager: SessionManager, plain: PlainClient) -> None:
    key = manager.spawn_subagent("support", "Test")
    plain("UPDATE sessions SET last_activity_ms = 9223372036854775807")

    assert "9223372036854775807 ms" in ok("show", key, db=url)


@pytest.mark.parametrize("command", ["history", "show"])
def test_an_unknown_key_is_an_error(url: str, command: str) -> None:
    result = run(command, "agent:nobody:main", db=url)

    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "Error: Session not found: agent:nobody:main\n"


@pytest.mark.parametrize(
    "arguments", [["frobnicate"], ["history"], ["import", "no-such-file", "--agent", "a"], ["list", "--kind", "x"]]
)
def test_wrong_usage_exits_with_2(url: str, arguments: list[str]) -> None:
    result = run(*arguments, db=url)

    assert result.exit_code == 2
    assert result.stderr.startswith("Usage: sessions-db ")


def test_an_invalid_agent_id_is_an_error(url: str, file: Path) -> None:
    result = run("import", str(file), "--agent", "a:b", db=url)

    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: agent_id must not contain ':'")


# Markup, an emoji code, an escape sequence in both forms, a carriage return, and a change of direction.


def test_stored_text_is_shown_and_never_interpreted(url: str, manager: SessionManager) -> None:
    key = manager.spawn_subagent("support", NASTY, NASTY, metadata={NASTY: NASTY})
    manager.add_message(key, "tool", NASTY, tool_name=NASTY)
    manager.add_message(key, "assistant", "", metadata={"x": NASTY})
    manager.error_session(key, NASTY)

    for arguments in (["list"], ["show", key], ["history", key, "--tools"]):
        table = ok(*arguments, db=url, columns=200)
        assert "[red]x[/red] [/] :smile:" in table
        assert not set("\x1b\x9b\r\u202e") & set(table)
        text = ok(*arguments, "--json", db=url)
        assert not set("\x1b\x9b\r\u202e") & set(text)
    assert json.loads(text)[0]["content"] == NASTY


# Starting a process takes long, so what becomes of its output is tried with one database.


@pytest.mark.parametrize("backend", ["sqlite"])
def test_json_is_readable_and_in_utf_8_whatever_the_terminals_encoding(url: str, manager: SessionManager) -> None:
    manager.get_or_create_main("support")
    manager.send_message("agent:support:main", "Grüße 日本 😀")
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "sessions_db", "--db", url, "history", "agent:support:main"]

    as_json = subprocess.run([*command, "--json"], env=environment, capture_output=True, check=True)
    as_table = subprocess.run(command, env=environment, capture_output=True, check=True)

    assert "Grüße 日本 😀".encode() in as_json.stdout
    assert b"Gr??e ?? ?" in as_table.stdout


PRINTING = pytest.mark.parametrize("command", [["list"], ["list", "--json"], ["--help"]], ids=" ".join)


@PRINTING
@pytest.mark.parametrize("backend", ["sqlite"])
def test_a_reader_that_closes_the_pipe_early_is_not_an_error(
    url: str, manager: SessionManager, command: list[str]
) -> None:
    manager.get_or_create_main("support")
    reading, writing = os.pipe()
    os.close(reading)
    listing = process(*command, db=url, stdout=writing)
    os.close(writing)

    _, stderr = listing.communicate(timeout=60)

    assert (listing.returncode, stderr) == (0, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
@PRINTING
@pytest.mark.parametrize("backend", ["sqlite"])
def test_a_full_disk_is_reported_in_one_line(url: str, manager: SessionManager, command: list[str]) -> None:
    manager.get_or_create_main("support")
    with Path("/dev/full").open("wb") as full:
        listing = process(*command, db=url, stdout=full.fileno())
        _, stderr = listing.communicate(timeout=60)

    assert listing.returncode == 1
    assert stderr.count(b"\n") == 1
    assert b"No space left on device" in stderr


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_without_the_extra_the_command_says_what_to_install(missing: str) -> None:
    start = f"import sys; sys.modules[{missing!r}] = None; from sessions_db.__main__ import main; main()"

    result = subprocess.run([sys.executable, "-c", start], capture_output=True, text=True, check=False)

    assert result.returncode == 1
    assert result.stderr == f"The command needs {missing}: pip install 'sessions-db[cli]'\n"


def test_database_is_a_file_in_the_working_directory_unless_the_environment_names_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for environment in ({"SESSIONS_DB_URL": None}, {"SESSIONS_DB_URL": "sqlite:///other.db"}):
        assert CliRunner(env=environment).invoke(cli, ["upgrade"]).exit_code == 0

    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.db", "sessions.db"]


def test_demo_shows_sessions_history_and_an_audit_query(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SESSIONS_DB_URL", "sqlite:///mine.db")
    result = CliRunner(env={"COLUMNS": "80"}).invoke(cli, ["demo"])
    again = CliRunner(env={"COLUMNS": "80"}).invoke(cli, ["demo"])

    assert (result.exit_code, result.stderr) == (0, "")
    for shown in (
        "[demo-report] Write the report again",
        "Of 151 messages the session retains the newest 100.",
        "SELECT coalesce(task, '(main session)') AS task, status, end_reason,",
        "(main session)       active                           151   100",
        "Write the report     error      the model stopped     1     1",
        "README.md",
    ):
        assert shown in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80
    volatile = r"[0-9a-f]{8}-[0-9a-f-]{27}|[\d-]{10} [\d:]{8}"
    lines = [sorted(re.sub(volatile, "", each.stdout).splitlines()) for each in (result, again)]
    assert lines[0] == lines[1]
    assert [*tmp_path.iterdir()] == []


def test_demo_with_a_database_stores_the_run_there(url: str, family: dict[str, Session]) -> None:
    shown = ok("demo", db=url)

    assert "(main session)       active                           151   100" in shown
    found = ok_json("list", "--agent", "demo", db=url)
    assert sorted((session["kind"], session["status"]) for session in found) == [
        ("cron", "completed"),
        ("main", "active"),
        ("subagent", "active"),
        ("subagent", "completed"),
        ("subagent", "completed"),
        ("subagent", "error"),
    ]
    assert not any(session.key in shown for session in family.values())


def test_demo_names_the_default_that_it_has() -> None:
    shown = " ".join(run("demo", "--help").stdout.split())

    assert "[default: a temporary SQLite file]" in shown
    assert "SESSIONS_DB_URL" not in shown


@pytest.mark.parametrize("arguments", [["--help"], *([command, "--help"] for command in COMMANDS)])
def test_help_is_complete_and_fits_80_columns(arguments: list[str]) -> None:
    # What Click makes of 80 columns, but not in its runner.
    result = CliRunner().invoke(cli, arguments, prog_name="sessions-db", terminal_width=78)

    assert result.exit_code == 0
    assert "\\b" not in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80
    # Click ends a description with three dots if it had to cut it.
    assert not re.search(r"\w\.\.\.$", result.stdout, re.MULTILINE)


def test_version_is_that_of_the_package() -> None:
    result = run("--version")

    assert re.fullmatch(r"sessions-db, version \d+\.\d+\.\d+\S*\n", result.stdout)

"""The commands that an operator manages sessions with: trees, figures, ages, the archive, completion."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from sessions_db import NewMessage, SessionManager
from tests.support.client import PlainClient
from tests.support.clock import Clock
from tests.support.commands import answering, ok, ok_json, on_terminal, run
from tests.support.conversations import NASTY
from tests.support.rows import insert, insert_cycle

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


@pytest.fixture
def family(manager: SessionManager) -> list[str]:
    """The keys of a main session, two sessions that it spawned, and two that the first of these spawned."""
    main = manager.get_or_create_main("a").key
    first, second = (manager.spawn_subagent("a", f"Task {number}", f"l{number}", main) for number in (1, 2))
    below = [manager.spawn_cron("b", f"Below {number}", parent_key=first) for number in (1, 2)]
    manager.error_session(below[0], "failed")
    return [main, first, second, *below]


def test_tree_shows_each_session_below_the_one_that_spawned_it(url: str, family: list[str]) -> None:
    main, first, second, failed, last = family

    assert ok("tree", main, db=url).splitlines() == [
        f"{main}  active",
        f"|-- {first}  active",
        "|   [l1] Task 1",
        f"|   |-- {failed}  error",
        "|   |   Below 1",
        f"|   `-- {last}  active",
        "|       Below 2",
        f"`-- {second}  active",
        "    [l2] Task 2",
    ]
    assert ok("tree", last, db=url) == f"{last}  active\nBelow 2\n"


def test_tree_as_json_is_the_sessions_with_their_depth(url: str, manager: SessionManager, family: list[str]) -> None:
    main, first, second, failed, last = family
    manager.send_message(main, "Hello")

    tree = ok_json("tree", main, db=url)

    order = [(main, 0), (first, 1), (failed, 2), (last, 2), (second, 1)]
    assert tree["leftOut"] == 0
    assert [(session["key"], session["depth"]) for session in tree["sessions"]] == order
    expected = next(session for session in manager.list() if session.key == failed).to_dict()
    del expected["messages"]
    assert tree["sessions"][2] == {"depth": 2, **expected}
    assert "messages" not in tree["sessions"][0]


@pytest.mark.parametrize(
    ("options", "shown", "left_out"),
    [
        (["--depth", "0"], [0], 4),
        (["--depth", "1"], [0, 1, 2], 2),
        (["--limit", "3"], [0, 1, 4, 2], 1),
        (["--limit", "1"], [0, 2], 3),
        (["--limit", "0"], [0], 4),
        (["--depth", "2", "--limit", "4"], [0, 1, 3, 4, 2], 0),
    ],
)
def test_tree_says_how_many_it_leaves_out(
    url: str, family: list[str], options: list[str], shown: list[int], left_out: int
) -> None:
    tree = ok_json("tree", family[0], *options, db=url)
    text = ok("tree", family[0], *options, db=url)

    assert [session["key"] for session in tree["sessions"]] == [family[number] for number in shown]
    assert tree["leftOut"] == left_out
    said = re.findall(r"^(\d+) more below it; --depth and --limit show more\.$", text, re.MULTILINE)
    assert said == ([str(left_out)] if left_out else [])


def test_tree_shows_each_session_of_a_cycle_once(url: str, plain: PlainClient) -> None:
    keys = insert_cycle(plain)

    tree = ok_json("tree", keys[1], db=url)

    assert [session["key"] for session in tree["sessions"]] == [keys[1], keys[2], keys[0]]
    assert tree["leftOut"] == 0


def test_tree_of_a_session_that_is_its_own_parent_is_that_session(url: str, plain: PlainClient) -> None:
    insert(plain, "agent:a:cron:1", parent_key="agent:a:cron:1")

    assert ok("tree", "agent:a:cron:1", db=url) == "agent:a:cron:1  active\n"


def test_tree_handles_a_chain_deeper_than_any_stack(url: str, plain: PlainClient) -> None:
    plain(
        "INSERT INTO sessions (key, agent_id, kind, status, run_id, created_ms, last_activity_ms, parent_key)"
        " WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 1500)"
        " SELECT 'agent:a:cron:' || i, 'a', 'cron', 'active', 'r' || i, i, i, 'agent:a:cron:' || (i - 1) FROM n"
    )

    cut = ok_json("tree", "agent:a:cron:0", db=url)
    whole = ok_json("tree", "agent:a:cron:0", "--depth", "2000", "--limit", "2000", db=url)

    assert (len(cut["sessions"]), cut["leftOut"]) == (11, 1490)
    assert [session["depth"] for session in whole["sessions"]] == [*range(1501)]


def test_tree_never_interprets_stored_text(url: str, manager: SessionManager) -> None:
    key = manager.spawn_subagent("a", NASTY, NASTY)

    for options in ([], ["--json"]):
        text = ok("tree", key, *options, db=url, columns=400)
        assert "[red]x[/red] [/] :smile:" in text
        assert not set("\x1b\x9b\r\u202e") & set(text)


def test_stats_counts_sessions_and_messages(
    url: str, manager: SessionManager, plain: PlainClient, clock: Clock
) -> None:
    main = manager.get_or_create_main("a").key
    clock.now_ms += 1000
    done = manager.spawn_subagent("b", "Test", "l", main, message_cap=2, archive_trimmed=True)
    manager.add_messages(done, [NewMessage("user", str(number)) for number in range(5)])
    manager.complete_session(done)
    clock.now_ms += 1000
    manager.send_message(main, "Hello")
    clock.now_ms += 1000
    newest = manager.spawn_subagent("b", "Test", "l", main, message_cap=3)
    manager.add_messages(newest, [NewMessage("user", str(number)) for number in range(10)])

    stats = ok_json("stats", db=url)
    shown = ok("stats", db=url, columns=200)

    assert stats.pop("databaseBytes") > 50_000
    assert stats == {
        "sessions": 3,
        "byKind": {"subagent": 2, "main": 1},
        "byStatus": {"active": 2, "completed": 1},
        "byAgent": {"b": 2, "a": 1},
        "labels": 1,
        "messages": {"appended": 16, "retained": 6, "trimmed": 10, "archived": 3},
        "events": plain("SELECT count(*) FROM session_events")[0][0],
        "oldest": {"key": main, "createdMs": clock.now_ms - 3000},
        "newest": {"key": newest, "createdMs": clock.now_ms},
        "longestIdle": {"key": main, "lastActivityMs": clock.now_ms - 1000},
    }
    fields = dict(re.findall(r"^(\w+(?: \w+)?)  +(.*?) *$", shown, re.MULTILINE))
    assert fields.pop("Database").endswith("B")
    assert fields == {
        "Sessions": "3",
        "By kind": "2 subagent, 1 main",
        "By status": "2 active, 1 completed",
        "By agent": "2 b, 1 a",
        "Labels": "1",
        "Messages": "16 in all, 6 retained, 10 trimmed",
        "Archived": "3 of those trimmed",
        "Events": f"{stats['events']} in the log",
        "Oldest": f"{main}, created 2023-11-14 22:13:20 UTC",
        "Newest": f"{newest}, created 2023-11-14 22:13:23 UTC",
        "Longest idle": f"{main}, for 1 s, since 2023-11-14 22:13:22 UTC",
    }


def test_stats_of_an_empty_database_are_zeros(url: str) -> None:
    stats = ok_json("stats", db=url)

    assert (stats["sessions"], stats["byAgent"]) == (0, {})
    assert not {"oldest", "newest", "longestIdle"} & set(stats)
    assert stats["messages"] == {"appended": 0, "retained": 0, "trimmed": 0, "archived": 0}
    assert ok("stats", db=url).startswith("Sessions      0")


def test_stats_prints_the_agents_with_the_most_sessions(url: str, plain: PlainClient) -> None:
    for number in range(12):
        insert(plain, f"agent:a{number:02}:cron:1")
    insert(plain, "agent:a11:cron:2")

    shown = ok("stats", db=url, columns=300)

    assert "2 a11, 1 a00, 1 a01, 1 a02, 1 a03, 1 a04, 1 a05, 1 a06, 1 a07, 1 a08, and 2 more agents" in shown
    assert len(ok_json("stats", db=url)["byAgent"]) == 12


@pytest.fixture
def aged(manager: SessionManager, clock: Clock) -> dict[str, str]:
    """Sessions that ended or went idle 3 days, 3 hours and 0 hours ago; the clock stands at the last of these."""
    keys: dict[str, str] = {}
    now_ms = clock.now_ms
    for age, age_ms in (("days", 3 * DAY_MS), ("hours", 3 * HOUR_MS), ("now", 0)):
        clock.now_ms = now_ms - age_ms
        keys |= {f"{age} active": manager.spawn_subagent("a", "Test"), f"{age} cron": manager.spawn_cron("a", "Test")}
        keys[f"{age} done"] = manager.spawn_subagent("a", "Test")
        manager.complete_session(keys[f"{age} done"])
        keys[f"{age} main"] = manager.get_or_create_main(age).key
    return keys


ALL_IDLE = ["days cron", "days active", "hours cron", "hours active"]


@pytest.mark.parametrize(
    ("command", "options", "expected"),
    [
        ("timeout-idle", ["2h"], ALL_IDLE),
        ("timeout-idle", ["1d"], ["days cron", "days active"]),
        ("timeout-idle", ["2h", "--kind", "main"], ["days main", "hours main"]),
        ("timeout-idle", ["2h", "--kind", "cron", "--kind", "subagent"], ALL_IDLE),
        ("prune", ["120m"], ["days done", "hours done"]),
        ("prune", ["2d"], ["days done"]),
        ("prune", ["2h", "--kind", "cron"], []),
        ("prune", ["30d"], []),
    ],
)
def test_old_sessions_are_swept_and_a_dry_run_lists_them_first(
    url: str, manager: SessionManager, aged: dict[str, str], command: str, options: list[str], expected: list[str]
) -> None:
    before = {session.key: session.status for session in manager.list()}
    dry = ok_json(command, "--older-than", *options, "--dry-run", db=url)
    assert {session.key: session.status for session in manager.list()} == before
    real = ok_json(command, "--older-than", *options, "--yes", db=url)
    after = {session.key: session.status for session in manager.list()}

    keys = [aged[name] for name in expected]
    assert dry == {"dryRun": True, "count": len(keys), "keys": keys}
    assert real == {**dry, "dryRun": False}
    if command == "prune":
        assert after == {key: status for key, status in before.items() if key not in keys}
    else:
        assert after == {key: "timeout" if key in keys else status for key, status in before.items()}


@pytest.mark.usefixtures("aged")
def test_sweeps_say_how_many(url: str) -> None:
    assert ok("timeout-idle", "--older-than", "1d", "--dry-run", db=url).splitlines()[2:] == [
        "2 sessions would be ended as timed out; nothing was changed (--dry-run)."
    ]
    assert ok("timeout-idle", "--older-than", "1d", "--yes", db=url) == "2 sessions were ended as timed out.\n"
    assert ok("prune", "--older-than", "1d", "--yes", db=url) == "1 session was deleted.\n"
    assert ok("prune", "--older-than", "1d", "--yes", db=url) == "0 sessions were deleted.\n"


@pytest.fixture
def ended(plain: PlainClient) -> list[str]:
    """The keys of twelve sessions that ended long ago, the oldest first."""
    keys = [f"agent:b:cron:{number:02}" for number in range(12)]
    for number, key in enumerate(keys):
        insert(plain, key, status="completed", finished_ms=number)
    return keys


@pytest.mark.parametrize(("answer", "code"), [("y", 0), ("n", 1)])
def test_prune_shows_what_it_would_delete_and_asks_on_a_terminal(
    url: str, manager: SessionManager, ended: list[str], answer: str, code: int
) -> None:
    exit_code, shown, written = answering(url, "prune", "--older-than", "1d", "--json", answer=answer)

    assert exit_code == code
    assert [line for line in shown.splitlines() if line.startswith("agent:")] == ended[:10]
    assert "and 2 more" in shown
    assert re.search(r"Delete 12 sessions, ended before [\d-]{10} [\d:]{8} UTC\? \[y/N\]: ", shown)
    assert manager.count() == (12 if code else 0)
    assert written == "" if code else json.loads(written)["keys"] == ended


@pytest.mark.parametrize("command", ["prune", "timeout-idle"])
@pytest.mark.usefixtures("aged")
def test_without_a_terminal_a_sweep_changes_nothing_unless_it_is_told_to(
    url: str, manager: SessionManager, command: str
) -> None:
    before = manager.list()

    result = run(command, "--older-than", "1d", db=url)

    assert (result.exit_code, result.stdout) == (2, "")
    assert "--yes" in result.stderr
    assert manager.list() == before


@pytest.mark.usefixtures("aged")
def test_sweeps_are_logged_under_the_actors_name(url: str, plain: PlainClient) -> None:
    ok("timeout-idle", "--older-than", "1d", "--actor", "night watch", "--yes", db=url)
    ok("prune", "--older-than", "1d", "--actor", "broom", "--yes", db=url)

    newest = "SELECT actor, event FROM audit_events ORDER BY id DESC LIMIT 3"
    assert plain(newest) == [("broom", "deleted")] + 2 * [("night watch", "status_changed")]


@pytest.mark.parametrize(
    "command",
    [
        ["prune", "--older-than", "1d", "--dry-run"],
        ["prune", "--older-than", "1d", "--yes"],
        ["timeout-idle", "--older-than", "1d", "--yes"],
        ["stop", "nobody", "--yes"],
        ["log-retention", "--days", "7"],
        ["audit", "seal"],
    ],
    ids=" ".join,
)
def test_only_upgrade_and_import_create_a_schema(empty_url: str, command: list[str]) -> None:
    if empty_url.startswith("sqlite"):
        Path(empty_url.partition("///")[2]).touch()

    refused = run(*command, db=empty_url)
    upgraded = ok("upgrade", db=empty_url)

    assert (refused.exit_code, refused.stdout) == (1, "")
    assert refused.stderr.startswith("Error: The database has no tables of this library")
    assert "`sessions-db upgrade`" in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert upgraded.startswith("The database was empty")


@pytest.mark.parametrize("command", ["prune", "timeout-idle"])
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "Missing option '--older-than'"),
        (["--older-than", "0d"], "is not between 1s and 36500d"),
        (["--older-than", "-1d"], "is not a duration such as 30d, 2h, 15m or 90s"),
        (["--older-than", "30"], "is not a duration"),
        (["--older-than", "99999d"], "is not between"),
        (["--older-than", "1d", "--kind", "x"], "'x' is not one of"),
    ],
)
def test_an_invalid_age_is_wrong_usage(url: str, command: str, options: list[str], said: str) -> None:
    result = run(command, *options, db=url)

    assert (result.exit_code, result.stdout) == (2, "")
    assert said in " ".join(result.stderr.split())


def test_an_age_from_before_1970_deletes_nothing(url: str, manager: SessionManager) -> None:
    manager.complete_session(manager.get_or_create_main("main").key)

    assert ok("prune", "--older-than", "36500d", "--yes", db=url) == "0 sessions were deleted.\n"


@pytest.mark.parametrize(("command", "shown"), [("prune", b"Deleting"), ("timeout-idle", b"Ending")])
def test_sweeps_show_their_progress_on_a_terminal(url: str, plain: PlainClient, command: str, shown: bytes) -> None:
    for number in range(3):
        insert(plain, f"agent:a:cron:{number}")
        insert(plain, f"agent:b:cron:{number}", status="completed", finished_ms=1)

    on_stderr, on_stdout = on_terminal(url, command, "--older-than", "1d", "--yes", stdout=False)

    assert shown in on_stderr
    assert on_stdout.startswith(b"3 sessions were ")


@pytest.fixture
def archived(manager: SessionManager) -> dict[str, str]:
    """The keys of two sessions with 7 and 2 archived messages, and one with none."""
    keys = {name: manager.spawn_subagent("a", name, message_cap=3, archive_trimmed=True) for name in ("two", "seven")}
    for name, count in (("two", 5), ("seven", 10)):
        batch = [NewMessage("tool", f"{name} {number}", "look", {"n": number}) for number in range(count)]
        manager.add_messages(keys[name], batch)
    keys["none"] = manager.spawn_subagent("a", "none")
    return keys


def test_archive_lists_the_sessions_with_the_most_first(url: str, archived: dict[str, str]) -> None:
    seven = {"sessionKey": archived["seven"], "count": 7, "firstSeq": 1, "lastSeq": 7}
    two = {"sessionKey": archived["two"], "count": 2, "firstSeq": 1, "lastSeq": 2}

    assert ok_json("archive", db=url) == [seven, two]
    assert ok_json("archive", "--limit", "1", db=url) == [seven]
    lines = ok("archive", db=url).splitlines()
    assert [line.split() for line in lines[1:]] == [
        [archived["seven"], "7", "1", "to", "7"],
        [archived["two"], "2", "1", "to", "2"],
    ]
    assert "--limit shows more" in ok("archive", "--limit", "1", db=url)


def test_history_reads_on_into_the_archive(url: str, plain: PlainClient, archived: dict[str, str]) -> None:
    times = plain(
        "SELECT seq, timestamp_ms, archived_ms FROM archived_messages WHERE session_key = ? ORDER BY seq",
        archived["seven"],
    )
    expected = [
        {
            "seq": seq,
            "role": "tool",
            "content": f"seven {seq - 1}",
            "timestampMs": timestamp_ms,
            "toolName": "look",
            "metadata": {"n": seq - 1},
            "archivedMs": archived_ms,
        }
        for seq, timestamp_ms, archived_ms in times
    ]

    assert len(expected) == 7
    history = ("history", archived["seven"], "--tools", "--archived")
    assert ok_json(*history, "--before", "8", db=url) == expected
    assert [message["seq"] for message in ok_json(*history, db=url)] == [*range(1, 11)]
    assert ok_json(*history, "--before", "8", "--limit", "2", db=url) == expected[-2:]
    assert ok_json(*history, "--after", "2", "--limit", "2", db=url) == expected[2:4]
    assert re.findall(r"seven \d", ok(*history, "--after", "8", db=url)) == ["seven 8", "seven 9"]


@pytest.mark.usefixtures("archived")
def test_archive_without_messages_says_so(url: str, plain: PlainClient) -> None:
    plain("DELETE FROM archived_messages")

    assert ok("archive", db=url) == "No archived messages.\n"
    assert ok_json("archive", db=url) == []


@pytest.mark.parametrize("command", ["tree", "history"])
def test_an_unknown_key_is_an_error(url: str, command: str) -> None:
    result = run(command, "agent:nobody:main", db=url)

    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "Error: Session not found: agent:nobody:main\n"


@pytest.mark.parametrize("command", [["stats"], ["tree", "agent:a:main"], ["archive"]])
def test_a_missing_table_is_reported_in_one_line(
    url: str, manager: SessionManager, plain: PlainClient, command: list[str]
) -> None:
    manager.get_or_create_main("a")
    lost = "sessions" if command[0] == "tree" else "archived_messages"
    plain(f"ALTER TABLE {lost} RENAME TO elsewhere")
    result = run(*command, db=url)
    plain(f"ALTER TABLE elsewhere RENAME TO {lost}")

    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: The database's schema does not fit: ")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("shell", "install"),
    [("bash", "~/.bashrc"), ("zsh", "~/.zshrc"), ("fish", "~/.config/fish/completions/sessions-db.fish")],
)
def test_completion_prints_the_shells_script_and_where_it_goes(shell: str, install: str) -> None:
    result = run("completion", shell)

    assert (result.exit_code, result.stderr) == (0, "")
    script, _, last = result.stdout.rstrip("\n").rpartition("\n")
    assert f"_SESSIONS_DB_COMPLETE={shell}_complete" in script
    assert last.startswith("# ")
    assert install in last


def test_completion_of_another_shell_is_wrong_usage() -> None:
    assert run("completion", "csh").exit_code == 2


def test_json_of_each_command_is_one_value(url: str, family: list[str]) -> None:
    commands = (["stats"], ["archive"], ["tree", family[0]])

    for command in commands:
        assert isinstance(json.loads(ok(*command, "--json", db=url)), dict | list)

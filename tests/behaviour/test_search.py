"""Searching for text."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from sessions_db import InvalidInput, NewMessage, SearchHit, SearchResult, SessionManager
from tests.support.clock import Clock
from tests.support.commands import ok_json, run

START_MS = 1_700_000_000_000


def places(result: SearchResult) -> list[tuple[str, str, int | None]]:
    return [(hit.session_key, hit.field, hit.seq) for hit in result.hits]


def test_label_task_live_and_archived_messages_are_found_newest_first(manager: SessionManager, clock: Clock) -> None:
    old = manager.get_or_create_main("main", message_cap=1, archive_trimmed=True)
    manager.add_messages(old.key, [NewMessage("user", "a refund"), NewMessage("tool", "REFUND", tool_name="pay")])
    clock.now_ms += 1000
    new = manager.spawn_subagent("main", "refund it", label="the refund")

    assert places(manager.search("Refund")) == [
        (new, "label", None),
        (new, "task", None),
        (old.key, "content", 2),
        (old.key, "content", 1),
    ]


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize(
    ("stored", "wanted"),
    [("die Straße", "STRASSE"), ("ÄRGER", "ärger"), ("ΣΊΣΥΦΟΣ", "σίσυφος"), ("100% a_b\\", "% A_B\\")],
)
def test_case_is_alike_and_no_character_is_special(manager: SessionManager, stored: str, wanted: str) -> None:
    key = manager.get_or_create_main("main").key
    manager.send_message(key, stored)
    manager.send_message(key, "100 axb")

    assert manager.search(wanted).hits == (
        SearchHit(session_key=key, field="content", seq=1, at_ms=START_MS, snippet=stored),
    )


def test_snippet_shows_what_is_around(manager: SessionManager) -> None:
    key = manager.get_or_create_main("main").key
    manager.send_message(key, "ß" * 100 + "needle" + "b" * 100)

    assert [hit.snippet for hit in manager.search("NEEDLE").hits] == ["…" + "ß" * 60 + "needle" + "b" * 60 + "…"]


@pytest.mark.usefixtures("clock")
def test_search_reads_every_page_and_says_how_far_it_came(manager: SessionManager) -> None:
    key = manager.get_or_create_main("main", message_cap=300).key
    manager.add_messages(key, [NewMessage("user", f"m{number}") for number in range(1, 251)])

    everything, two = manager.search("m", limit=1000), manager.search("m", limit=2)

    assert [hit.seq for hit in everything.hits] == [*range(250, 0, -1)]
    assert (everything.sessions, everything.complete) == (1, True)
    assert [hit.seq for hit in two.hits] == [250, 249]
    assert (two.sessions, two.complete, two.reached_ms) == (1, False, START_MS)
    assert manager.search("m", limit=0) == SearchResult(hits=(), sessions=0, complete=False, reached_ms=None)
    assert manager.find_keys(key, limit=0) == manager.find_keys("main", limit=0) == []


def test_time_limit_is_looked_at_after_each_session(manager: SessionManager) -> None:
    for _ in range(3):
        manager.spawn_cron("main", "Work")

    stopped = manager.search("nothing", timeout=0)

    assert (stopped.sessions, stopped.complete) == (1, False)


def test_filters_choose_the_sessions(manager: SessionManager, clock: Clock) -> None:
    main = manager.get_or_create_main("main").key
    manager.send_message(main, "word")
    clock.now_ms += 1000
    other = manager.get_or_create_main("other").key
    manager.send_message(other, "word")
    since = datetime.fromtimestamp(START_MS / 1000, UTC) + timedelta(seconds=1)

    assert places(manager.search("word", agent_id="main")) == [(main, "content", 1)]
    assert places(manager.search("word", since=since)) == [(other, "content", 1)]
    assert manager.search("word", kinds=["cron"]).hits == ()


def test_redacted_text_is_not_found(manager: SessionManager) -> None:
    key = manager.get_or_create_main("main").key
    manager.send_message(key, "secret")
    manager.redact_message(key, 1, reason="asked")

    assert manager.search("secret").hits == ()
    assert [hit.snippet for hit in manager.search("redacted").hits] == ["[redacted]"]


def test_search_within_a_transaction_sees_its_writes(manager: SessionManager) -> None:
    with manager.transaction() as transaction:
        key = transaction.get_or_create_main("main").key
        transaction.send_message(key, "word")
        found = transaction.search("word")

    assert places(found) == [(key, "content", 1)]


def test_empty_text_is_refused(manager: SessionManager) -> None:
    with pytest.raises(InvalidInput) as refused:
        manager.search("")

    assert refused.value.argument == "text"


def test_command_shows_hits_and_escapes_them(manager: SessionManager, url: str) -> None:
    key = manager.get_or_create_main("main").key
    manager.send_message(key, "a word\x1b[31m")

    shown = run("search", "WORD", db=url)

    assert ok_json("search", "WORD", db=url)["hits"][0]["sessionKey"] == key
    assert (shown.exit_code, shown.stderr) == (0, "Read 1 session, all there are.\n")
    assert "a word\\x1b[31m" in shown.stdout


def test_command_says_where_it_stopped(manager: SessionManager, url: str) -> None:
    key = manager.get_or_create_main("main").key
    manager.add_messages(key, [NewMessage("user", "word"), NewMessage("user", "word")])

    shown = run("search", "word", "--limit", "1", db=url)

    assert shown.exit_code == 0
    assert shown.stderr.startswith("Stopped after 1 session, in one created at ")

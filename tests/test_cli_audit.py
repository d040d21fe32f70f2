"""`sessions-db audit`: events, seals and verification."""

from __future__ import annotations

import json

import pytest

from sessions_db import SessionManager
from tests.support.client import PlainClient
from tests.support.commands import ok, ok_json, run


@pytest.fixture
def key(manager: SessionManager) -> str:
    """A session that was spawned with a label, and ended."""
    key = manager.spawn_subagent("main", "Test", "research")
    manager.send_message(key, "Hello")
    manager.error_session(key, "gave\x1b[31mup")
    return key


def test_events_are_listed_oldest_first(url: str, key: str) -> None:
    shown = ok("audit", "events", db=url)

    assert shown.index("created") < shown.index("label assigned [research]") < shown.index("active -> error")
    assert "gave\\x1b[31mup" in shown
    assert shown.count(key) == 3


def test_events_are_filtered_and_printed_as_json(url: str, key: str, manager: SessionManager) -> None:
    manager.get_or_create_main("other")

    found = ok_json("audit", "events", "--session", key, "--kind", "status_changed", db=url)
    assert [(event["event"], event["fromStatus"], event["toStatus"]) for event in found] == [
        ("status_changed", "active", "error")
    ]
    assert [event["id"] for event in ok_json("audit", "events", "--after", "1", "--limit", "2", db=url)] == [2, 3]
    assert ok("audit", "events", "--session", "agent:nobody:main", db=url) == "No events.\n"
    two_kinds = ok_json("audit", "events", "--kind", "status_changed", "--kind", "label_assigned", db=url)
    assert [event["event"] for event in two_kinds] == ["label_assigned", "status_changed"]


def test_seal_prints_the_digest_that_verify_expects(url: str, key: str, manager: SessionManager) -> None:
    digest = ok("audit", "seal", "--actor", "operator", db=url).strip()
    assert len(digest) == 64
    manager.reopen_session(key)

    assert ok("audit", "verify", "--expect", digest, db=url).splitlines() == [
        "Verified: 3 events (sealed through 3)",
        "Deleted: 0 sealed events, which is allowed beyond the log's retention",
        "Not sealed yet: 1 event, 0 messages",
        "Messages as they were sealed: 1 (redacted: 0, trimmed or removed as the log says: 0)",
    ]
    seal = ok_json("audit", "seal", "--actor", "operator", db=url)
    assert (seal["actor"], seal["throughEventId"], seal["eventCount"], seal["previousDigest"]) == (
        "operator",
        4,
        1,
        digest,
    )
    assert ok_json("audit", "verify", "--since", digest, db=url) == {
        "seal": seal,
        "verified": 1,
        "expired": 0,
        "unsealed": 0,
        "messagesVerified": 0,
        "messagesRedacted": 0,
        "messagesGone": 0,
        "messagesUnsealed": 0,
    }


def test_seal_of_an_empty_log_says_so(url: str) -> None:
    assert ok("audit", "seal", db=url) == "Nothing was logged yet, so there is nothing to seal.\n"
    assert "nothing is sealed" in ok("audit", "verify", db=url)


def test_verify_names_the_event_that_was_changed(own_url: str) -> None:
    with SessionManager(own_url) as manager:
        for name in "abc":
            manager.get_or_create_main(name)
    digest = ok("audit", "seal", db=own_url).strip()
    owner = PlainClient(own_url)
    if owner.backend == "sqlite":
        owner("DROP TRIGGER session_events_update")
    else:
        owner("ALTER TABLE session_events DISABLE TRIGGER USER")
    owner("UPDATE session_events SET actor = 'somebody else' WHERE id = 2")
    owner.close()

    result = run("audit", "verify", "--expect", digest, db=own_url)
    assert (result.exit_code, result.stdout, result.stderr) == (1, "Not verified\n", "Event 2: was changed\n")
    found = json.loads(run("audit", "verify", "--json", db=own_url).stdout)
    assert (found["fault"], found["eventId"]) == ("was changed", 2)
    result = run("audit", "verify", "--expect", "0" * 64, db=own_url)
    assert (result.exit_code, result.stderr) == (1, f"The log: no seal has the digest {'0' * 64}\n")


@pytest.mark.usefixtures("key")
def test_login_name_is_the_actor_unless_another_is_given(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "ada")

    assert ok_json("audit", "seal", db=url)["actor"] == "ada"

"""The read-only pages: what they show and refuse, over HTTP."""

from __future__ import annotations

import base64
import csv
import errno
import io
import json
import os
import re
import socket
from collections.abc import Callable, Iterator
from html import unescape
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient

from sessions_db import InvalidInput, NewMessage, SessionManager
from sessions_db.limits import MAX_INTEGER
from sessions_db.validation import JsonValue
from sessions_db.web import create_app
from sessions_db.web.questions import PARAMETERS, Question, questions
from tests.support.client import PlainClient
from tests.support.clock import Clock
from tests.support.commands import run

LOOPBACK = "http://127.0.0.1:8321"
HOSTILE = "<script>alert(1)</script><svg onload=alert(1)>\u202egpj.exe\x1b[2J\"'&amp;"


@pytest.fixture
def get(url: str) -> Iterator[Callable[..., str]]:
    """A function that gets a page of the database, read-only, as text without tags, or as it is."""
    with SessionManager(url, read_only=True) as reader, TestClient(create_app(reader), base_url=LOOPBACK) as client:

        def fetch(path: str, *, code: int = 200, html: bool = False, **parameters: object) -> str:
            # Without None, the client would drop the parameters in the path.
            answer = client.get(path, params={name: str(value) for name, value in parameters.items()} or None)
            assert answer.status_code == code, answer.text
            return answer.text if html else words(answer.text)

        yield fetch


def words(html: str) -> str:
    """What a page says, without its tags, on one line."""
    main = re.sub(r"</?(?:bdi|span|time|a|pre|b)\b[^>]*>", "", html.partition("<main")[2].partition("</main>")[0])
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", main.partition(">")[2])).split())


def keys(html: str) -> list[str]:
    """The sessions that a page links to, in order."""
    return [unescape(found) for found in re.findall(r'<a class="key"[^>]*><bdi dir="auto">(.*?)</bdi>', html)]


# The sessions


def test_sessions_come_newest_first_a_page_at_a_time(
    manager: SessionManager, clock: Clock, get: Callable[..., str]
) -> None:
    for number in range(120):
        clock.now_ms += number % 2  # two of them have the same time
        manager.spawn_subagent("planner", f"task {number}")

    page = get("/", html=True)
    seen = keys(page)
    assert "120 sessions" in page
    while (older := re.search(r'href="([^"]*)" rel="next"', page)) is not None:
        page = get(unescape(older[1]), html=True)
        seen += keys(page)

    assert seen == [session.key for session in manager.list(limit=200)]


def test_each_filter_leaves_the_sessions_that_pass_it(
    manager: SessionManager, clock: Clock, get: Callable[..., str]
) -> None:
    clock.now_ms = 1_700_000_000_000  # 2023-11-14T22:13:20Z
    main = manager.get_or_create_main("planner").key
    clock.now_ms += 60_000
    prices = manager.spawn_subagent("researcher", "Find 100% of the PRICES", "prices")
    manager.complete_session(prices)
    clock.now_ms += 60_000
    nightly = manager.spawn_cron("timer", "Tidy up, ÄPFEL")

    def found(**filters: str) -> list[str]:
        return keys(get("/", html=True, **filters))

    assert found(kind="main") == [main]
    assert found(status="completed") == [prices]
    assert found(agent="timer") == [nightly]
    assert found(label="prices", kind="", status="") == [prices]
    assert found(text="100% of the pri") == [prices]
    assert found(text="1%0") == []
    assert found(text="ÄPFEL") == [nightly]
    assert found(since="2023-11-14T22:14") == [nightly, prices]
    assert found(since="2023-11-14T22:14", until="2023-11-14T22:15") == [prices]
    assert "No session passes" in get("/", agent="nobody")


@pytest.mark.parametrize(
    ("path", "parameters", "says"),
    [
        ("/", {"kind": "man"}, "kind must be one of"),
        ("/", {"since": "yesterday"}, "since must be a time"),
        ("/search", {"text": "x", "since": "0001-01-01T00:00+14:00"}, "since must be a time"),
        ("/", {"before": "9" * 30 + ":x"}, "before must be a whole number"),
        ("/", {"agent": "a\0"}, "agent"),
        ("/session", {}, "key must be given"),
        ("/questions/what-ran-for-more-than-30-minutes", {"minutes": "9" * 18}, "minutes must be a whole number"),
        ("/session", {"key": "x", "before": "-1"}, "before"),
    ],
)
def test_what_can_not_be_asked_is_named(
    get: Callable[..., str], path: str, parameters: dict[str, str], says: str
) -> None:
    assert says in get(path, code=400, **parameters)


# A session


def test_conversation_shows_turns_calls_usage_and_what_is_missing(
    manager: SessionManager, get: Callable[..., str]
) -> None:
    main = manager.get_or_create_main("planner").key
    key = manager.spawn_subagent("researcher", "Look", "look", main, message_cap=6, archive_trimmed=False)
    below = manager.spawn_subagent("reader", "Read", parent_key=key)
    call: JsonValue = {"id": "1", "type": "function", "function": {"name": "search", "arguments": '{"query": "a"}'}}
    manager.add_messages(key, [NewMessage("user", f"old {number}") for number in range(3)])
    manager.add_messages(
        key,
        [
            NewMessage("user", "Find it."),
            NewMessage(
                "assistant",
                "",
                metadata={"tool_calls": [call], "usage": {"prompt_tokens": 1200, "completion_tokens": 30}},
            ),
            NewMessage("tool", "a result", "search", {"call_id": "1"}),
            NewMessage("user", "The code is sesame."),
            NewMessage("assistant", "Noted."),
            NewMessage("user", "one too many"),
        ],
    )
    manager.redact_message(key, 7, reason="personal data")
    manager.pop_messages(key)
    manager.complete_session(key, "found")

    shown = get("/session", key=key)

    assert "Messages 1 to 3 were trimmed." in shown
    assert 'Calls search { "query": "a" }' in shown
    assert "1,200 tokens read, 30 written, in the messages shown" in shown
    assert "tool search #6" in shown
    assert "Result, 8 characters a result" in shown
    assert "What it said is gone: personal data." in shown
    assert "sesame" not in shown
    assert "Message 9 was removed by " in shown
    assert "Status completed Why it ended found Task Look" in shown
    assert "9 in all, 5 retained, 3 trimmed, 1 removed" in shown
    assert keys(get("/session", html=True, key=key)) == [main, below]


def test_address_past_the_last_message_invents_no_gap(manager: SessionManager, get: Callable[..., str]) -> None:
    key = manager.get_or_create_main("planner").key
    manager.send_message(key, "the only one")

    for parameters, there in (
        ({"before": 1_000}, True),
        ({"before": MAX_INTEGER}, True),
        ({"after": MAX_INTEGER}, False),
    ):
        shown = get("/session", key=key, **parameters)
        assert ("the only one" in shown, "trimmed" in shown) == (there, False)


def test_what_indenting_would_blow_up_is_shown_on_one_line(manager: SessionManager, get: Callable[..., str]) -> None:
    key = manager.get_or_create_main("planner").key
    deep: JsonValue = [0] * 5_000
    for _ in range(90):
        deep = [deep]
    call: JsonValue = {"type": "function", "function": {"name": "search", "arguments": {"in": deep}}}
    manager.add_message(key, "assistant", "", metadata={"deep": deep, "tool_calls": [call]})

    assert len(get("/session", html=True, key=key)) < 100_000


def test_number_that_no_model_counts_is_no_usage(manager: SessionManager, get: Callable[..., str]) -> None:
    key = manager.get_or_create_main("planner").key
    manager.add_message(key, "assistant", "", metadata={"usage": {"prompt_tokens": 10**4_000, "output_tokens": -1}})

    assert "tokens read" not in get("/session", key=key)


def test_long_conversation_is_paged_through_archive_and_session(
    manager: SessionManager, get: Callable[..., str]
) -> None:
    key = manager.spawn_subagent("researcher", "Look", message_cap=50, archive_trimmed=True)
    manager.add_messages(key, [NewMessage("user", f"said {number}") for number in range(1, 251)])

    page = get("/session", html=True, key=key)
    newest_first = [re.findall(r'id="message-(\d+)"', page)]
    while (older := re.search(r'href="([^"]*)">Older messages', page)) is not None:
        page = get(unescape(older[1]), html=True)
        newest_first.append(re.findall(r'id="message-(\d+)"', page))
    newer = re.search(r'href="([^"]*)">Newer messages', page)
    assert newer is not None
    after_first = get(unescape(newer[1]), html=True)

    assert [seq for seqs in reversed(newest_first) for seq in seqs] == [str(seq) for seq in range(1, 251)]
    assert re.findall(r'id="message-(\d+)"', after_first) == newest_first[1]
    assert len(re.findall("archived <span", page)) == 50
    assert "trimmed." not in words(page)


def test_sessions_above_and_below_are_a_tree_that_a_cycle_does_not_trap(
    manager: SessionManager, plain: PlainClient, get: Callable[..., str]
) -> None:
    top = manager.get_or_create_main("planner").key
    middle = manager.spawn_subagent("planner", "Middle", parent_key=top)
    first, second = (manager.spawn_subagent("planner", "Below", parent_key=middle) for _ in range(2))
    last = manager.spawn_subagent("planner", "Last", parent_key=first)

    assert keys(page := get("/session", html=True, key=middle)) == [top, first, last, second]
    assert "<summary>It spawned" not in page
    for number in range(13):
        manager.spawn_subagent("planner", f"One of many: {number}", parent_key=last)
    assert "<details><summary>It spawned 13 sessions</summary>" in get("/session", html=True, key=last)

    manager.complete_session(top)
    manager.delete_session(top)
    assert "deleted, see the log" in get("/session", key=middle)
    for key, parent_key in ((ring := "agent:ring:subagent:1", other := "agent:ring:subagent:2"), (other, ring)):
        plain(
            "INSERT INTO sessions (key, agent_id, kind, status, run_id, parent_key, created_ms, last_activity_ms)"
            " VALUES (?, 'ring', 'subagent', 'active', ?, ?, 0, 0)",
            *(key, key, parent_key),
        )
    assert keys(get("/session", html=True, key=ring)) == [other, other]


def test_session_that_is_gone_leads_to_the_log_and_one_that_never_was_is_not_found(
    manager: SessionManager, get: Callable[..., str]
) -> None:
    key = manager.spawn_subagent("planner", "Plan")
    manager.delete_session(key)

    assert "This session has been deleted" in get("/session", code=404, key=key)
    assert "Session not found: agent:nobody:main" in get("/session", code=404, key="agent:nobody:main")
    assert "Not Found" in get("/nowhere", code=404)


def test_browser_that_follows_is_told_when_nothing_is_new(manager: SessionManager) -> None:
    key = manager.get_or_create_main("planner").key
    with TestClient(create_app(manager)) as client:
        first = client.get("/session", params={"key": key})
        again = client.get("/session", params={"key": key}, headers={"If-None-Match": first.headers["ETag"]})
        manager.send_message(key, "news")
        later = client.get("/session", params={"key": key}, headers={"If-None-Match": first.headers["ETag"]})
        manager.complete_session(key)
        over = client.get("/session", params={"key": key})

    assert (first.status_code, again.status_code, later.status_code) == (200, 304, 200)
    assert "follow.js" in later.text
    assert "follow.js" not in over.text


# What agents wrote


def test_what_agents_wrote_is_shown_as_text_in_every_field(manager: SessionManager, get: Callable[..., str]) -> None:
    name = HOSTILE.replace("\x1b", "")  # what a name may hold
    main = manager.get_or_create("planner", HOSTILE.replace("\x1b", "").replace("\u202e", "")).key
    key = manager.spawn_subagent(name.replace("\u202e", ""), HOSTILE, name, main, metadata={HOSTILE: HOSTILE})
    call: JsonValue = {"type": "function", "function": {"name": HOSTILE, "arguments": HOSTILE}}
    deep: JsonValue = {"type": "function", "function": {"name": "deep", "arguments": "[" * 100_000}}
    manager.add_message(key, "tool", HOSTILE, tool_name=name, metadata={"tool_calls": [call], HOSTILE: HOSTILE})
    manager.add_message(key, "assistant", "", metadata={"tool_calls": [call, deep]})
    manager.error_session(key, HOSTILE)

    for page in (
        get("/", html=True),
        get("/session", html=True, key=key),
        get("/session", html=True, key=main),
        get("/", html=True, agent=HOSTILE, label=HOSTILE, text=HOSTILE),
        get("/session", html=True, code=404, key=HOSTILE),
    ):
        tags = {tag.lower() for tag in re.findall(r"<([A-Za-z]+)", page)}
        scripts = re.findall(r"<script[^>]*>", page)
        assert "svg" not in tags
        assert [script for script in scripts if 'src="/static/' not in script] == []
        assert "\u202e" not in re.sub(r'value="[^"]*"', "", page)
        assert "\x1b" not in re.sub(r'value="[^"]*"', "", page)


def test_long_text_is_cut_and_there_as_plain_text(manager: SessionManager, get: Callable[..., str]) -> None:
    long = "<b>" + "x" * 10_000_000
    key = manager.spawn_subagent("planner", long, metadata={"long": long})
    manager.add_message(key, "assistant", long, metadata={"long": long})

    listed, page = get("/", html=True), get("/session", html=True, key=key)

    assert len(listed) < 20_000
    assert len(page) < 40_000
    assert "8,000 of 10,000,003 characters." in page
    assert get("/session/text", html=True, key=key, seq=1, field="content") == long
    assert get("/session/text", html=True, key=key, field="task") == long
    assert long in get("/session/text", html=True, key=key, seq=1, field="metadata")
    assert "field must be one of content, metadata" in get("/session/text", code=400, key=key, seq=1, field="role")
    get("/session/text", code=404, key=key, seq=2, field="content")


# Who is let in


def test_only_names_of_this_machine_are_answered_where_names_are_given(manager: SessionManager) -> None:
    client = TestClient(create_app(manager, hosts=["localhost", "127.0.0.1", "[::1]"]))

    answers = {
        host: client.get("/", headers={"Host": host}).status_code
        for host in (
            "localhost",
            "LOCALHOST:1",
            "127.0.0.1:8321",
            "[::1]:8321",
            "evil.example",
            "127.0.0.1.evil.example",
        )
    }

    assert answers == {
        **dict.fromkeys(["localhost", "LOCALHOST:1", "127.0.0.1:8321", "[::1]:8321"], 200),
        **dict.fromkeys(["evil.example", "127.0.0.1.evil.example"], 400),
    }


@pytest.mark.parametrize("host", ["aud*it.example", "*", "audit.example.com:443", "https://audit.example.com", ""])
def test_name_that_no_request_can_have_is_refused(manager: SessionManager, host: str) -> None:
    with pytest.raises(InvalidInput, match="hosts must be names alone"):
        create_app(manager, hosts=["localhost", host])


def basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        (None, 401),
        ("Bearer sesame-ö", 401),
        ("Bearer", 401),
        ("Bearer open sesame", 200),
        ("bearer  open sesame", 200),
        (basic("anybody:open sesame"), 200),
        (basic(":open sesame"), 200),
        (basic("anybody:open"), 401),
        (basic("open sesame"), 401),
        ("Basic !", 401),
        ("Digest open sesame", 401),
    ],
)
def test_token_is_needed_where_there_is_one(manager: SessionManager, authorization: str | None, status: int) -> None:
    client = TestClient(create_app(manager, token="open sesame"))
    headers = {} if authorization is None else {b"Authorization": authorization.encode("latin-1")}

    page, style = (client.get(path, headers=headers) for path in ("/", "/static/style.css"))

    assert (page.status_code, style.status_code) == (status, status)
    assert ("www-authenticate" in page.headers) == (status == 401)


def test_every_answer_forbids_what_the_pages_do_not_need_and_sets_no_cookie(manager: SessionManager) -> None:
    client = TestClient(create_app(manager, token="open sesame"), headers={"Authorization": "Bearer open sesame"})

    for path in ("/", "/nowhere", "/static/style.css", "/session?key=x", "/session"):
        headers = client.get(path).headers
        assert headers["content-security-policy"].startswith("default-src 'none'; style-src 'self'; script-src 'self';")
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert "set-cookie" not in headers


def test_nothing_is_written_or_loaded_from_elsewhere(manager: SessionManager) -> None:
    key = manager.get_or_create_main("planner").key
    client = TestClient(create_app(manager))

    assert [client.request(method, "/").status_code for method in ("POST", "PUT", "DELETE", "PATCH")] == [405] * 4
    for path in ("/", f"/session?key={key}"):
        page = client.get(path).text
        assert re.findall(r"""(?:src|href|action)=["']?(?:https?:)?//""", page) == []
        assert " style=" not in page
        assert " on" not in "".join(re.findall(r"<[^>]*>", page))


# In a service


def test_application_is_mounted_below_another_path(manager: SessionManager) -> None:
    key = manager.get_or_create_main("planner").key
    client = TestClient(Starlette(routes=[Mount("/audit", create_app(manager))]))

    page = client.get("/audit/").text
    links = [unescape(link) for link in re.findall(r'(?:href|action|src)="([^"#]*)"', page) if link != "data:,"]

    assert links
    assert [link for link in links if not link.startswith("/audit/")] == []
    assert client.get("/audit/session", params={"key": key}).status_code == 200
    assert client.get("/audit/static/style.css").status_code == 200


# The log


def test_log_is_filtered_and_paged_and_names_what_was_deleted(manager: SessionManager, get: Callable[..., str]) -> None:
    deleted = manager.spawn_subagent("planner", "Plan", "plan")
    manager.delete_session(deleted)
    for number in range(120):
        manager.get_or_create_main(f"agent-{number}")

    page = get("/log", html=True)
    older = re.search(r'href="([^"]*)" rel="next"', page)
    assert older is not None
    ids = re.findall(r'id="event-(\d+)"', page) + re.findall(r'id="event-(\d+)"', get(unescape(older[1]), html=True))

    assert ids == [str(event.id) for event in reversed(manager.events(limit=200))]
    assert len(re.findall('id="event-', get("/log", html=True, session=deleted))) == 4
    assert len(re.findall('id="event-', get("/log", html=True, label="plan", event="label_assigned"))) == 1
    assert "No event passes" in get("/log", actor="nobody")
    assert "No event passes" in get("/log", until="2001-01-01T00:00")
    assert "Nothing is sealed yet" in page


def test_verification_marks_the_event_and_the_message_that_are_not_as_they_were_sealed(
    manager: SessionManager, plain: PlainClient, get: Callable[..., str]
) -> None:
    key = manager.spawn_subagent("planner", "Plan")
    manager.add_messages(key, [NewMessage("user", "Hello"), NewMessage("assistant", "Good day")])
    assert "nothing to compare with" in get("/log/verify")
    sealed = manager.seal_log()
    assert sealed is not None

    assert sealed.digest in get("/log")
    assert "2 as they were sealed, 0 redacted" in get("/log/verify", expect=sealed.digest)
    assert "no seal has the digest" in get("/log/verify", expect="0" * 64)

    without_triggers(plain, "UPDATE messages SET content = 'Bye' WHERE seq = 2")
    told = get("/log/verify", html=True)
    assert f"Message 2 of {key}: was changed" in words(told)
    assert "#message-2" in told

    without_triggers(plain, "UPDATE session_events SET reason = 'because' WHERE id = 1")
    told = get("/log/verify", html=True)
    assert "Event #1: was changed" in words(told)
    assert re.search(r'id="event-1" class="fault"', told)


def without_triggers(plain: PlainClient, statement: str) -> None:
    """Run a statement as somebody who owns the tables."""
    plain("BEGIN")
    if plain.backend == "sqlite":
        for (name,) in plain("SELECT name FROM sqlite_master WHERE type = 'trigger' AND sql LIKE '% UPDATE %'"):
            plain(f"DROP TRIGGER {name}")
    else:
        plain("SET LOCAL session_replication_role = replica")
    plain(statement)
    plain("COMMIT")


# Searching


def test_search_shows_what_it_found_and_how_far_it_came(manager: SessionManager, get: Callable[..., str]) -> None:
    key = manager.spawn_subagent("planner", "Compare PRICES")
    manager.send_message(key, "<b>The prices</b>, please.")
    manager.get_or_create_main("other")

    page = get("/search", html=True, text="price")

    assert "2 hits in 2 sessions, all there are." in words(page)
    assert keys(page) == [key, key]
    assert "Compare <mark>" in re.sub("</?bdi[^>]*>", "", page)
    assert "0 hits in 1 session" in get("/search", text="price", agent="other", kind="main")
    assert "There is no index" in get("/search")


# The questions


def test_every_question_is_answered_with_its_own_sql(backend: str, get: Callable[..., str]) -> None:
    for slug, asked in questions().items():
        examples = {each.name: each.example for each in asked.parameters}

        answer = json.loads(get(f"/questions/{slug}.json", html=True, **examples))

        assert answer["question"] == asked.title
        assert answer["sql"] == asked.sql_for(backend)
        assert answer["complete"]
        assert "row" in get(f"/questions/{slug}", **examples)


def test_every_question_that_can_be_asked_otherwise_says_so() -> None:
    assert {*PARAMETERS} <= {*questions()}
    for slug, parameters in PARAMETERS.items():
        for sql in questions()[slug].sql.values():
            pieces = [re.escape(each.literal) for each in parameters]
            assert [len(re.findall(rf"(?<!\w){piece}(?!\w)", sql)) > 0 for piece in pieces] == [True] * len(pieces)


def test_answer_is_a_table_csv_and_json_at_a_stable_address(manager: SessionManager, get: Callable[..., str]) -> None:
    top = manager.get_or_create_main("planner").key
    key = manager.spawn_subagent("planner", "Plan", parent_key=top)
    said = "=1+1 PRICE's 100%: it\nends"
    manager.add_messages(top, [NewMessage("assistant", "ÄPFEL"), NewMessage("assistant", "\uff1dwide")])
    manager.add_message(key, "assistant", said)
    path, word = "/questions/who-mentioned-something", "Price's 100%: IT"

    page = get(path, html=True, word=word)
    files = {ending: get(f"{path}.{ending}", html=True, word=word) for ending in ("csv", "json")}

    assert "1 row." in page
    assert keys(page) == [key]
    assert f'href="{path}.csv?word=Price%27s+100%25%3A+IT"' in page
    assert "LIKE lower('%Price''s 100%: IT%')" in words(page)
    assert list(csv.reader(io.StringIO(files["csv"])))[1] == [
        key,
        "1",
        "live",
        "assistant",
        "'=1+1 PRICE's 100%: it\nends",
    ]
    assert json.loads(files["json"])["rows"] == [[key, 1, "live", "assistant", said]]
    assert "1 row." in get(path, word="ÄPFEL")
    assert get(f"{path}.csv", html=True, word="wide").splitlines()[1].endswith(",'\uff1dwide")
    assert "Give a value" in get(path)
    assert "must be given" in get(f"{path}.csv", code=400)
    assert "whole number" in get("/questions/which-sessions-are-the-largest", code=400, limit="3; DROP TABLE sessions")
    get("/questions/nothing", code=404)


def test_answer_is_cut_at_the_row_limit_and_says_so(manager: SessionManager) -> None:
    for number in range(31):
        manager.get_or_create_main(f"agent-{number}")
    client = TestClient(create_app(manager, row_limit=3))
    path = "/questions/which-sessions-were-never-used"

    assert "The first 3 rows; there are more." in words(client.get(path).text)
    assert client.get(f"{path}.csv").text.splitlines()[-1] == "... cut after 30 rows"
    assert client.get(f"{path}.json").json()["complete"] is False


# The overview


def test_overview_counts_sessions_failures_messages_and_idle_ones(
    manager: SessionManager, get: Callable[..., str]
) -> None:
    assert get("/overview").count("None.") == 4
    for number in range(4):
        key = manager.spawn_subagent("<b>\ufffe\u202e", f"task {number}")
        manager.send_message(key, "Hello")
        if number:
            manager.error_session(key) if number == 1 else manager.complete_session(key)

    page = get("/overview", html=True)

    assert "Agent Ended Failed Percent <b>\ufffe\\u202e 3 1 33" in words(page)
    assert re.search(r"Hour Messages \d{4}-\d\d-\d\d \d\d:00 \d", words(page))
    assert re.search(r"Day active completed error timeout stopped \d{4}-\d\d-\d\d 1 2 1 0 0", words(page))
    charts = re.findall(r'src="data:image/svg\+xml;base64,([^"]*)"', page)
    drawn = [ET.fromstring(base64.b64decode(chart)) for chart in charts]
    assert [chart.tag for chart in drawn] == ["{http://www.w3.org/2000/svg}svg"] * 4
    assert "100" in {text.strip() for text in drawn[1].itertext()}


# Limits and logins


@pytest.mark.parametrize("column", ["count(*)", "n"], ids=["in one piece", "row by row"])
def test_statement_that_takes_too_long_is_ended(manager: SessionManager, column: str) -> None:
    client = TestClient(create_app(manager, time_limit_s=0.01, row_limit=10_000_000))
    slow = f"WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n) SELECT {column} FROM n"
    title = "Does it end?"
    asked = Question("does-it-end", title, "Time", (), {"": slow}, ())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sessions_db.web.pages.questions.questions", lambda: {asked.slug: asked})
        answer = client.get(f"/questions/{asked.slug}")

    assert answer.status_code == 503
    assert "did not answer within 0.01 s" in words(answer.text)
    assert client.get("/log").status_code == 200


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--host", "0.0.0.0"], "0.0.0.0 can be reached by others: give --token-file"),
        (["--host", "::"], ":: can be reached by others: give --token-file"),
        (["--token-file", "short"], "The token has 5 characters: take at least 16."),
        (["--token-file", "random"], "The token file does not hold text"),
    ],
)
def test_command_says_why_it_does_not_listen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("short").write_text("12345\n")
    Path("random").write_bytes(bytes(range(128, 160)))

    result = run("web", *arguments, db="sqlite:///sessions.db")

    assert result.exit_code == 2
    assert says in " ".join(result.stderr.split())


@pytest.mark.parametrize("backend", ["sqlite"])
def test_command_names_the_port_that_is_taken(url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        result = run("web", "--port", str(port), db=url)

    assert (result.exit_code, result.stderr) == (
        1,
        f"Error: Can't listen on port {port} of 127.0.0.1: {os.strerror(errno.EADDRINUSE)}.\n",
    )

"""Whole sessions, exported as JSON Lines and imported into another database."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import URL

from sessions_db import ExportedSession, InvalidInput, NewMessage, SessionManager
from sessions_db.transfer import Line, Outcome, export_lines, import_lines
from sessions_db.transfer.lines import to_line
from tests.support.client import PlainClient, driver_url
from tests.support.commands import ok, ok_json, on_terminal, process, run
from tests.support.conversations import jsonl
from tests.support.rows import insert

TEXT = 'Grüße 日本 😀 "quoted" \\ \x01 \x7f \x9b31m \u2028 \u202e\ttab\nnew line\r'
NUMBERS: dict[str, Any] = {"z": 1.0, "a": [1e300, -0.0, 0.1, 10**30, 5e-324], "": {"z": None, "a": True}, "é": TEXT}

# As only SQL that bypasses the library writes it: line breaks between tokens, unusual numbers, a duplicate key.
FOREIGN = ' {"b":1.10,\r\n\t"a" : 1E5, "a": -0, "n": 1e-7,"e": "\\u00e9\\/"} \n'


@pytest.fixture
def other_url(request: pytest.FixtureRequest, backend: str) -> Iterator[str]:
    """An empty database at head, of the other kind than `url`."""
    databases = request.getfixturevalue("postgres_databases" if backend == "sqlite" else "sqlite_databases")
    created = databases.create(at_head=True)
    yield created
    databases.drop(created)


def exported(url: str, **selected: Any) -> list[bytes]:
    with SessionManager(url, read_only=True) as manager, export_lines(manager, **selected) as export:
        lines = [*export.lines]
        assert export.total == len(lines)
        return lines


def imported(url: str, *lines: bytes, agent_id: str | None = None) -> list[Line]:
    with SessionManager(url) as manager:
        return [*import_lines(manager, agent_id, lines)]


def outcomes(url: str, *lines: bytes, agent_id: str | None = None) -> list[Outcome]:
    return [line.outcome for line in imported(url, *lines, agent_id=agent_id)]


def refusal(url: str, line: bytes) -> str:
    (done,) = imported(url, line)
    assert done.outcome is Outcome.REFUSED
    return str(done.reason)


@pytest.fixture
def everything(manager: SessionManager, plain: PlainClient) -> dict[str, str]:
    """The keys of sessions that together use everything that can be stored, by what is special about each."""
    keys = {"main": manager.get_or_create_main("größe 日本").key}
    manager.add_messages(keys["main"], [NewMessage("user", f"{TEXT} {number}") for number in range(120)])
    for status in ("complete", "error", "timeout", "stop"):
        key = keys[status] = manager.spawn_subagent("worker", TEXT, "moved", keys["main"], metadata=NUMBERS)
        getattr(manager, f"{status}_session")(key, None if status == "timeout" else TEXT)
    keys["reopened"] = manager.spawn_cron("worker", "", TEXT)
    manager.complete_session(keys["reopened"])
    manager.reopen_session(keys["reopened"])

    keys["archive"] = manager.spawn_subagent("worker", "Archive", message_cap=3, archive_trimmed=True)
    for number in range(8):
        tool_name = "look_up" if number % 2 else None
        manager.add_message(
            keys["archive"],
            "tool",
            f"result {number}",
            tool_name=tool_name,
            metadata=NUMBERS,
            idempotency_key=f"once {number}",
        )
    keys["many archived"] = manager.spawn_subagent("worker", "Archive", message_cap=1, archive_trimmed=True)
    manager.add_messages(keys["many archived"], [NewMessage("system", str(number)) for number in range(1500)])
    keys["large"] = manager.spawn_subagent("worker", "Many", message_cap=5000)
    manager.add_messages(keys["large"], [NewMessage("assistant", str(number)) for number in range(2500)])

    gone = manager.spawn_subagent("worker", "Go")
    keys["orphan"] = manager.spawn_subagent("worker", "Stay", parent_key=gone)
    manager.delete_session(gone)

    keys["holes"] = manager.spawn_subagent("worker", "Lose some")
    manager.add_messages(keys["holes"], [NewMessage("user", str(number), metadata=NUMBERS) for number in range(10)])
    plain("DELETE FROM messages WHERE session_key = ? AND seq IN (1, 4, 5, 7, 10)", keys["holes"])
    plain("UPDATE sessions SET last_activity_ms = last_activity_ms + 5 WHERE key = ?", keys["holes"])
    keys["trimmed hole"] = manager.spawn_cron("worker", "Skip", message_cap=5)
    manager.add_message(keys["trimmed hole"], "user", "before")
    plain("UPDATE sessions SET last_seq = 50 WHERE key = ?", keys["trimmed hole"])
    manager.add_message(keys["trimmed hole"], "user", "after")

    keys["foreign"] = "agent:worker:cron:foreign"
    insert(plain, keys["foreign"], -5, metadata=FOREIGN, last_seq=9, last_activity_ms=-(2**63))
    plain(
        "INSERT INTO labels (label, session_key, assigned_ms) VALUES ('a', ?, -7), ('Z', ?, 3)", *[keys["foreign"]] * 2
    )
    return keys


def test_export_and_import_into_the_other_database_give_the_same_export(
    url: str, other_url: str, everything: dict[str, str]
) -> None:
    lines = exported(url)
    done = imported(other_url, *lines)

    assert {line.outcome for line in done} == {Outcome.IMPORTED}
    assert sum(line.messages for line in done) == 100 + 8 + 1500 + 2500 + 5 + 1
    assert {json.loads(line)["key"] for line in lines} == set(everything.values())
    assert exported(other_url) == lines


@pytest.mark.usefixtures("everything")
def test_imported_sessions_read_like_the_originals(url: str, other_url: str) -> None:
    imported(other_url, *exported(url))

    with SessionManager(url) as source, SessionManager(other_url) as target:
        for session in source.list(limit=100):
            assert target.get(session.key) == source.get(session.key)
        for label in ("moved", TEXT, "a", "Z"):
            assert target.get_by_label(label) == source.get_by_label(label) is not None


@pytest.mark.usefixtures("everything")
@pytest.mark.parametrize("where", ["source", "target"])
def test_a_second_import_finds_everything_there(url: str, other_url: str, where: str) -> None:
    lines = exported(url)
    imported(other_url, *lines)
    into = url if where == "source" else other_url

    again = outcomes(into, *lines)

    assert again == [Outcome.ALREADY_THERE] * len(lines)
    assert exported(into) == lines


def test_an_imported_session_continues_where_it_stopped(url: str, other_url: str, everything: dict[str, str]) -> None:
    imported(other_url, *exported(url))

    with SessionManager(other_url) as manager:
        for name, seq in (("archive", 9), ("holes", 11), ("trimmed hole", 52), ("foreign", 10), ("main", 121)):
            assert manager.add_message(everything[name], "user", "next").seq == seq
        known = manager.add_message(
            everything["archive"], "tool", "result 7", tool_name="look_up", metadata=NUMBERS, idempotency_key="once 7"
        )
    assert known.seq == 8
    archive = next(line for line in map(json.loads, exported(other_url)) if line["key"] == everything["archive"])
    assert [message["seq"] for message in archive["archived_messages"]] == [1, 2, 3, 4, 5, 6]


def test_metadata_is_exported_as_the_stored_text(url: str, other_url: str, everything: dict[str, str]) -> None:
    lines = exported(url)
    imported(other_url, *lines)

    (foreign,) = (line.decode() for line in lines if everything["foreign"].encode() in line)
    assert json.loads(foreign)["metadata"] == FOREIGN
    client = PlainClient(other_url)
    stored = client("SELECT CAST(metadata AS text) FROM sessions WHERE key = ?", everything["foreign"])
    client.close()
    assert stored == [(FOREIGN,)]


def test_a_line_says_everything_about_its_session(url: str, manager: SessionManager) -> None:
    parent = manager.get_or_create_main("worker").key
    key = manager.spawn_subagent(
        "worker", "Find it", "lost", parent, metadata={"b": 1.0}, message_cap=1, archive_trimmed=True
    )
    first = manager.add_message(key, "tool", "found", tool_name="look", metadata={"a": 2}, idempotency_key="k")
    second = manager.add_message(key, "assistant", "Here.")
    manager.complete_session(key, "done")
    session = manager.get(key)
    assert session is not None

    (line,) = map(json.loads, exported(url, kinds=["subagent"]))

    archived_ms = line["archived_messages"][0].pop("archived_ms")
    assert second.timestamp_ms - 1000 < archived_ms < second.timestamp_ms + 60_000
    assert line == {
        "format": "sessions-db/1",
        "key": key,
        "agent_id": "worker",
        "kind": "subagent",
        "status": "completed",
        "label": "lost",
        "task": "Find it",
        "run_id": session.run_id,
        "parent_key": parent,
        "created_ms": session.created_ms,
        "finished_ms": session.finished_ms,
        "end_reason": "done",
        "metadata": '{"b": 1.0}',
        "message_cap": 1,
        "archive_trimmed": True,
        "last_seq": 2,
        "last_activity_ms": session.last_activity_ms,
        "labels": [{"label": "lost", "assigned_ms": session.created_ms}],
        "messages": [{"seq": 2, "role": "assistant", "content": "Here.", "timestamp_ms": second.timestamp_ms}],
        "archived_messages": [
            {
                "seq": 1,
                "role": "tool",
                "content": "found",
                "tool_name": "look",
                "metadata": '{"a": 2}',
                "timestamp_ms": first.timestamp_ms,
                "idempotency_key": "k",
            }
        ],
    }


# All of one millisecond, in byte order, which no language sorts by; more than two pages of them.
TIED = [f"agent:{name}:cron:{number:03}" for name in ("A", "B", "_", "a", "b", "ä", "日", "😀") for number in range(30)]


def test_export_has_one_order_across_its_pages(url: str, plain: PlainClient) -> None:
    insert(plain, "agent:zz:cron:0", 0)
    for key in reversed(TIED):
        insert(plain, key)
    insert(plain, "agent:AA:cron:0", 2)

    keys = [json.loads(line)["key"] for line in exported(url)]

    assert keys == ["agent:zz:cron:0", *TIED, "agent:AA:cron:0"]


def test_export_has_the_same_order_in_a_database_with_another_collation(postgres_server: URL) -> None:
    name = f"sessions_db_test_collation_{os.getpid()}"
    with psycopg.connect(driver_url(postgres_server), autocommit=True) as server:
        try:
            server.execute(f"CREATE DATABASE {name} TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'en'")
        except (psycopg.errors.SyntaxError, psycopg.errors.FeatureNotSupported) as error:
            pytest.skip(f"this Postgres server has no collations by ICU: {error}")
        url = postgres_server.set(database=name).render_as_string(hide_password=False)
        SessionManager(url).close()
        plain = PlainClient(url)
        for key in TIED:
            insert(plain, key)
        by_collation = [key for (key,) in plain("SELECT key FROM sessions ORDER BY created_ms, key")]
        plain.close()

        keys = [json.loads(line)["key"] for line in exported(url)]

        server.execute(f"DROP DATABASE {name}")
    assert keys == TIED != by_collation


@pytest.mark.parametrize(
    ("selected", "expected"),
    [
        ({"agent_id": "a"}, ["cron", "main"]),
        ({"kinds": ["main"]}, ["main"]),
        ({"kinds": ["subagent", "cron"], "statuses": ["active"]}, ["subagent"]),
        ({"statuses": ["error", "stopped"]}, ["cron"]),
        ({"kinds": []}, []),
    ],
)
def test_export_applies_every_filter(
    url: str, manager: SessionManager, selected: dict[str, Any], expected: list[str]
) -> None:
    manager.get_or_create_main("a")
    manager.error_session(manager.spawn_cron("a", "Test"))
    manager.spawn_subagent("b", "Test")

    found = exported(url, **selected)

    assert sorted(json.loads(line)["kind"] for line in found) == expected


def test_export_is_a_single_snapshot(url: str, manager: SessionManager, plain: PlainClient) -> None:
    for number in range(150):
        insert(plain, f"agent:a:cron:{number:03}")
    before = exported(url)
    with SessionManager(url, read_only=True) as reader, export_lines(reader) as export:
        lines = [next(export.lines)]
        manager.spawn_subagent("a", "Later", "later")
        manager.add_message("agent:a:cron:000", "user", "Later")
        manager.delete_session("agent:a:cron:140")
        lines += export.lines

    assert lines == before
    assert exported(url) != before


# The label's owner after the import of a session that got it at 100, where another one got it at `assigned_ms`.
@pytest.mark.parametrize(("assigned_ms", "owner"), [(99, "imported"), (100, "there"), (101, "there")])
def test_a_label_stays_with_the_session_that_got_it_later(
    url: str, other_url: str, assigned_ms: int, owner: str
) -> None:
    for database, key, at_ms in ((url, "imported", 100), (other_url, "there", assigned_ms)):
        client = PlainClient(database)
        insert(client, f"agent:a:cron:{key}", label="l")
        client("INSERT INTO labels (label, session_key, assigned_ms) VALUES ('l', ?, ?)", f"agent:a:cron:{key}", at_ms)
        client.close()

    done = outcomes(other_url, *exported(url))

    with SessionManager(other_url) as manager:
        found = manager.get_by_label("l")
        assert found is not None
        assert found.key == f"agent:a:cron:{owner}"
        assert [session.label for session in manager.list()] == ["l", "l"]
    assert done == [Outcome.IMPORTED]
    assert outcomes(other_url, *exported(url)) == [Outcome.ALREADY_THERE]


@pytest.fixture
def line(url: str, manager: SessionManager) -> bytes:
    """The line of an ended session that is no longer in the database."""
    key = manager.spawn_subagent("worker", "Test", "l", message_cap=2, archive_trimmed=True, metadata={"a": 1})
    manager.add_messages(key, [NewMessage("user", str(number), idempotency_key=str(number)) for number in range(4)])
    manager.stop_session(key, "enough")
    (made,) = exported(url)
    manager.delete_session(key)
    return made


def test_an_existing_key_with_other_content_is_refused(url: str, manager: SessionManager, line: bytes) -> None:
    imported(url, line)
    key = json.loads(line)["key"]
    before = exported(url)
    changes: list[dict[str, object]] = [
        {"task": "Other"},
        {"last_activity_ms": json.loads(line)["last_activity_ms"] + 1},
        {"metadata": '{"a": 1.0}'},
        {"messages": []},
        {"archived_messages": []},
        {"message_cap": 3},
    ]
    for change in changes:
        reason = refusal(url, json.dumps(json.loads(line) | change).encode())
        assert reason == f"key must not be that of a session that is there with other content, got {key!r}"
    assert exported(url) == before

    manager.add_message(key, "user", "more")
    assert "with other content" in refusal(url, line)


def test_a_run_id_of_another_session_is_refused(url: str, line: bytes) -> None:
    imported(url, line)
    other = json.loads(line) | {"key": "agent:worker:subagent:other"}

    assert refusal(url, json.dumps(other).encode()).startswith("run_id must not be that of another session, got '01")


def test_a_line_with_blanks_and_fields_in_another_order_is_the_same_session(url: str, line: bytes) -> None:
    fields = json.loads(line)
    del fields["metadata"]  # which is compared as it is written
    (line,) = json.dumps(fields).encode().splitlines()
    text = json.dumps(dict(reversed(fields.items())), separators=(" ,\t", " :\r ")).replace("[", "[ ").encode()

    assert outcomes(url, b"\xef\xbb\xbf " + text, line) == [Outcome.IMPORTED, Outcome.ALREADY_THERE]


MESSAGE = {"seq": 3, "role": "user", "content": "x", "timestamp_ms": 1}


UNFIT: list[tuple[dict[str, object], str]] = [
    ({"format": "sessions-db/2"}, "format must be 'sessions-db/1' for this release, got 'sessions-db/2'"),
    ({"key": None}, "key must be a str, got None"),
    ({"key": "agent:worker:main"}, "key must be made of the session's agent_id and kind"),
    ({"key": "agent:other:subagent:1"}, "key must be made of the session's agent_id and kind"),
    ({"key": "agent:worker:subagent:" + "x" * 1300}, "key must be at most 1295 bytes of UTF-8"),
    ({"agent_id": "a:b"}, "agent_id must not contain ':'"),
    ({"kind": "daemon"}, "kind must be one of main, subagent, cron, conversation, got 'daemon'"),
    ({"status": "gone"}, "status must be one of"),
    ({"status": "active"}, "finished_ms must be left out for an active session"),
    ({"status": "active", "finished_ms": None}, "end_reason must be left out for an active session"),
    ({"finished_ms": None}, "finished_ms must be given, got None"),
    ({"kind": "main", "key": "agent:worker:main"}, "run_id must be left out for a main session"),
    ({"run_id": None}, "run_id must be given, got None"),
    ({"label": 5}, "label must be a str, got 5"),
    ({"task": "a\0b"}, "task must not contain NUL"),
    ({"task": "\ud800"}, "task must not contain lone surrogates"),
    ({"end_reason": []}, "end_reason must be a str"),
    ({"parent_key": 5}, "parent_key must be a str"),
    ({"created_ms": 1.5}, "created_ms must be an int, got 1.5"),
    ({"created_ms": 2**63}, "created_ms must be from -9223372036854775808 to 9223372036854775807"),
    ({"last_activity_ms": True}, "last_activity_ms must be an int, got True"),
    ({"last_activity_ms": 1}, "last_activity_ms must not be before the time of a message (1"),
    ({"last_activity_ms": 1, "messages": []}, "last_activity_ms must not be before the time of a message (1"),
    ({"last_activity_ms": 1, "archived_messages": []}, "last_activity_ms must not be before the time of a messa"),
    ({"metadata": {"a": 1}}, "metadata must be a str"),
    ({"metadata": "[]"}, "metadata must be a mapping"),
    ({"metadata": "null"}, "metadata must be the text of a JSON object, got 'null'"),
    ({"metadata": "{"}, "metadata must be the text of a JSON object (Expecting property name"),
    ({"metadata": '{"a": "\\u0000"}'}, "metadata['a'] must not contain NUL"),
    ({"message_cap": 0}, "message_cap must be from 1 to 2147483647"),
    ({"archive_trimmed": 1}, "archive_trimmed must be a bool"),
    ({"last_seq": -1}, "last_seq must be from 0"),
    ({"label": ""}, "label must not be empty, got ''"),
    ({"labels": [{"label": "", "assigned_ms": 1}]}, "labels[0].label must not be empty, got ''"),
    ({"labels": None}, "labels must be a list"),
    ({"labels": ["l"]}, "labels[0] must be an object, got 'l'"),
    ({"labels": [{"label": "l"}]}, "labels[0].assigned_ms must be an int, got None"),
    ({"labels": [{"label": "l", "assigned_ms": 1}] * 2}, "labels[1].label must not be there twice, got 'l'"),
    ({"messages": {}}, "messages must be a list"),
    ({"messages": [MESSAGE | {"role": "critic"}]}, "messages[0].role must be one of"),
    ({"messages": [MESSAGE | {"content": None}]}, "messages[0].content must be a str"),
    ({"messages": [MESSAGE | {"metadata": "1"}]}, "messages[0].metadata must be a mapping"),
    ({"messages": [MESSAGE | {"tool_name": "x" * 256}]}, "messages[0].tool_name must be at most 255"),
    ({"messages": [MESSAGE | {"idempotency_key": ""}]}, "messages[0].idempotency_key must not be empty"),
    ({"messages": [MESSAGE | {"archived_ms": 1}]}, "messages[0].archived_ms must be left out"),
    ({"messages": [MESSAGE | {"seq": 2}]}, "messages[0].seq must go up, from 3 (message_cap says)"),
    ({"messages": [MESSAGE | {"seq": 5}]}, "messages[0].seq must go up"),
    ({"messages": [MESSAGE, MESSAGE]}, "messages[1].seq must go up"),
    (
        {"messages": [MESSAGE | {"seq": seq, "idempotency_key": "k"} for seq in (3, 4)]},
        "messages[1].idempotency_key must not be there twice, got 'k'",
    ),
    ({"archived_messages": [MESSAGE]}, "archived_messages[0].archived_ms must be given, got None"),
    ({"archived_messages": [MESSAGE | {"archived_ms": 1}]}, "archived_messages[0].seq must not be that of a ret"),
    ({"archived_messages": [MESSAGE | {"archived_ms": 1, "seq": 5}]}, "archived_messages[0].seq must go up"),
    ({"colour": "red"}, "colour must not be there: sessions-db/1 has no such field, got 'red'"),
]


def test_a_field_that_cannot_be_stored_is_named_and_nothing_stored(
    url: str, line: bytes, subtests: pytest.Subtests
) -> None:
    for change, reason in UNFIT:
        with subtests.test(reason):
            assert refusal(url, json.dumps(json.loads(line) | change).encode()).startswith(reason)
            assert exported(url) == []


def test_each_field_is_required_unless_it_may_be_null(url: str, line: bytes) -> None:
    fields = json.loads(line)
    may_be_null = {"label", "task", "end_reason", "metadata"}

    for name in fields:
        without = json.dumps({other: value for other, value in fields.items() if other != name}).encode()
        if name == "format":
            with pytest.raises(InvalidInput, match="line 1 is a conversation"):
                imported(url, without)
            continue
        (done,) = imported(url, without)
        if name in may_be_null:
            assert done.outcome is Outcome.IMPORTED
            with SessionManager(url) as manager:
                manager.delete_session(fields["key"])
        else:
            assert (done.outcome, (done.reason or "").split()[0]) == (Outcome.REFUSED, name)


@pytest.mark.parametrize(
    "metadata", ['{"a": 1e999}', '{"a": NaN}', '{"a": "\\ud800"}', '{"a": ' * 200 + "1" + "}" * 200]
)
def test_metadata_beyond_the_limits_is_refused(url: str, line: bytes, metadata: str) -> None:
    refused = refusal(url, json.dumps(json.loads(line) | {"metadata": metadata}).encode())

    assert refused.startswith("metadata")
    assert exported(url) == []


def test_a_duplicate_field_is_refused(url: str, line: bytes) -> None:
    twice = line.replace(b'"task": "Test"', b'"task": "Test", "task": "Other"')

    assert "an object has the key 'task' twice" in refusal(url, twice)


def test_sessions_and_conversations_may_be_mixed(url: str, line: bytes) -> None:
    (conversation,) = jsonl("Hello").splitlines(keepends=True)

    with pytest.raises(InvalidInput) as caught:
        imported(url, line, conversation)
    with_agent = outcomes(url, line, conversation, agent_id="support")

    assert str(caught.value) == "agent_id must be given: line 2 is a conversation, got None"
    assert with_agent == [Outcome.ALREADY_THERE, Outcome.IMPORTED]


def test_a_conversation_may_have_a_format_of_its_own(url: str) -> None:
    line = b'{"messages": [{"role": "user", "content": "Hello"}], "format": "tau/1"}'

    assert outcomes(url, line, agent_id="support") == [Outcome.IMPORTED]


def test_import_is_logged_under_the_actors_name(url: str, plain: PlainClient, line: bytes, tmp_path: Path) -> None:
    file = tmp_path / "sessions.jsonl"
    file.write_bytes(line)
    newest = plain("SELECT max(id) FROM session_events")[0][0]

    ok("import", str(file), "--actor", "restorer", db=url)

    events = plain(
        "SELECT actor, event, to_status, message_count, label FROM audit_events WHERE id > ? ORDER BY id", newest
    )
    assert events == [("restorer", "created", "stopped", 2, None), ("restorer", "label_assigned", None, None, "l")]


@pytest.mark.usefixtures("everything")
def test_sessions_imported_together_give_the_same_export(url: str, other_url: str) -> None:
    with SessionManager(url) as source, SessionManager(other_url) as target:
        sessions = source.export_sessions()
        assert target.import_sessions(sessions) == [True] * len(sessions)
        assert target.import_sessions(sessions) == [False] * len(sessions)

        assert target.import_sessions([]) == []
    assert exported(other_url) == exported(url)


def ten(manager: SessionManager) -> list[ExportedSession]:
    """Ten sessions with a label and a message each, which are no longer in the database."""
    keys = [manager.spawn_subagent("worker", "Test", f"label {number}") for number in range(10)]
    for key in keys:
        manager.add_messages(key, [NewMessage("user", "Hello", metadata=NUMBERS), NewMessage("user", TEXT)])
    made = manager.export_sessions()
    for key in keys:
        manager.delete_session(key)
    return made


def test_sessions_are_imported_together_or_not_at_all(manager: SessionManager) -> None:
    sessions = ten(manager)
    other_key = sessions[0].key + "0"
    manager.import_session(replace(sessions[4], task="Another", labels=()))

    with pytest.raises(InvalidInput, match="other content"):
        manager.import_sessions(sessions)
    with pytest.raises(InvalidInput, match="run_id must not be that of another session"):
        manager.import_sessions([sessions[1], replace(sessions[4], key=other_key)])
    with pytest.raises(InvalidInput, match="run_id must not be that of another session"):
        manager.import_sessions([sessions[0], replace(sessions[0], key=other_key)])
    with pytest.raises(InvalidInput, match="message_cap"):
        manager.import_sessions([sessions[1], replace(sessions[2], message_cap=0)])

    assert [session.key for session in manager.list()] == [sessions[4].key]


def test_sessions_that_repeat_among_those_imported_together_are_stored_once(manager: SessionManager) -> None:
    sessions = ten(manager)

    assert manager.import_sessions([*sessions, *sessions[:3]]) == [True] * 10 + [False] * 3
    assert manager.export_sessions() == sessions


def test_labels_of_sessions_imported_together_stay_where_they_are_newer(manager: SessionManager) -> None:
    sessions = ten(manager)
    newer = manager.spawn_subagent("worker", "Test", "label 3")
    manager.import_session(replace(sessions[9], labels=[("label 5", 1)]))

    manager.import_sessions(sessions[:9])

    owners = [manager.get_by_label(f"label {number}") for number in range(9)]
    assert [owner and owner.key for owner in owners] == [
        newer if number == 3 else sessions[number].key for number in range(9)
    ]


def test_a_session_that_is_refused_among_others_is_refused_alone(url: str, manager: SessionManager) -> None:
    sessions = [session for _ in range(5) for session in ten(manager)]
    for position in (17, 18, 40):
        manager.import_session(replace(sessions[position], task="Another", labels=()))
    lines = [to_line(session) for session in sessions]
    lines[30] = lines[30].replace(b'"message_cap": 100', b'"message_cap": 0')

    done = imported(url, *lines)

    refused = [18, 19, 31, 41]
    assert [each.number for each in done if each.outcome is Outcome.REFUSED] == refused
    assert [each.outcome for each in done].count(Outcome.IMPORTED) == 46
    stored = {session.key: session for session in manager.export_sessions()}
    assert len(stored) == 49
    for number, session in enumerate(sessions, start=1):
        if number not in refused:
            assert stored[session.key].messages == session.messages


def test_two_imports_at_once_store_each_session_once(url: str, plain: PlainClient, tmp_path: Path) -> None:
    for number in range(60):
        insert(plain, f"agent:a:cron:{number:03}")
    file = tmp_path / "sessions.jsonl"
    lines = exported(url)
    file.write_bytes(b"".join(lines))
    plain("DELETE FROM sessions")

    imports = [process("import", str(file), "--json", db=url) for _ in range(2)]
    summaries = [json.loads(each.communicate(timeout=60)[0]) for each in imports]

    assert [summary["refused"] for summary in summaries] == [0, 0]
    assert sum(summary["imported"] for summary in summaries) == 60
    assert exported(url) == lines


@pytest.mark.usefixtures("everything")
def test_export_command_writes_the_lines_to_stdout(url: str) -> None:
    written = process("export", db=url)
    stdout, stderr = written.communicate(timeout=60)

    assert (written.returncode, stderr) == (0, b"")
    assert stdout.splitlines(keepends=True) == exported(url)


def test_export_command_applies_every_filter(url: str, manager: SessionManager) -> None:
    main = manager.get_or_create_main("a").key
    manager.error_session(manager.spawn_cron("a", "Test"))
    manager.spawn_subagent("b", "Test")

    found = ok("export", "--agent", "a", "--kind", "main", "--kind", "cron", "--status", "active", db=url)

    assert json.loads(found)["key"] == main


@pytest.mark.usefixtures("everything")
def test_export_to_a_file_says_what_it_wrote_and_import_reads_it(url: str, other_url: str, tmp_path: Path) -> None:
    file = tmp_path / "sessions.jsonl"
    file.write_text("an older export")
    said = ok("export", "--output", str(file), db=url)
    summary = ok_json("export", "--output", str(file), db=url)
    read_in = ok("import", str(file), db=other_url)

    lines = exported(url)
    size = sum(map(len, lines))
    assert file.read_bytes() == b"".join(lines)
    assert said == f"Exported: {len(lines)} sessions, {size:,} bytes, to {file}\n"
    assert summary == {"exported": len(lines), "bytes": size, "file": str(file)}
    assert read_in.startswith(f"Imported: {len(lines)} sessions with 4,114 messages\n")
    assert [*tmp_path.iterdir()] == [file]


def test_an_export_that_fails_leaves_the_file_as_it_was(
    url: str, manager: SessionManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager.get_or_create_main("a")
    file = tmp_path / "sessions.jsonl"
    file.write_text("an older export")

    def fail(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    result = run("export", "--output", str(file), db=url)

    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "Error: [Errno 28] No space left on device\n"
    assert file.read_text() == "an older export"
    assert [*tmp_path.iterdir()] == [file]


def test_export_into_a_device_writes_there(url: str, manager: SessionManager) -> None:
    manager.get_or_create_main("a")

    assert ok("export", "--output", os.devnull, db=url) == ""
    assert not Path(os.devnull).is_file()


def test_export_to_a_missing_directory_is_one_line_of_error(url: str, tmp_path: Path) -> None:
    result = run("export", "--output", str(tmp_path / "no" / "file"), db=url)

    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert f"The directory {tmp_path / 'no'} does not exist." in result.stderr


def test_export_reports_a_missing_table_in_one_line(
    url: str, manager: SessionManager, plain: PlainClient, tmp_path: Path
) -> None:
    manager.get_or_create_main("a")
    plain("ALTER TABLE archived_messages RENAME TO elsewhere")
    result = run("export", "--output", str(tmp_path / "file"), db=url)
    plain("ALTER TABLE elsewhere RENAME TO archived_messages")

    assert result.exit_code == 1
    assert result.stderr.startswith("Error: The database's schema does not fit: ")
    assert result.stderr.count("\n") == 1
    assert [*tmp_path.iterdir()] == []


def test_export_into_a_pipe_shows_its_progress_on_the_terminal(url: str, plain: PlainClient) -> None:
    insert(plain, "agent:a:cron:1", task="\x9b31m")

    shown, piped = on_terminal(url, "export", stdout=False)

    assert b"Exporting" in shown
    assert [piped] == exported(url)


def test_export_to_a_terminal_is_safe_json_without_a_bar(url: str, plain: PlainClient) -> None:
    insert(plain, "agent:a:cron:1", task="\x9b31m")

    shown, _ = on_terminal(url, "export", stdout=True)

    assert b"Exporting" not in shown
    assert b"\\u009b31m" in shown
    assert json.loads(shown) == json.loads(exported(url)[0])


def test_export_is_read_in_pages_not_into_memory(url: str, plain: PlainClient) -> None:
    insert(plain, "agent:a:cron:000")
    plain(
        "INSERT INTO sessions (key, agent_id, kind, status, run_id, created_ms, last_activity_ms, task)"
        " WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)"
        f" SELECT 'agent:a:cron:' || i, 'a', 'cron', 'active', 'r' || i, i, i, '{'x' * 20_000}' FROM n"
    )
    command = (
        "import sys, tracemalloc\n"
        "from sessions_db import SessionManager\n"
        "from sessions_db.transfer import export_lines\n"
        "with SessionManager(sys.argv[1], read_only=True) as manager, export_lines(manager) as export:\n"
        "    next(export.lines)\n"
        "    tracemalloc.start()\n"
        "    size = sum(map(len, export.lines))\n"
        "print(size, tracemalloc.get_traced_memory()[1])\n"
    )
    size, peak = map(int, subprocess.check_output([sys.executable, "-c", command, url], text=True).split())

    assert size > 40_000_000
    assert peak < size / 3

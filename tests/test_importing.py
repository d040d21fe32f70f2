"""Conversations in JSON Lines, imported as sessions."""

from __future__ import annotations

import io
import json
import os
import threading
import time
from collections.abc import Iterator
from itertools import islice

import pytest
from sqlalchemy import make_url

from sessions_db import DatabaseUnavailable, InvalidInput, SchemaMismatch, Session, SessionManager, SessionStatus
from sessions_db.integrations.chat_completions import to_chat
from sessions_db.transfer import Line, Outcome, import_lines
from sessions_db.validation import JsonValue
from tests.support.client import PlainClient
from tests.support.statements import driver_connection, traced

CHAT: list[JsonValue] = [
    {"role": "system", "content": "Be brief"},
    {"role": "user", "content": "Where is my parcel?"},
    {"content": None, "role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "look_up"}}]},
    {"role": "tool", "tool_call_id": "1", "name": "look_up", "content": '{"at": "depot"}'},
    {"role": "assistant", "content": [{"type": "text", "text": "At the depot."}]},
]


def line(messages: JsonValue = CHAT, **rest: JsonValue) -> bytes:
    return json.dumps({**rest, "messages": messages}).encode() + b"\n"


def conversation(number: int) -> bytes:
    return line([{"role": "user", "content": f"question {number}"}, {"role": "assistant", "content": "answer"}])


def run(manager: SessionManager, *lines: bytes) -> list[Line]:
    return [*import_lines(manager, "support", lines)]


def outcomes(done: list[Line]) -> list[Outcome]:
    return [each.outcome for each in done]


def imported(manager: SessionManager) -> list[Session]:
    return manager.list(["subagent"], message_limit=100)


def main_texts(manager: SessionManager) -> list[tuple[str, str]]:
    return [(message.role.value, message.content) for message in manager.get_or_create_main("support").messages]


def test_a_line_becomes_a_completed_sub_agent_session(manager: SessionManager) -> None:
    done = run(manager, line(label="parcel-1", task="Answer the customer"))

    (session,) = imported(manager)
    assert done == [Line(number=1, size=len(line(label="parcel-1", task="Answer the customer")),
                         outcome=Outcome.IMPORTED, messages=5)]  # fmt: skip
    assert session.status is SessionStatus.COMPLETED
    assert session.parent_key == manager.get_or_create_main("support").key
    assert (session.agent_id, session.label, session.task) == ("support", "parcel-1", "Answer the customer")
    assert manager.get_by_label("parcel-1") is not None
    assert json.dumps([to_chat(message) for message in session.messages]) == json.dumps(CHAT)


def test_texts_of_user_and_assistant_are_sent_to_the_main_session(manager: SessionManager) -> None:
    run(manager, line())

    assert main_texts(manager) == [("user", "Where is my parcel?"), ("assistant", "At the depot.")]


def test_main_session_keeps_the_newest_100_of_all_texts(manager: SessionManager) -> None:
    run(manager, *map(conversation, range(60)))

    main = manager.get_or_create_main("support")
    assert main.message_count == 120
    assert [message.content for message in main.messages[::2]] == [f"question {number}" for number in range(10, 60)]


def test_task_is_the_first_text_of_the_user_unless_given(manager: SessionManager) -> None:
    run(manager, line(), line([{"role": "assistant", "content": "Hi"}], label="silent", task=None))

    assert sorted(session.task or "" for session in imported(manager)) == ["", "Where is my parcel?"]


def test_other_keys_of_a_line_become_the_sessions_metadata(manager: SessionManager) -> None:
    run(manager, line(reward=1.0, tools=[{"name": "look_up"}]))

    (session,) = imported(manager)
    assert session.metadata == {"reward": 1.0, "tools": [{"name": "look_up"}]}


def test_importing_again_imports_nothing(manager: SessionManager) -> None:
    run(manager, conversation(1), conversation(2))
    before = imported(manager), manager.get_or_create_main("support")

    again = run(manager, conversation(2), b"\n", b"  " + conversation(1))

    assert outcomes(again) == [Outcome.ALREADY_THERE, Outcome.BLANK, Outcome.ALREADY_THERE]
    assert (imported(manager), manager.get_or_create_main("support")) == before


def test_redacting_the_message_that_gave_the_task_redacts_the_task(manager: SessionManager) -> None:
    run(manager, line())
    (session,) = imported(manager)

    manager.redact_message(session.key, 1, reason="another message")
    before = manager.get(session.key)
    manager.redact_message(session.key, 2, reason="asked for")
    after = manager.get(session.key)
    again = run(manager, line())

    assert before is not None
    assert after is not None
    assert (before.task, after.task) == ("Where is my parcel?", "[redacted]")
    assert outcomes(again) == [Outcome.ALREADY_THERE]
    assert {hit.session_key for hit in manager.search("my parcel").hits} == {"agent:support:main"}


def test_identical_lines_are_one_conversation(manager: SessionManager) -> None:
    done = run(manager, conversation(1), conversation(1))

    assert outcomes(done) == [Outcome.IMPORTED, Outcome.ALREADY_THERE]
    assert len(imported(manager)) == 1


@pytest.mark.parametrize("rest", [{"label": "b"}, {"task": "b"}, {"reward": 2}])
def test_lines_that_differ_outside_of_their_messages_are_two_conversations(
    manager: SessionManager, rest: dict[str, JsonValue]
) -> None:
    first: dict[str, JsonValue] = {"label": "a", "task": "a", "reward": 1}

    done = run(manager, line(**first), line(**(first | rest)))

    assert outcomes(done) == [Outcome.IMPORTED, Outcome.IMPORTED]


def test_another_agent_imports_the_same_lines_for_itself(manager: SessionManager) -> None:
    run(manager, conversation(1))

    (done,) = import_lines(manager, "sales", [conversation(1)])

    assert done.outcome is Outcome.IMPORTED


def test_a_reopened_conversation_is_not_imported_again(manager: SessionManager) -> None:
    run(manager, conversation(1))
    manager.reopen_session(imported(manager)[0].key)

    done = run(manager, conversation(1))

    assert outcomes(done) == [Outcome.ALREADY_THERE]


def test_a_deleted_conversation_is_imported_again(manager: SessionManager) -> None:
    run(manager, conversation(1))
    manager.delete_session(imported(manager)[0].key)

    done = run(manager, conversation(1))

    assert outcomes(done) == [Outcome.IMPORTED]


def test_a_conversation_without_messages_is_imported_once(manager: SessionManager) -> None:
    done = run(manager, line([]), line([]))

    assert outcomes(done) == [Outcome.IMPORTED, Outcome.ALREADY_THERE]


def test_a_line_is_committed_before_it_is_reported(manager: SessionManager) -> None:
    stored = [len(imported(manager)) for _ in import_lines(manager, "support", map(conversation, range(10)))]

    assert all(count >= number for number, count in enumerate(stored, start=1))


def test_what_comes_slowly_is_committed_before_the_next_line_is_read(manager: SessionManager) -> None:
    stored: list[int] = []

    def lines() -> Iterator[bytes]:
        for number in range(4):
            time.sleep(0.15)
            stored.append(len(imported(manager)))
            yield conversation(number)

    assert outcomes([*import_lines(manager, "support", lines())]) == [Outcome.IMPORTED] * 4
    assert stored == [0, 1, 2, 3]


def test_what_came_through_a_pipe_is_not_held_back_for_what_did_not(manager: SessionManager) -> None:
    reading, writing = os.pipe()
    sent = [conversation(1) + conversation(2) + conversation(3)[:20], conversation(3)[20:-1]]
    done: list[Line] = []

    with os.fdopen(reading, "rb") as file, os.fdopen(writing, "wb", buffering=0) as pipe:
        lines = import_lines(manager, "support", file)
        pipe.write(sent[0])
        done += islice(lines, 2)
        pipe.write(sent[1])
        pipe.close()
        done += lines

    assert [(line.number, line.size, line.outcome) for line in done] == [
        (number, len(conversation(number)) - (number == 3), Outcome.IMPORTED) for number in (1, 2, 3)
    ]


def test_a_file_is_read_in_lines_whatever_their_length(manager: SessionManager) -> None:
    texts = ["\r", "x" * 3_000_000, "", "y" * 999_000, "\u2028 é"]
    lines = [line([{"role": "user", "content": text}], n=number) for number, text in enumerate(texts)]
    content = b"\n".join([*lines[:2], b"", *lines[2:]])

    done = [*import_lines(manager, "support", io.BytesIO(content))]

    assert [each.size for each in done] == [len(each) for each in io.BytesIO(content)]
    assert outcomes(done).count(Outcome.IMPORTED) == 5


def test_two_imports_of_the_same_lines_in_opposite_order_store_each_once(url: str) -> None:
    lines = [line([{"role": "user", "content": str(number)}], label=f"label {number}") for number in range(200)]
    done: list[Outcome] = []

    def work(given: list[bytes]) -> None:
        with SessionManager(url) as manager:
            done.extend(outcomes([*import_lines(manager, "support", io.BytesIO(b"".join(given)))]))

    threads = [threading.Thread(target=work, args=[given]) for given in (lines, lines[::-1])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert (done.count(Outcome.IMPORTED), done.count(Outcome.ALREADY_THERE)) == (200, 200)
    with SessionManager(url) as manager:
        assert manager.get_or_create_main("support").message_count == 200


def test_what_comes_quickly_shares_transactions(manager: SessionManager, monkeypatch: pytest.MonkeyPatch) -> None:
    # However long a busy machine lets this process wait.
    monkeypatch.setattr("sessions_db.transfer.batches._SLOW_S", 60)
    begun: list[str] = []
    connection = driver_connection(manager)

    with traced(connection, lambda statement, _: begun.append(statement) if statement.startswith("BEGIN") else None):
        run(manager, *map(conversation, range(100)))

    # 1, 2, 4, 8, 16, 32 and 37 lines.
    assert len(begun) == 7


def test_lines_before_one_that_cannot_be_read_are_imported(manager: SessionManager) -> None:
    def lines() -> Iterator[bytes]:
        yield from map(conversation, range(5))
        raise OSError("Input/output error")

    done: list[Line] = []
    with pytest.raises(OSError, match="Input/output error"):
        done.extend(import_lines(manager, "support", lines()))

    assert outcomes(done) == [Outcome.IMPORTED] * 5
    assert len(imported(manager)) == 5


def test_a_line_that_the_database_refuses_among_others_is_refused_alone(
    manager: SessionManager, plain: PlainClient, backend: str
) -> None:
    if backend == "sqlite":
        plain(
            "CREATE TRIGGER theirs BEFORE INSERT ON messages WHEN NEW.content = 'poison' "
            "BEGIN SELECT RAISE(ABORT, 'theirs: no poison'); END"
        )
    else:
        plain(
            "CREATE FUNCTION theirs() RETURNS trigger LANGUAGE plpgsql AS "
            "'BEGIN RAISE EXCEPTION ''theirs: no poison'' USING ERRCODE = ''integrity_constraint_violation''; END'"
        )
        plain(
            "CREATE TRIGGER theirs BEFORE INSERT ON messages FOR EACH ROW WHEN (NEW.content = 'poison') "
            "EXECUTE FUNCTION theirs()"
        )
    bad = line([{"role": "user", "content": "first"}, {"role": "user", "content": "poison"}], label="bad")
    lines = [*map(conversation, range(40))]
    lines[20] = bad

    done = run(manager, *lines)

    plain("DROP TRIGGER theirs" + ("" if backend == "sqlite" else " ON messages"))
    assert [(each.number, "no poison" in (each.reason or "")) for each in done if each.outcome is Outcome.REFUSED] == [
        (21, True)
    ]
    assert outcomes(done).count(Outcome.IMPORTED) == 39
    assert manager.get_by_label("bad") is None
    assert len(manager.list(["subagent"], limit=100)) == 39
    assert manager.get_or_create_main("support").message_count == 78


def test_an_interrupted_import_continues_where_it_stopped(manager: SessionManager) -> None:
    lines = [conversation(number) for number in range(3)]
    next(import_lines(manager, "support", lines))

    done = run(manager, *lines)

    assert outcomes(done) == [Outcome.ALREADY_THERE, Outcome.IMPORTED, Outcome.IMPORTED]
    assert manager.get_or_create_main("support").message_count == 6


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b"oops", "conversation must be JSON (Expecting value, column 1)"),
        (conversation(9)[:-5], "conversation must be JSON"),
        (b"[]", "conversation must be a JSON object"),
        (b"[" * 100_000, "conversation must be JSON"),
        (b'{"messages": [], "x": NaN}', "NaN is not JSON"),
        (b'{"messages": [], "x": -Infinity}', "-Infinity is not JSON"),
        (b'{"messages": [], "x": 1e999}', "metadata['x'] must be finite"),
        (b'{"messages": [], "x": {"a": 1, "a": 1}}', "an object has the key 'a' twice"),
        (b'{"messages": [], "x": ' + b"1" * 5000 + b"}", "conversation must be JSON"),
        (b'{"messages": [], "x": "\xff"}', "byte 0xff in position 23"),
        (b"{}", "messages must be a list, got None"),
        (b'{"messages": {}}', "messages must be a list, got {}"),
        (b'{"messages": ["Hello"]}', "messages[0]: message must be an object"),
        (line([{"role": "user", "content": "x"}, {"role": "critic", "content": "x"}]), "messages[1]: role must be one"),
        (line([{"role": "user", "content": "a\0b"}]), "messages[0]: content must not contain NUL"),
        (line([{"role": "user", "content": "\ud800"}]), "messages[0]: content must not contain lone surrogates"),
        (line(label="x" * 256), "label must be at most 255 characters"),
        (line(label=5), "label must be a str"),
        (line(label=""), "label must not be empty, got ''"),
        (line(task=5), "task must be a str"),
    ],
)
def test_a_bad_line_is_refused_with_its_reason_and_the_rest_imported(
    manager: SessionManager, bad: bytes, reason: str
) -> None:
    done = run(manager, conversation(1), bad, conversation(2))

    assert outcomes(done) == [Outcome.IMPORTED, Outcome.REFUSED, Outcome.IMPORTED]
    assert done[1].number == 2
    assert reason in (done[1].reason or "")
    assert len(imported(manager)) == 2


def test_a_byte_order_mark_is_not_part_of_the_line(manager: SessionManager) -> None:
    done = run(manager, b"\xef\xbb\xbf" + conversation(1), conversation(1))

    assert outcomes(done) == [Outcome.IMPORTED, Outcome.ALREADY_THERE]


def test_an_invalid_agent_id_is_an_error_not_a_bad_line(manager: SessionManager) -> None:
    with pytest.raises(InvalidInput) as caught:
        next(import_lines(manager, "a:b", [conversation(1)]))

    assert caught.value.argument == "agent_id"


def test_a_line_that_the_database_refuses_stores_nothing(url: str, plain: PlainClient, backend: str) -> None:
    impatient = make_url(url)
    if backend == "postgresql":
        impatient = impatient.update_query_dict({"options": "-c lock_timeout=50"})
    with SessionManager(impatient, retry_budget_s=0.05) as manager:
        run(manager, conversation(1))
        plain("BEGIN IMMEDIATE" if backend == "sqlite" else "BEGIN")
        if backend == "postgresql":
            # The session is spawned, and only then the import has to wait.
            plain("LOCK TABLE messages IN SHARE MODE")
        with pytest.raises(DatabaseUnavailable):
            run(manager, conversation(1), conversation(2))
        plain("ROLLBACK")

        assert len(imported(manager)) == 1
        assert outcomes(run(manager, conversation(1), conversation(2))) == [Outcome.ALREADY_THERE, Outcome.IMPORTED]


def test_a_schema_that_does_not_fit_stops_the_import(manager: SessionManager, plain: PlainClient) -> None:
    plain("ALTER TABLE messages RENAME TO elsewhere")
    with pytest.raises(SchemaMismatch):
        run(manager, conversation(1))
    plain("ALTER TABLE elsewhere RENAME TO messages")

    assert outcomes(run(manager, conversation(1))) == [Outcome.IMPORTED]

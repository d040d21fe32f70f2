"""Input that is refused, on both databases, before anything is stored."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sessions_db import InvalidInput, NewMessage, Session, SessionKind, SessionManager, SessionStatus
from sessions_db.validation import JsonValue
from tests.support.clock import at, ms

KEY = "agent:main:main"

# The name of each text argument, and a call that passes it.
TEXT_ARGUMENTS: dict[str, tuple[str, Callable[[SessionManager, str], object]]] = {
    "get_or_create_main": ("agent_id", lambda m, text: m.get_or_create_main(text)),
    "spawn_subagent agent_id": ("agent_id", lambda m, text: m.spawn_subagent(text, "Test")),
    "spawn_subagent task": ("task", lambda m, text: m.spawn_subagent("main", text)),
    "spawn_subagent label": ("label", lambda m, text: m.spawn_subagent("main", "Test", text)),
    "spawn_subagent parent_key": ("parent_key", lambda m, text: m.spawn_subagent("main", "Test", None, text)),
    "spawn_cron idempotency_key": (
        "idempotency_key",
        lambda m, text: m.spawn_cron("main", "Test", idempotency_key=text),
    ),
    "spawn_cron metadata": ("metadata['a']", lambda m, text: m.spawn_cron("main", "Test", metadata={"a": text})),
    "spawn_cron metadata key": (
        "a key of metadata",
        lambda m, text: m.spawn_cron("main", "Test", metadata={text: 1}),
    ),
    "get": ("key", lambda m, text: m.get(text)),
    "get_by_label": ("label", lambda m, text: m.get_by_label(text)),
    "list agent_id": ("agent_id", lambda m, text: m.list(agent_id=text)),
    "list parent_key": ("parent_key", lambda m, text: m.list(parent_key=text)),
    "children": ("key", lambda m, text: m.children(text)),
    "find_keys": ("name", lambda m, text: m.find_keys(text)),
    "search": ("text", lambda m, text: m.search(text)),
    "search agent_id": ("agent_id", lambda m, text: m.search("word", agent_id=text)),
    "descendants": ("key", lambda m, text: m.descendants(text)),
    "history": ("key", lambda m, text: m.history(text)),
    "send_message key": ("key", lambda m, text: m.send_message(text, "Hello")),
    "send_message": ("message", lambda m, text: m.send_message(KEY, text)),
    "send_message metadata": ("metadata['a']", lambda m, text: m.send_message(KEY, "Hello", metadata={"a": text})),
    "send_message idempotency_key": (
        "idempotency_key",
        lambda m, text: m.send_message(KEY, "Hello", idempotency_key=text),
    ),
    "get_or_create agent_id": ("agent_id", lambda m, text: m.get_or_create(text, "talk")),
    "get_or_create": ("name", lambda m, text: m.get_or_create("main", text)),
    "touch": ("key", lambda m, text: m.touch(text)),
    "fork_session": ("key", lambda m, text: m.fork_session(text, 0)),
    "fork_session task": ("task", lambda m, text: m.fork_session(KEY, 0, task=text)),
    "fork_session label": ("label", lambda m, text: m.fork_session(KEY, 0, label=text)),
    "update_session key": ("key", lambda m, text: m.update_session(text)),
    "update_session": ("task", lambda m, text: m.update_session(KEY, task=text)),
    "update_session label": ("label", lambda m, text: m.update_session(KEY, label=text)),
    "list keys": ("keys[0]", lambda m, text: m.list(keys=[text])),
    "list under": ("under", lambda m, text: m.list(under=text)),
    "list key_prefix": ("key_prefix", lambda m, text: m.list(key_prefix=text)),
    "add_message key": ("key", lambda m, text: m.add_message(text, "user", "Hello")),
    "add_message": ("content", lambda m, text: m.add_message(KEY, "user", text)),
    "add_message tool_name": ("tool_name", lambda m, text: m.add_message(KEY, "tool", "", tool_name=text)),
    "add_message idempotency_key": (
        "idempotency_key",
        lambda m, text: m.add_message(KEY, "user", "Hello", idempotency_key=text),
    ),
    "add_message metadata": (
        "metadata['a'][1]['b']",
        lambda m, text: m.add_message(KEY, "user", "", metadata={"a": [0, {"b": text}]}),
    ),
    "add_messages key": ("key", lambda m, text: m.add_messages(text, [])),
    "complete_session key": ("key", lambda m, text: m.complete_session(text)),
    "error_session reason": ("reason", lambda m, text: m.error_session(KEY, text)),
    "reopen_session": ("key", lambda m, text: m.reopen_session(text)),
    "delete_session": ("key", lambda m, text: m.delete_session(text)),
}


@pytest.fixture
def main(manager: SessionManager) -> Session:
    """The one session of the database."""
    return manager.get_or_create_main("main")


# What is refused leaves nothing, so each of these tests tries all of its cases on one database.


def test_text_that_a_database_cannot_store_is_refused_by_name(
    manager: SessionManager, main: Session, subtests: pytest.Subtests
) -> None:
    for call, (argument, operation) in TEXT_ARGUMENTS.items():
        with subtests.test(call):
            for text in ("nul \x00 inside", "lone surrogate \ud800"):
                with pytest.raises(InvalidInput) as caught:
                    operation(manager, text)

                assert caught.value.argument == argument
            assert manager.list() == [main]


FILTERS = {"list agent_id", "list parent_key", "search agent_id"}
"""These take one text or a collection."""


def test_anything_but_text_is_refused_by_name(
    manager: SessionManager, main: Session, subtests: pytest.Subtests
) -> None:
    for call, (argument, operation) in TEXT_ARGUMENTS.items():
        with subtests.test(call):
            # Metadata may be anything of JSON, and a list can't be a key of a dict.
            values: list[object] = [] if call.endswith("metadata") else [b"bytes", 1, object()]
            if values and "key of" not in argument and call not in FILTERS:
                values.append(["list"])
            for value in values:
                with pytest.raises(InvalidInput) as caught:
                    operation(manager, value)  # type: ignore[arg-type]

                assert caught.value.argument == argument
            assert manager.list() == [main]


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "'; DROP TABLE sessions; --",
        "%s %(key)s %d {0} :key ?",
        "a\\b\\",
        "back`tick \"quote\" 'quote'",
        "\u202ereversed\u202c \u200bzero width \ufeff",
        "e\u0301 \u00e9 \U0001f468\u200d\U0001f469\u200d\U0001f467",
        "line\nfeed\r\ttab\x1b[31m\x7f",
        "x" * 255,
        "\U0001f600" * 255,
    ],
)
def test_odd_text_comes_back_exactly(manager: SessionManager, text: str) -> None:
    label = text or "-"
    key = manager.spawn_subagent("main", text, label)
    manager.add_message(key, "tool", text, tool_name=text, metadata={text: [text]}, idempotency_key=text or "-")
    manager.add_messages(key, [NewMessage("tool", text, text, {text: [text]}, text or None)])
    manager.stop_session(key, text)

    session = manager.get_by_label(label)

    assert session is not None
    assert (session.task, session.label, session.end_reason) == (text, label, text)
    for message in session.messages:
        assert (message.content, message.tool_name, message.metadata) == (text, text, {text: [text]})
    assert len(session.messages) == (1 if text else 2)


def test_message_of_10_megabytes_comes_back_exactly(manager: SessionManager, main: Session) -> None:
    content = "0123456789abcdéf" * (10 * 2**20 // 16)
    manager.send_message(main.key, content)
    manager.add_messages(main.key, [NewMessage("user", content)])

    history = manager.history(main.key)
    assert history is not None
    assert [message.content == content for message in history] == [True, True]


@pytest.mark.parametrize("agent_id", ["", "a:b", ":", "tab\t", "line\n", "\x7f", "\x85", "x" * 256])
def test_agent_id_that_could_forge_a_key_is_refused(manager: SessionManager, agent_id: str) -> None:
    for call in (manager.get_or_create_main, lambda agent: manager.spawn_subagent(agent, "Test")):
        with pytest.raises(InvalidInput) as caught:
            call(agent_id)

        assert caught.value.argument == "agent_id"


@pytest.mark.parametrize("agent_id", ["a%b", "a_b", "'", "ä ö", "..", "{}"])
def test_agent_id_may_contain_anything_else(manager: SessionManager, agent_id: str) -> None:
    assert manager.get_or_create_main(agent_id).key == f"agent:{agent_id}:main"
    assert manager.spawn_cron(agent_id, "Test").startswith(f"agent:{agent_id}:cron:")


def position(**changes: Any) -> Session:
    """A session as a position in the list, with something changed."""
    fields: dict[str, Any] = {
        "key": KEY,
        "agent_id": "main",
        "created_ms": 1,
        "message_count": 0,
        "last_activity_ms": 1,
    } | changes
    return Session(kind=SessionKind.MAIN, status=SessionStatus.ACTIVE, **fields)


REFUSED: dict[str, tuple[str, Callable[[SessionManager], object]]] = {
    "limit negative": ("limit", lambda m: m.list(limit=-1)),
    "limit too large": ("limit", lambda m: m.list(limit=2**63)),
    "limit bool": ("limit", lambda m: m.list(limit=True)),
    "limit float": ("limit", lambda m: m.list(limit=1.0)),  # type: ignore[arg-type]
    "message_limit": ("message_limit", lambda m: m.list(message_limit=-1)),
    "active_within_ms": ("active_within_ms", lambda m: m.list(active_within_ms=-1)),
    "active_only": ("active_only", lambda m: m.list(active_only=1)),  # type: ignore[arg-type]
    "kinds unknown": ("kinds", lambda m: m.list(["maim"])),
    "kinds str": ("kinds", lambda m: m.list("main")),
    "kinds int": ("kinds", lambda m: m.list(1)),  # type: ignore[arg-type]
    "status": ("status", lambda m: m.list(status="done")),
    "before": ("before", lambda m: m.list(before=KEY)),  # type: ignore[arg-type]
    "limit unprintable": ("limit", lambda m: m.list(limit=10**5000)),
    "before of another time": ("before.created_ms", lambda m: m.list(before=position(created_ms=2**70))),
    "before of another key": ("before.key", lambda m: m.list(before=position(key="\ud800"))),
    "task unprintable": ("task", lambda m: m.spawn_subagent("main", 10**5000)),  # type: ignore[arg-type]
    "history limit": ("limit", lambda m: m.history(KEY, -1)),
    "history after_seq": ("after_seq", lambda m: m.history(KEY, after_seq=-1)),
    "history before_seq": ("before_seq", lambda m: m.history(KEY, before_seq=2**63)),
    "history archived": ("archived", lambda m: m.history(KEY, archived=1)),  # type: ignore[arg-type]
    "history include_tools": ("include_tools", lambda m: m.history(KEY, 1, "yes")),  # type: ignore[arg-type]
    "role": ("role", lambda m: m.add_message(KEY, "robot", "Hello")),
    "role type": ("role", lambda m: m.add_message(KEY, None, "Hello")),  # type: ignore[arg-type]
    "content None": ("content", lambda m: m.add_message(KEY, "user", None)),  # type: ignore[arg-type]
    "tool_name long": ("tool_name", lambda m: m.add_message(KEY, "user", "", tool_name="x" * 256)),
    "label long": ("label", lambda m: m.spawn_subagent("main", "Test", "x" * 256)),
    "idempotency_key long": (
        "idempotency_key",
        lambda m: m.add_message(KEY, "user", "", idempotency_key="x" * 256),
    ),
    "label empty": ("label", lambda m: m.spawn_subagent("main", "Test", "")),
    "cron label empty": ("label", lambda m: m.spawn_cron("main", "Test", label="")),
    "idempotency_key empty": ("idempotency_key", lambda m: m.add_message(KEY, "user", "", idempotency_key="")),
    "spawn idempotency_key empty": (
        "idempotency_key",
        lambda m: m.spawn_subagent("main", "Test", idempotency_key=""),
    ),
    "message_cap 0": ("message_cap", lambda m: m.spawn_subagent("main", "Test", message_cap=0)),
    "message_cap large": ("message_cap", lambda m: m.spawn_subagent("main", "Test", message_cap=2**31)),
    "on_label_conflict": (
        "on_label_conflict",
        lambda m: m.spawn_subagent("main", "Test", on_label_conflict="maybe"),
    ),
    "metadata list": ("metadata", lambda m: m.add_message(KEY, "user", "", metadata=[1])),  # type: ignore[arg-type]
    "metadata NaN": ("metadata['a']", lambda m: m.add_message(KEY, "user", "", metadata={"a": math.nan})),
    "metadata infinity": ("metadata['a'][0]", lambda m: m.spawn_cron("main", "", metadata={"a": [-math.inf]})),
    "metadata set": (
        "metadata['a']",
        lambda m: m.add_message(KEY, "user", "", metadata={"a": {1}}),  # type: ignore[dict-item]
    ),
    "metadata int key": (
        "a key of metadata",
        lambda m: m.add_message(KEY, "user", "", metadata={1: 1}),  # type: ignore[dict-item]
    ),
    "metadata huge int": ("metadata['a']", lambda m: m.add_message(KEY, "user", "", metadata={"a": 10**5000})),
    "messages str": ("messages", lambda m: m.add_messages(KEY, "abc")),  # type: ignore[arg-type]
    "messages int": ("messages", lambda m: m.add_messages(KEY, 1)),  # type: ignore[arg-type]
    "messages item": (
        "messages[1]",
        lambda m: m.add_messages(KEY, [NewMessage("user", "a"), ("user", "b")]),  # type: ignore[list-item]
    ),
    "expected_count": ("expected_count", lambda m: m.add_message(KEY, "user", "", expected_count=-1)),
    "batch's expected_count": ("expected_count", lambda m: m.add_messages(KEY, [], expected_count=True)),
    "at_seq": ("at_seq", lambda m: m.fork_session(KEY, -1)),
    "created_after naive": ("created_after", lambda m: m.list(created_after=datetime(2026, 1, 1))),  # noqa: DTZ001
    "created_before": ("created_before", lambda m: m.count(created_before=1)),  # type: ignore[arg-type]
    "iterate": ("message_limit", lambda m: [*m.iterate(message_limit=-1)]),
    "update metadata": ("metadata", lambda m: m.update_session(KEY, metadata=[1])),  # type: ignore[arg-type]
    "replace_metadata": ("replace_metadata", lambda m: m.update_session(KEY, replace_metadata=1)),  # type: ignore[arg-type]
    "update label empty": ("label", lambda m: m.update_session(KEY, label="")),
    "prune status": ("status", lambda m: m.prune(ms(1), status="done")),
    "prune agent_id": ("agent_id", lambda m: m.prune(ms(1), agent_id=1)),  # type: ignore[arg-type]
    "idle agent_id": ("agent_id", lambda m: m.timeout_idle(ms(1), agent_id=1)),  # type: ignore[arg-type]
    "older_than 0": ("older_than", lambda m: m.timeout_idle(ms(0))),
    "older_than number": ("older_than", lambda m: m.timeout_idle(7200)),  # type: ignore[arg-type]
    "older_than large": ("older_than", lambda m: m.prune(timedelta.max)),
    "neither older_than nor before": ("older_than", lambda m: m.prune()),
    "older_than and before": ("older_than", lambda m: m.prune(ms(1), before=at(1))),
    "idle kinds": ("kinds", lambda m: m.timeout_idle(ms(1), "main")),
    "before number": ("before", lambda m: m.prune(before=1)),  # type: ignore[arg-type]
    "before naive": ("before", lambda m: m.prune(before=datetime(2026, 1, 1))),  # noqa: DTZ001
    "before in the future": ("before", lambda m: m.prune(before=datetime.now(UTC) + timedelta(days=1))),
    "dry_run": ("dry_run", lambda m: m.prune(ms(1), dry_run=None)),  # type: ignore[arg-type]
    "prune kinds": ("kinds", lambda m: m.prune(ms(1), kinds=["all"])),
    "runtime_secs": ("now_ms", lambda m: m.get_or_create_main("main").runtime_secs(-1)),
}


def test_bad_argument_is_refused_by_name(manager: SessionManager, main: Session, subtests: pytest.Subtests) -> None:
    for case, (argument, operation) in REFUSED.items():
        with subtests.test(case):
            with pytest.raises(InvalidInput, match=argument.partition("[")[0]) as caught:
                operation(manager)

            assert caught.value.argument == argument
            assert manager.list() == [main]
            assert manager.history(main.key) == []


@pytest.mark.parametrize(
    ("argument", "options"),
    [
        ("message_cap", {"message_cap": 0}),
        ("synchronous", {"synchronous": "OFF"}),
        ("retry_budget_s", {"retry_budget_s": -1}),
        ("retry_budget_s", {"retry_budget_s": math.nan}),
        ("pool_size", {"pool_size": 0}),
        ("migrate", {"migrate": "yes"}),
        ("create", {"create": 0}),
        ("create", {"create": False}),
    ],
)
def test_bad_option_of_the_manager_is_refused_by_name(argument: str, options: dict[str, object]) -> None:
    with pytest.raises(InvalidInput) as caught:
        SessionManager("sqlite://", **options)  # type: ignore[arg-type]

    assert caught.value.argument == argument


def test_metadata_may_be_100_levels_deep_and_no_deeper(manager: SessionManager, main: Session) -> None:
    def nested(levels: int) -> dict[str, JsonValue]:
        value: dict[str, JsonValue] = {"leaf": 1}
        for _ in range(levels - 1):
            value = {"a": value}
        return value

    assert manager.add_message(main.key, "user", "", metadata=nested(100)).metadata == nested(100)
    for levels in (101, 5000):
        with pytest.raises(InvalidInput, match="metadata must be nested at most 100 levels deep"):
            manager.add_message(main.key, "user", "", metadata=nested(levels))
    session = manager.get(main.key)
    assert session is not None
    assert [message.metadata for message in session.messages] == [nested(100)]


def test_value_in_an_error_is_shortened(manager: SessionManager) -> None:
    with pytest.raises(InvalidInput) as caught:
        manager.get("\x00" + "x" * 10_000)

    assert len(str(caught.value)) < 200


json_texts = st.text(st.characters(codec="utf-8", min_codepoint=1))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | json_texts,
    lambda children: (
        st.lists(children) | st.dictionaries(st.text(st.characters(codec="utf-8", min_codepoint=1)), children)
    ),
    max_leaves=10,
)


# Coverage would double its time, and the other tests reach the same lines.
@pytest.mark.no_cover
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(metadata=st.dictionaries(json_texts, json_values))
def test_any_json_object_comes_back_exactly(manager: SessionManager, metadata: dict[str, JsonValue]) -> None:
    key = manager.get_or_create_main("main").key
    manager.add_message(key, "user", "single", metadata=metadata)
    manager.add_messages(key, [NewMessage("user", "batch", metadata=metadata)])

    history = manager.history(key, 2)
    assert history is not None
    # Compared as text too: key order, and 1, 1.0 and True differ.
    assert [repr(message.metadata) for message in history] == [repr(metadata)] * 2

"""Chat-completions messages, stored and rebuilt."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sessions_db import InvalidInput, Message, Role, SessionManager
from sessions_db.integrations.chat_completions import KEY_ORDER, to_chat, to_new_message
from sessions_db.validation import JsonValue

Chat = dict[str, JsonValue]

CALL: Chat = {"id": "call_1", "type": "function", "function": {"name": "look_up", "arguments": '{"id": 1}'}}


def store(manager: SessionManager, *chat: Chat) -> list[Message]:
    """The messages as read back from a session."""
    key = manager.spawn_subagent("main", "Test")
    manager.add_messages(key, [to_new_message(message) for message in chat])
    return manager.history(key, include_tools=True) or []


@pytest.mark.parametrize(
    "chat",
    [
        {"role": "user", "content": "Hello"},
        {"content": "Hello", "role": "user"},
        {"role": "user", "content": ""},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"content": None, "role": "assistant", "tool_calls": [CALL]},
        {"role": "assistant", "tool_calls": [CALL]},
        {"role": "assistant"},
        {"role": "user", "content": [{"type": "text", "text": "Look:"}, {"type": "image_url", "image_url": {}}]},
        {"role": "user", "content": []},
        {"role": "tool", "content": "found", "tool_call_id": "call_1", "name": "look_up"},
        {"role": "tool", "tool_call_id": "call_1", "name": "look_up", "content": "found"},
        {"role": "tool", "content": "found", "name": None},
        {"role": "tool", "content": "found", "name": ["look_up"]},
        {"role": "function", "name": "look_up", "content": "found"},
        {"role": "developer", "content": "Be brief"},
        {"role": "user", "content": "Hello", "name": "alice"},
        {"role": "assistant", "content": "Hi", "refusal": None, "audio": {"id": "a"}, "x": [1, 1.0, True, -0.0, 1e300]},
    ],
    ids=json.dumps,
)
def test_a_message_is_rebuilt_byte_for_byte(manager: SessionManager, chat: Chat) -> None:
    (message,) = store(manager, chat)

    assert json.dumps(to_chat(message)) == json.dumps(chat)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=10),
    lambda children: (
        st.lists(children, max_size=3)
        | st.dictionaries(
            st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=5), children, max_size=3
        )
    ),
    max_leaves=6,
)
parts = st.lists(
    st.fixed_dictionaries({"type": st.just("text"), "text": st.text(st.characters(codec="utf-8"), max_size=5)})
    | st.dictionaries(st.sampled_from(["type", "text", "image_url"]), json_values),
    max_size=3,
)
chat_messages = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system", "tool", "developer", "function"])},
    optional={
        "content": st.none() | st.text(st.characters(codec="utf-8"), max_size=10) | parts,
        "name": st.sampled_from(["look_up", "", None]) | json_values,
        "tool_calls": st.just([CALL]),
        "tool_call_id": st.just("call_1"),
        "metadata": json_values,
        "x": json_values,
        KEY_ORDER: json_values | st.just(["role", "content"]),
    },
).flatmap(lambda message: st.permutations([*message.items()]).map(dict))


@given(st.lists(chat_messages, min_size=1, max_size=5))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
def test_anything_that_is_accepted_is_rebuilt(manager: SessionManager, chat: list[Chat]) -> None:
    accepted = [message for message in chat if is_accepted(message)]

    stored = store(manager, *accepted)

    assert json.dumps([to_chat(message) for message in stored]) == json.dumps(accepted)


def is_accepted(chat: Chat) -> bool:
    try:
        to_new_message(chat)
    except InvalidInput:
        assert KEY_ORDER in chat or "\\u0000" in json.dumps(chat)
        return False
    return True


def test_text_and_tool_name_are_columns_and_the_rest_is_metadata(manager: SessionManager) -> None:
    called, found = store(
        manager,
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "found", "name": "look_up", "tool_call_id": "call_1"},
    )

    assert (called.role, called.content, called.tool_name) == (Role.ASSISTANT, "", None)
    assert called.metadata == {"content": None, "tool_calls": [CALL]}
    assert (found.role, found.content, found.tool_name) == (Role.TOOL, "found", "look_up")
    assert found.metadata == {"tool_call_id": "call_1"}


def test_a_plain_message_has_no_metadata() -> None:
    new = to_new_message({"role": "user", "content": "Hello"})

    assert new.metadata is None


def test_text_parts_become_lines_of_the_content() -> None:
    image: Chat = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}

    new = to_new_message(
        {"role": "user", "content": [{"type": "text", "text": "Look:"}, image, {"type": "text", "text": "Nice?"}, "x"]}
    )

    assert new.content == "Look:\nNice?"


@pytest.mark.parametrize(("role", "stored"), [("developer", Role.SYSTEM), ("function", Role.TOOL)])
def test_roles_without_a_column_value_keep_their_name_in_metadata(role: str, stored: Role) -> None:
    new = to_new_message({"role": role, "content": "x"})

    assert new.role is stored
    assert new.metadata == {"role": role}


def test_the_name_of_a_participant_is_not_a_tool_name() -> None:
    new = to_new_message({"role": "user", "content": "Hello", "name": "alice"})

    assert new.tool_name is None
    assert new.metadata == {"name": "alice"}


def test_the_order_of_keys_is_kept_only_where_it_is_unusual() -> None:
    usual = to_new_message({"role": "tool", "content": "found", "name": "look_up", "tool_call_id": "call_1"})
    unusual = to_new_message({"content": "Hello", "role": "user"})

    assert KEY_ORDER not in (usual.metadata or {})
    assert unusual.metadata == {KEY_ORDER: ["content", "role"]}


@pytest.mark.parametrize(
    ("chat", "argument"),
    [
        ("Hello", "message"),
        ({"content": "Hello"}, "role"),
        ({"role": "critic", "content": "Hello"}, "role"),
        ({"role": ["user"], "content": "Hello"}, "role"),
        ({"role": "user", "content": 5}, "content"),
        ({"role": "user", "content": {"text": "Hello"}}, "content"),
        ({"role": "user", "content": "a\0b"}, "content"),
        ({"role": "user", "content": "\ud800"}, "content"),
        ({"role": "tool", "content": "", "name": "x" * 256}, "tool_name"),
        ({"role": "user", "content": "", "x": float("inf")}, "metadata['x']"),
        ({"role": "user", "content": "Hello", KEY_ORDER: ["role", "content"]}, "message"),
    ],
)
def test_what_could_not_be_rebuilt_is_refused(chat: Chat, argument: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        to_new_message(chat)

    assert caught.value.argument == argument


def test_a_message_that_was_not_stored_from_chat_becomes_a_plain_one(manager: SessionManager) -> None:
    key = manager.spawn_subagent("main", "Test")
    user = manager.send_message(key, "Hello")
    tool = manager.add_message(key, "tool", "found", tool_name="look_up", metadata={"took_ms": 3, KEY_ORDER: None})

    assert to_chat(user) == {"role": "user", "content": "Hello"}
    assert to_chat(tool) == {"role": "tool", "content": "found", "name": "look_up", "took_ms": 3}

"""Calls of tools, found in messages in the forms of several APIs and frameworks."""

from __future__ import annotations

import pytest

from sessions_db import SessionManager
from sessions_db.integrations.calls import tool_calls
from sessions_db.validation import JsonValue
from tests.support.commands import ok

ARGUMENTS: JsonValue = {"query": "flights", "limit": 3}
TEXT = '{"query": "flights", "limit": 3}'


@pytest.mark.parametrize(
    "metadata",
    [
        {"tool_calls": [{"id": "1", "type": "function", "function": {"name": "search", "arguments": TEXT}}]},
        {"function_call": {"name": "search", "arguments": TEXT}},
        {"item": {"type": "function_call", "call_id": "1", "name": "search", "arguments": TEXT}},
        {"content": [{"type": "text", "text": "I"}, {"type": "tool_use", "name": "search", "input": ARGUMENTS}]},
        {"event": {"content": {"parts": [{"functionCall": {"name": "search", "args": ARGUMENTS}}]}}},
        {"agent_framework": {"contents": [{"type": "function_call", "name": "search", "arguments": TEXT}]}},
        {"parts": [{"part_kind": "tool-call", "tool_name": "search", "args": ARGUMENTS}]},
    ],
    ids=lambda metadata: next(iter(metadata)),
)
def test_call_is_found_and_shown_as_a_call(url: str, manager: SessionManager, metadata: dict[str, JsonValue]) -> None:
    key = manager.get_or_create_main("a").key
    message = manager.add_message(key, "assistant", "", metadata=metadata)

    assert [(call.name, call.arguments) for call in tool_calls(message)] == [("search", ARGUMENTS)]
    assert '-> search(query="flights", limit=3)' in ok("history", key, db=url)


@pytest.mark.parametrize(
    ("metadata", "shown"),
    [
        ({"tool_calls": [{"function": {"name": "f", "arguments": "{broken"}}]}, ['f("{broken")']),
        ({"calls": [{"type": "tool_use", "name": "f", "input": {}}]}, ["f()"]),
        ({"calls": [{"type": "tool_use", "name": "f", "input": "1"}]}, ['f("1")']),
        ({"type": "tool_use", "name": 1, "input": {}}, []),
        ({"type": "text", "name": "f", "arguments": {}}, []),
        ({"schema": {"type": ["object", "null"], "function": 1, "functionCall": [{}]}}, []),
        (None, []),
    ],
)
def test_what_is_no_call_or_has_broken_arguments_is_shown_as_it_is(
    manager: SessionManager, metadata: dict[str, JsonValue] | None, shown: list[str]
) -> None:
    key = manager.get_or_create_main("a").key
    message = manager.add_message(key, "assistant", "", metadata=metadata)

    assert [str(call) for call in tool_calls(message)] == shown

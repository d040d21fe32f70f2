"""The values that come out: each has metadata of its own, shared with no other value and nothing of the caller's."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from sessions_db import Message, NewMessage, Session, SessionManager

METADATA: dict[str, Any] = {"a": {"b": [1, {"c": "d"}]}, "list": [[1], 2.5, None, True], "text": "x"}

CHANGES: dict[str, Callable[[Any], object]] = {
    "set": lambda metadata: metadata.update(new=1),
    "assign": lambda metadata: metadata.__setitem__("text", 1),
    "delete": lambda metadata: metadata.__delitem__("text"),
    "nested": lambda metadata: metadata["a"].pop("b"),
    "append": lambda metadata: metadata["list"].append(3),
    "in place": lambda metadata: metadata["list"].__iadd__([3]),
    "merge": lambda metadata: metadata.__ior__({"text": 1}),
    "deep": lambda metadata: metadata["a"]["b"][1].clear(),
    "list in a list": lambda metadata: metadata["list"][0].append(2),
}


def stored(manager: SessionManager) -> list[Session | Message | NewMessage]:
    """Everything that comes with metadata."""
    key = manager.spawn_subagent("main", "Test", metadata=METADATA, message_cap=3, archive_trimmed=True)
    new = NewMessage("tool", "found", metadata=METADATA)
    sent = [*manager.add_messages(key, [new]), manager.add_message(key, "user", "Hello", metadata=METADATA)]
    history = manager.history(key, include_tools=True) or []
    manager.add_messages(key, [NewMessage("user", "more")] * 3)
    (session,) = manager.list()
    return [
        session,
        new,
        *sent,
        *history,
        *(manager.history(key, include_tools=True, archived=True, before_seq=3) or []),
    ]


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_changed_metadata_of_a_value_reaches_no_other_value(
    manager: SessionManager, change: Callable[[Any], object]
) -> None:
    values = stored(manager)

    assert len(values) == 8
    for position, value in enumerate(values):
        change(value.metadata)

        assert value.metadata != METADATA
        assert all(other.metadata == METADATA for other in values[position + 1 :])
    assert [session.metadata for session in manager.list()] == [METADATA]


def test_metadata_is_a_dict_that_json_pickle_and_copy_take(manager: SessionManager) -> None:
    for value in stored(manager):
        assert json.dumps(value.metadata) == json.dumps(METADATA)
        assert isinstance(value.metadata, dict)
        for copied in (pickle.loads(pickle.dumps(value)), copy.deepcopy(value)):
            assert copied == value
            assert hash(copied) == hash(value)


def test_dict_of_a_value_is_a_copy_that_may_be_changed(manager: SessionManager) -> None:
    for value in stored(manager):
        if not isinstance(value, NewMessage):
            for change in CHANGES.values():
                change(value.to_dict()["metadata"])

            assert value.metadata == METADATA


def test_values_can_be_hashed_and_equal_ones_are_one_in_a_set(manager: SessionManager) -> None:
    values = stored(manager)
    (session,) = manager.list()
    reordered = NewMessage("tool", "found", metadata=dict(reversed(METADATA.items())))

    assert len({*values}) == 6  # the session, the new message, and two messages, which are other ones once archived
    assert {*values} == {*values, session, reordered}
    assert {*values} != {*values, replace(session, metadata={"text": "y"})}
    assert isinstance(hash(manager.statistics()), int)


def test_equal_messages_with_other_metadata_differ_but_have_one_hash(manager: SessionManager) -> None:
    key = manager.spawn_subagent("main", "Test")
    message = manager.add_message(key, "user", "Hello", metadata=METADATA)
    others = [message._replace(metadata=None), message._replace(metadata={"text": "y"})]

    assert all(other != message and hash(other) == hash(message) for other in others)
    assert len({message, *others}) == 3


def test_later_changes_of_the_callers_reach_no_value(manager: SessionManager) -> None:
    given = copy.deepcopy(METADATA)
    key = manager.spawn_subagent("main", "Test")
    new = NewMessage("user", "Hello", metadata=given)
    (message,) = manager.add_messages(key, [new])

    given["a"]["b"].append(2)
    given.clear()

    assert new.metadata == message.metadata == METADATA

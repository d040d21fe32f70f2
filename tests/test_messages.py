"""Appending and reading messages."""

from __future__ import annotations

from sessions_db import SessionManager


def test_history_is_oldest_first(manager: SessionManager) -> None:
    key = manager.spawn_subagent("main", "Test")

    manager.send_message(key, "Hello")
    manager.add_message(key, "assistant", "Hi there!")

    history = manager.history(key, 10, False)
    assert history is not None
    assert [(message.role, message.content) for message in history] == [("user", "Hello"), ("assistant", "Hi there!")]


def test_101st_message_drops_the_oldest(manager: SessionManager) -> None:
    key = manager.spawn_subagent("main", "Test")
    for number in range(1, 102):
        manager.send_message(key, f"message {number}")

    session = manager.get(key)

    assert session is not None
    assert [message.content for message in session.messages] == [f"message {number}" for number in range(2, 102)]
    assert session.message_count == 101

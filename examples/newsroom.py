"""Three agents write an article: an editor spawns a researcher and a writer, and an auditor asks the log afterwards.

    python examples/newsroom.py [DATABASE_URL]

Without a URL it runs on a database in memory. The agents are threads of one service. Instead of calling a model, each
says what is written here.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from datetime import timedelta

from sessions_db import NewMessage, Session, SessionChanged, SessionManager, SessionNotActive

PATIENCE_S = 30.0


def editor(manager: SessionManager, reader: str) -> str:
    """The key of the article, written by two others for this reader."""
    talk = manager.get_or_create("editor", reader, metadata={"reader": reader})
    # The reader's browser sends it twice. It is one message.
    for _ in range(2):
        manager.send_message(talk.key, "What is new in Lisbon?", idempotency_key="question-1")

    with manager.transaction() as tx:
        research = tx.spawn_subagent("researcher", "Find what is new", "sources", talk.key, archive_trimmed=True)
        tx.send_message(research, "Two sources are enough.", metadata={"from": talk.key})
    start(researcher, manager, research)
    manager.wait_for_end([research], timeout=PATIENCE_S)

    article = manager.spawn_subagent("writer", "Write it down", "article", talk.key)
    for message in manager.history(research) or []:
        if message.role == "assistant":
            manager.send_message(article, message.content, metadata={"from": research, "seq": message.seq})
    start(writer, manager, article)
    manager.wait_for_end([article], timeout=PATIENCE_S)

    # The editor does not like how it ends: another try, from where the sources were all there.
    sources = [message.seq for message in manager.history(article) or [] if message.role == "user"]
    again = manager.fork_session(article, sources[-1], task="Write it shorter", label="article")
    start(writer, manager, again)
    manager.wait_for_end([again], timeout=PATIENCE_S)
    manager.update_session(talk.key, metadata={"article": again})
    return again


def researcher(manager: SessionManager, key: str) -> None:
    """Find two sources, and say in between that it is still there."""
    for source in ("A new tram line opens.", "The museum is free on Sundays."):
        manager.touch(key)
        manager.add_messages(
            key,
            [NewMessage("tool", source, tool_name="search"), NewMessage("assistant", source)],
        )
    # It has said too much, and takes that back.
    manager.add_message(key, "assistant", "A third one is only a rumour.")
    manager.pop_messages(key)
    manager.complete_session(key, "two sources found")


def writer(manager: SessionManager, key: str) -> None:
    """Write one article, whichever of the two runs that were started by mistake gets there first."""

    def once(words: str) -> None:
        session = manager.get(key)
        assert session is not None
        said = sum(message.role == "user" for message in session.messages)
        try:
            # Only if nobody has written since the sources came.
            manager.add_message(key, "assistant", words, expected_count=said)
            manager.complete_session(key, "written")
        except (SessionChanged, SessionNotActive):
            return

    together(lambda: once("Take the tram to the museum."), lambda: once("Sunday is museum day."))


def start(agent: Callable[[SessionManager, str], None], manager: SessionManager, key: str) -> None:
    """Have an agent work in a thread of its own."""
    threading.Thread(target=agent, args=(manager, key)).start()


def together(*calls: Callable[[], None]) -> None:
    """Run the calls in threads, until all are done."""
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def audit(manager: SessionManager, talk: Session) -> list[str]:
    """What an auditor finds: who worked for the reader, what came of it, and whether the log is as it was sealed."""
    lines = [
        f"{session.agent_id}: {session.task}, {session.status} ({session.message_count} messages)"
        + (f", forked at {session.forked_at_seq}" if session.forked_at_seq is not None else "")
        for session in reversed([*manager.iterate(under=talk.key)])
    ]
    lines += [
        f"taken back: {event.message_count} message, number {event.first_seq}, by {event.actor}"
        for event in manager.events(kind="messages_removed")
    ]
    lines += [
        f"{event.event}: {event.reason}" for event in manager.events(session_key=talk.key, kind="session_updated")
    ]
    seal = manager.seal_log()
    assert seal is not None
    fault = manager.verify_log(expect=seal.digest).fault
    lines.append(f"log: {fault or 'as it was sealed'}")
    return lines


def main(url: str) -> None:
    """One question of one reader."""
    with SessionManager(url, actor="newsroom") as manager:
        # What a crash of this service left behind; other services look after their own.
        for agent_id in ("researcher", "writer"):
            manager.timeout_idle(timedelta(hours=1), agent_id=agent_id)
        article = editor(manager, "reader-17")
        for message in manager.history(article) or []:
            print(f"{message.seq} {message.role:9} {message.content}")
        for line in audit(manager, manager.get_or_create("editor", "reader-17")):
            print(line)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "sqlite://")

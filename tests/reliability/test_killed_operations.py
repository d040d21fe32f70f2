"""Processes that are killed while they fork and update sessions, and take messages back."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter

from sessions_db import NewMessage, SessionManager
from tests.support.client import PlainClient
from tests.support.soundness import faults

COPIES = 300
TABLES = ("messages", "archived_messages")

WORK = """
import sys
from itertools import count
from sessions_db import SessionManager

with SessionManager(sys.argv[1], synchronous="NORMAL") as manager:
    for number in count():
        once = f"{sys.argv[3]} {number}"
        fork = manager.fork_session(sys.argv[2], 300, label=f"label {number}", idempotency_key=once)
        manager.update_session(fork, label=f"moved {number % 3}", task="Moved", metadata={"moved": True})
        print(fork, flush=True)
"""


def test_fork_and_update_of_a_killed_process_are_there_whole_or_not_at_all(
    url: str, full: bool, figures: Counter[str]
) -> None:
    with SessionManager(url) as manager:
        origin = manager.spawn_subagent("main", "Test", message_cap=100, archive_trimmed=True)
        manager.add_messages(origin, [NewMessage("user", str(number)) for number in range(COPIES)])
    acknowledged: set[str] = set()

    for kill in range(30 if full else 4):
        command = [sys.executable, "-c", WORK, url, origin, f"kill {kill}"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            acknowledged.add(process.stdout.readline().strip())
            time.sleep(0.003 * kill)
            process.kill()
            acknowledged |= {line.strip() for line in process.stdout if line.endswith("\n")}

    with SessionManager(url) as manager:
        # A killed client's transaction ends when the server notices.
        with manager.transaction() as tx:
            tx.update_session(origin, metadata={"done": True})
        forks = {session.key: session for session in manager.iterate(under=origin)}
        figures.update({"kills": kill + 1, "forks": len(forks)})
        assert acknowledged <= forks.keys()
        for key, fork in forks.items():
            retained, copies = (
                len(manager.history(key, include_tools=True, archived=archived) or []) for archived in (False, True)
            )
            assert (fork.message_count, retained, copies) == (COPIES, 100, COPIES)
            is_moved = fork.task == "Moved"
            assert is_moved == (fork.metadata == {"moved": True})
            assert (fork.label or "").startswith("moved" if is_moved else "label")
            assert is_moved or key not in acknowledged
        # Repeated with the key, an interrupted one is done once.
        again = [manager.fork_session(origin, COPIES, label="label 0", idempotency_key="kill 0 0") for _ in range(2)]
        assert {*again} <= forks.keys()
    assert faults(url) == []


TAKE_BACK = """
import sys
from sessions_db import NewMessage, SessionManager

with SessionManager(sys.argv[1], synchronous="NORMAL") as manager:
    while True:
        manager.add_messages(sys.argv[2], [NewMessage("user", "Hello")] * 3)
        print(*(message.seq for message in manager.pop_messages(sys.argv[2], 2)), flush=True)
"""


def test_messages_are_taken_back_and_logged_or_neither(
    url: str, plain: PlainClient, full: bool, figures: Counter[str]
) -> None:
    with SessionManager(url) as manager:
        key = manager.spawn_subagent("main", "Test", message_cap=1_000_000, archive_trimmed=True)
    acknowledged: set[int] = set()

    for kill in range(30 if full else 4):
        command = [sys.executable, "-c", TAKE_BACK, url, key]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            acknowledged |= {int(seq) for seq in process.stdout.readline().split()}
            time.sleep(0.003 * kill)
            process.kill()
            for line in process.stdout:
                if line.endswith("\n"):
                    acknowledged |= {int(seq) for seq in line.split()}
        figures["kills"] += 1

    with SessionManager(url) as manager:
        # A killed client's transaction ends when the server notices.
        last = manager.add_message(key, "user", "the last").seq
    retained, archived = ({seq for (seq,) in plain(f"SELECT seq FROM {table}")} for table in TABLES)
    logged: set[int] = set()
    for first_seq, last_seq in plain("SELECT first_seq, last_seq FROM session_events WHERE event = 'messages_removed'"):
        logged |= set(range(first_seq, last_seq + 1))
    figures["messages taken back"] = len(logged)
    assert archived == logged
    assert acknowledged <= archived
    assert retained == set(range(1, last + 1)) - archived

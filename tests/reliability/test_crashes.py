"""Writers are killed while they write, and so is the server: what was acknowledged stays, the rest is whole or absent.

When a kill hits is left to chance; what the writers do is not, so that the interrupted operation is known.
"""

from __future__ import annotations

import json
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TypeAlias

import pytest

from sessions_db import SessionManager
from sessions_db.doctor import examine
from sessions_db.enums import Severity
from sessions_db.transfer import export_lines, import_lines
from tests.support.client import PlainClient
from tests.support.commands import process
from tests.support.databases import OTHERS
from tests.support.ledger import Account
from tests.support.processes import Writer
from tests.support.servers import Server, postgres
from tests.support.soundness import faults
from tests.support.writer import Task, write_together

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")

StartWriter: TypeAlias = Callable[[str, str], Writer]


@pytest.fixture
def start_writer() -> Iterator[StartWriter]:
    """A function that starts a writer."""
    started: list[Writer] = []

    def start(url: str, agent_id: str) -> Writer:
        started.append(Writer(url, agent_id))
        return started[-1]

    yield start
    for writer in started:
        writer.close()


def test_killed_writer_loses_nothing_acknowledged_and_leaves_nothing_half_done(
    url: str, start_writer: StartWriter, full: bool, figures: Counter[str]
) -> None:
    account = Account(url, "writer", figures)
    for number in range(1, (100 if full else 10) + 1):
        task = account.task(f"round {number}")
        writer = start_writer(url, "writer")
        writer.begin(task)
        writer.wait_for(1)
        time.sleep(random.uniform(0, 0.2))
        writer.kill()
        figures.update({"rounds": 1, "kills": 1})
        wait_for_the_dead(url)

        assert ailments(url) == []
        account.settle(task, writer.receipts, open_outcome=True)
        with SessionManager(url) as manager:
            account.repeat(manager)
            account.read_back(manager)


def test_writers_continue_when_one_of_them_is_killed(
    url: str, start_writer: StartWriter, full: bool, figures: Counter[str]
) -> None:
    others = {agent_id: start_writer(url, agent_id) for agent_id in ("first", "second")}
    accounts = {agent_id: Account(url, agent_id, figures) for agent_id in [*others, "victim"]}
    for number in range(1, (50 if full else 5) + 1):
        writers = {**others, "victim": start_writer(url, "victim")}
        tasks = {agent_id: account.task(f"round {number}") for agent_id, account in accounts.items()}
        for agent_id, writer in writers.items():
            writer.begin(tasks[agent_id])
        writers["victim"].wait_for(1)
        time.sleep(random.uniform(0, 0.2))
        writers["victim"].kill()
        figures.update({"rounds": 1, "kills": 1})
        for other in others.values():
            other.wait_for(len(other.receipts) + 2)  # the first of them may have been in progress already
        ends = [other.stop() for other in others.values()]
        wait_for_the_dead(url, living=len(others))

        assert [end for end in ends if end.failed] == []
        assert ailments(url) == []
        for agent_id, account in accounts.items():
            account.settle(tasks[agent_id], writers[agent_id].receipts, open_outcome=agent_id == "victim")
    for other in others.values():
        other.finish()


@pytest.mark.parametrize("face", ["sync", "async"])
def test_killed_groups_lose_nothing_acknowledged(
    url: str, plain: PlainClient, face: str, full: bool, figures: Counter[str]
) -> None:
    with SessionManager(url, message_cap=1_000_000) as manager:
        keys = {name: manager.spawn_subagent("main", name) for name in "abcde"}
    told: dict[tuple[str, int], str] = {}
    for number in range(1, (100 if full else 5) + 1):
        with closing(Writer(url, face, write_together)) as writer:
            writer.begin(Task(f"round {number}", keys))
            writer.wait_for(100)
            time.sleep(random.uniform(0, 0.2))
            writer.kill()
        figures.update({"rounds": 1, "kills": 1})
        wait_for_the_dead(url, living=1)
        for (receipt,) in writer.receipts:
            name, text = receipt.session.split("/")
            told[keys[name], receipt.seq] = text

        assert ailments(url) == []
        rows = plain("SELECT session_key, seq, content FROM messages")
        stored = {(key, seq): text for key, seq, text in rows}
        assert {place: stored.get(place) for place in told} == told
        assert len(set(stored.values())) == len(stored)
    figures["appends acknowledged"] += len(told)


def test_database_whose_creation_was_killed_is_created_by_the_next_to_open_it(
    create_database: Callable[..., str], start_writer: StartWriter, full: bool, figures: Counter[str]
) -> None:
    for _ in range(50 if full else 5):
        url = create_database(at_head=False)
        writer = start_writer(url, "writer")
        time.sleep(random.uniform(0, 0.2))
        writer.kill()
        figures.update({"rounds": 1, "kills": 1})
        wait_for_the_dead(url)

        with SessionManager(url) as manager:
            figures["found empty" if manager.found_revision is None else "found complete"] += 1
            manager.send_message(manager.get_or_create_main("main").key, "Hello")
        assert ailments(url) == []


@pytest.mark.parametrize("kind", ["sessions", "conversations"])
def test_killed_import_leaves_whole_lines_and_is_finished_by_the_next(
    url: str, kind: str, tmp_path: Path, full: bool, figures: Counter[str]
) -> None:
    file, count, size = tmp_path / "lines.jsonl", 600 if full else 200, 10
    chat = [{"role": "user", "content": f"text {number}"} for number in range(size)]
    lines = [json.dumps({"messages": chat, "task": str(number)}) + "\n" for number in range(count)]
    if kind == "sessions":
        with SessionManager("sqlite://") as source:
            [*import_lines(source, "support", [line.encode() for line in lines])]
            with export_lines(source, kinds=["subagent"]) as export:
                lines = [line.decode() for line in export.lines]
    file.write_text("".join(lines))
    with SessionManager(url) as manager:
        for _ in range(20 if full else 2):
            importing = process("import", str(file), "--agent", "support", db=url)
            while importing.poll() is None and not manager.count(["subagent"]):
                time.sleep(0.001)
            time.sleep(random.uniform(0, 0.2 if full else 0.1))
            importing.kill()
            importing.communicate()
            figures.update({"rounds": 1, "kills": 1})
            wait_for_the_dead(url, living=1)

            assert ailments(url) == []
            stored = manager.list(["subagent"], limit=count, message_limit=size)
            assert {len(session.messages) for session in stored} == {size}
            if kind == "conversations":
                main = manager.get_or_create_main("support")
                assert main.message_count == size * len(stored)
            figures["sessions stored"] += len(stored)
            again = json.loads(process("import", str(file), "--agent", "support", "--json", db=url).communicate()[0])

            assert (again["imported"], again["alreadyThere"]) == (count - len(stored), len(stored))
            for session in manager.list(limit=count + 1):
                manager.delete_session(session.key)


def ailments(url: str) -> list[str]:
    """All faults in the database, and the failures that the doctor finds."""
    findings = examine(url)
    return faults(url) + [finding.detail for finding in findings if finding.outcome is Severity.FAILURE]


def wait_for_the_dead(url: str, *, living: int = 0) -> None:
    """Wait until the server has done what killed clients had sent, and noticed that they are gone."""
    client = PlainClient(url)
    deadline = time.monotonic() + 30
    while client.backend == "postgresql" and len(client(OTHERS)) != living:
        assert time.monotonic() < deadline, "a connection outlives its client"
        time.sleep(0.001)
    client.close()


@pytest.fixture
def server() -> Iterator[Server]:
    with postgres(fsync="on", full_page_writes="on") as started:
        yield started


def test_killed_server_loses_nothing_acknowledged_and_leaves_nothing_half_done(
    server: Server, start_writer: StartWriter, full: bool, figures: Counter[str]
) -> None:
    url = server.url()
    SessionManager(url).close()
    assert settings(url) == {"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on"}
    writers = {f"writer-{number}": start_writer(url, f"writer-{number}") for number in range(1, 5)}
    accounts = {agent_id: Account(url, agent_id, figures) for agent_id in writers}
    for number in range(1, (25 if full else 3) + 1):
        tasks = {agent_id: account.task(f"round {number}") for agent_id, account in accounts.items()}
        for agent_id, writer in writers.items():
            writer.begin(tasks[agent_id])
        for writer in writers.values():
            writer.wait_for(1)
        time.sleep(random.uniform(0, 0.2))
        server.stop("immediate")
        server.start()
        figures.update({"rounds": 1, "kills of the server": 1})
        time.sleep(random.uniform(0, 0.1))  # those that the kill did not hit keep writing
        ends = {agent_id: writer.stop() for agent_id, writer in writers.items()}

        assert ailments(url) == []
        for agent_id, end in ends.items():
            figures["operations that failed"] += end.failed
            accounts[agent_id].settle(tasks[agent_id], writers[agent_id].receipts, open_outcome=end.outcome_unknown)
    for writer in writers.values():
        writer.finish()


def settings(url: str) -> dict[str, str]:
    client = PlainClient(url)
    names = ("fsync", "full_page_writes", "synchronous_commit")
    found = {name: client(f"SHOW {name}")[0][0] for name in names}
    client.close()
    return found

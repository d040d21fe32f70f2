"""Forks, many threads, and exiting the process."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable

import pytest

from sessions_db import AsyncSessionManager, NewMessage, SessionManager
from tests.support.client import PlainClient
from tests.support.threads import run_together

Open = Callable[..., SessionManager]


@pytest.fixture(params=["sync", "async"])
def face(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# Fork

# A server that loads the application and then forks its workers, while its own threads write. Workers that are done
# are replaced, as on a restart; those of the second generation fork once more.
PRE_FORK = """
import asyncio, multiprocessing, sys, threading, sessions_db

url, face, workers, appends, busy_threads = *sys.argv[1:3], *map(int, sys.argv[3:])
fork = multiprocessing.get_context("fork")
if face == "sync":
    manager = sessions_db.SessionManager(url, message_cap=1_000_000)
    call = lambda name, *args: getattr(manager, name)(*args)
else:
    manager = sessions_db.AsyncSessionManager(url, message_cap=1_000_000)
    call = lambda name, *args: asyncio.run(getattr(manager, name)(*args))
shared = call("get_or_create_main", "shared").key

def append(name):
    own = call("get_or_create_main", name).key
    for number in range(appends):
        call("send_message", shared, f"{name} {number}")
        call("send_message", own, str(number))
    with_messages = call("get", own)
    assert [message.content for message in with_messages.messages] == [str(number) for number in range(appends)]

def serve(name, generations):
    threads = [threading.Thread(target=append, args=(f"{name}-{thread}",)) for thread in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if generations:
        child = fork.Process(target=serve, args=(name + "-child", generations - 1))
        child.start()
        child.join()
        assert child.exitcode == 0
    append(name + "-after")

written = []

def keep_busy(name):
    count = 0
    while not over.is_set():
        call("send_message", shared, f"{name} {count}")
        count += 1
    written.append(count)

append("parent-before")
over = threading.Event()
busy = [threading.Thread(target=keep_busy, args=(f"busy-{n}",)) for n in range(busy_threads)]
for thread in busy:
    thread.start()
try:
    for generation in range(2):
        children = [fork.Process(target=serve, args=(f"worker-{generation}-{n}", generation)) for n in range(workers)]
        for child in children:
            child.start()
        append(f"parent-{generation}")
        for child in children:
            child.join()
            assert child.exitcode == 0, child.exitcode
finally:
    over.set()
for thread in busy:
    thread.join()
print(sum(written))
if face == "sync":
    manager.close()
else:
    asyncio.run(manager.close())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_connection_of_a_call_that_waited_for_a_fork_is_closed_with_the_others(url: str) -> None:
    with SessionManager(url) as manager:
        # What a thread has looked up that is about to connect when another one forks.
        pool = manager._engine.pool
        if (child := os.fork()) == 0:
            os._exit(0)
        os.waitpid(child, 0)

        pool.connect().close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_forked_workers_and_their_parent_lose_nothing_and_repeat_nothing(
    url: str, plain: PlainClient, face: str, full: bool, figures: Counter[str]
) -> None:
    workers, appends = (16, 200) if full else (4, 10)
    # On SQLite a fork waits at most a second for other threads' calls; with so many processes on one file they may
    # take longer.
    busy_threads = 0 if plain.backend == "sqlite" else 3
    command = [sys.executable, "-c", PRE_FORK, url, face, *map(str, (workers, appends, busy_threads))]

    result = subprocess.run(command, timeout=1200 if full else 120, check=False, capture_output=True, text=True)

    assert result.returncode == 0, result.stderr
    # The parent before and during each of two generations; the workers: three each, and as many by their children.
    writers = 3 + workers * 3 + workers * 6
    figures["forks"] += workers * 3
    in_shared = writers * appends + int(result.stdout)
    figures["appends"] += writers * appends + in_shared
    assert plain("SELECT count(*) FROM sessions") == [(writers + 1,)]
    assert plain("SELECT DISTINCT last_seq FROM sessions WHERE key <> 'agent:shared:main'") == [(appends,)]
    shared = plain("SELECT seq, content FROM messages WHERE session_key = 'agent:shared:main' ORDER BY seq")
    assert [seq for seq, _ in shared] == list(range(1, in_shared + 1))
    assert len({content for _, content in shared}) == in_shared


# Threads


@pytest.mark.parametrize("sessions", [1, 64])
def test_64_threads_on_one_manager_number_messages_without_gaps(
    manager: SessionManager, plain: PlainClient, sessions: int, full: bool, figures: Counter[str]
) -> None:
    appends = 200 if full else 10
    keys = [manager.spawn_subagent("main", str(number), message_cap=1_000_000) for number in range(sessions)]
    seqs: list[list[int]] = [[] for _ in range(64)]

    def append(number: int) -> None:
        key = keys[number % sessions]
        for turn in range(appends):
            if turn % 3:
                seqs[number].append(manager.send_message(key, f"{number} {turn}").seq)
            else:
                batch = [NewMessage("user", f"{number} {turn} {part}") for part in range(2)]
                seqs[number] += [message.seq for message in manager.add_messages(key, batch)]

    run_together(threading.Thread(target=append, args=(number,)) for number in range(64))

    figures["appends"] += sum(map(len, seqs))
    assert all(taken == sorted(taken) for taken in seqs)
    for number, key in enumerate(keys):
        together = sorted(seq for taken in seqs[number::sessions] for seq in taken)
        assert together == list(range(1, len(together) + 1))
        assert plain("SELECT last_seq FROM sessions WHERE key = ?", key) == [(len(together),)]
        assert plain("SELECT count(DISTINCT content) FROM messages WHERE session_key = ?", key) == [(len(together),)]


def test_event_loops_of_16_threads_share_a_manager_and_its_transactions(url: str, plain: PlainClient) -> None:
    manager = AsyncSessionManager(url, message_cap=1_000_000)
    key = asyncio.run(manager.get_or_create_main("main")).key

    async def work(number: int) -> None:
        async with manager.transaction() as tx:
            await tx.add_messages(key, [NewMessage("user", f"{number} {part}") for part in range(5)])
        await asyncio.gather(*(manager.send_message(key, f"{number} {part}") for part in range(5, 10)))

    run_together(threading.Thread(target=lambda number=number: asyncio.run(work(number))) for number in range(16))

    asyncio.run(manager.close())
    assert plain("SELECT last_seq FROM sessions") == [(160,)]
    assert plain("SELECT count(DISTINCT content), max(seq) FROM messages") == [(160, 160)]


# The end of the process

ENDINGS = {
    "an open manager": "manager = SessionManager(url)\nmanager.get_or_create_main('kept')\n",
    "a manager that nobody holds": "SessionManager(url).get_or_create_main('kept')\n",
    "the process's own manager": "session_manager().get_or_create_main('kept')\n",
    "an open transaction": (
        "manager = SessionManager(url)\n"
        "manager.get_or_create_main('kept')\n"
        "transaction = manager.transaction()\n"
        "transaction.__enter__().get_or_create_main('lost')\n"
    ),
    "an exit inside a transaction": (
        "manager = SessionManager(url)\n"
        "manager.get_or_create_main('kept')\n"
        "with manager.transaction() as tx:\n"
        "    tx.get_or_create_main('lost')\n"
        "    sys.exit()\n"
    ),
    "a daemon thread that writes": (
        "manager = SessionManager(url)\n"
        "key = manager.get_or_create_main('kept').key\n"
        "begun = threading.Event()\n"
        "def write():\n"
        "    while True:\n"
        "        manager.send_message(key, 'Hello')\n"
        "        begun.set()\n"
        "threading.Thread(target=write, daemon=True).start()\n"
        "begun.wait()\n"
    ),
    "an open async manager": "manager = AsyncSessionManager(url)\nasyncio.run(manager.get_or_create_main('kept'))\n",
    "an open async transaction": (
        "manager = AsyncSessionManager(url)\n"
        "async def main():\n"
        "    global transaction\n"
        "    await manager.get_or_create_main('kept')\n"
        "    transaction = manager.transaction()\n"
        "    await (await transaction.__aenter__()).get_or_create_main('lost')\n"
        "asyncio.run(main())\n"
    ),
    "async calls that nobody waited for": (
        "manager = AsyncSessionManager(url)\n"
        "async def main():\n"
        "    key = (await manager.get_or_create_main('kept')).key\n"
        "    tasks = [asyncio.create_task(manager.send_message(key, 'Hello')) for _ in range(200)]\n"
        "    await asyncio.sleep(0)\n"
        "asyncio.run(main())\n"
    ),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_process_exits_promptly_and_silently_whatever_is_open(url: str, plain: PlainClient, ending: str) -> None:
    code = (
        "import asyncio, sys, threading\n"
        "from sessions_db import AsyncSessionManager, SessionManager, session_manager\n"
        "url = sys.argv[1]\n" + ENDINGS[ending]
    )
    environment = {**os.environ, "SESSIONS_DB_URL": url}

    result = subprocess.run(
        [sys.executable, "-c", code, url], env=environment, timeout=60, check=False, capture_output=True, text=True
    )

    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert plain("SELECT agent_id FROM sessions") == [("kept",)]

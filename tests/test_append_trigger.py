"""`messages_append`, as those meet it who write messages with SQL of their own."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from sqlalchemy import make_url

from sessions_db import NewMessage, SessionManager
from tests.support.client import PlainClient, driver_url

COLUMNS = "session_key, seq, role, content, timestamp_ms"


def texts(number: int) -> list[NewMessage]:
    return [NewMessage("user", str(index + 1)) for index in range(number)]


def values(key: str, first: int, last: int) -> str:
    return ", ".join(f"('{key}', {seq}, 'user', '{seq}', 1700000000000)" for seq in range(first, last + 1))


def test_statement_over_several_sessions_counts_trims_and_archives_each(
    manager: SessionManager, plain: PlainClient
) -> None:
    small = manager.spawn_cron("main", "small", message_cap=3, archive_trimmed=True)
    large = manager.spawn_cron("main", "large", message_cap=5, archive_trimmed=True)
    forgetful = manager.spawn_cron("main", "forgetful", message_cap=2)
    manager.add_messages(small, texts(2))

    rows = ", ".join((values(small, 3, 6), values(large, 1, 7), values(forgetful, 1, 4)))
    plain(f"INSERT INTO messages ({COLUMNS}) VALUES {rows}")

    for key, count, cap in ((small, 6, 3), (large, 7, 5), (forgetful, 4, 2)):
        session = manager.get(key)
        assert session is not None
        assert session.message_count == count
        assert [message.seq for message in session.messages] == list(range(count - cap + 1, count + 1))
        archived = manager.history(key, include_tools=True, archived=True, before_seq=count - cap + 1) or []
        assert [message.seq for message in archived] == ([] if key == forgetful else list(range(1, count - cap + 1)))


@pytest.mark.parametrize("archives", [False, True])
def test_append_after_numbers_were_passed_over_trims_all_that_are_too_old(
    manager: SessionManager, plain: PlainClient, archives: bool
) -> None:
    key = manager.spawn_cron("main", "jump", message_cap=3, archive_trimmed=archives)
    manager.add_messages(key, texts(3))

    plain("UPDATE sessions SET last_seq = 5")
    manager.send_message(key, "6")

    assert plain("SELECT seq FROM messages") == [(6,)]
    assert plain("SELECT seq FROM archived_messages ORDER BY seq") == ([(1,), (2,), (3,)] if archives else [])


@pytest.mark.parametrize("numbers", [(1,), (2, 4), (3, 4)], ids=["again", "with a gap", "too late"])
def test_one_wrong_number_refuses_the_whole_statement(
    manager: SessionManager, plain: PlainClient, numbers: tuple[int, ...]
) -> None:
    right, other = (manager.spawn_cron("main", task) for task in ("right", "other"))
    for key in (right, other):
        manager.send_message(key, "1")
    wrong = ", ".join(values(other, number, number) for number in numbers)

    with pytest.raises(Exception, match=r"messages_append|messages\.seq|pk_messages"):
        plain(f"INSERT INTO messages ({COLUMNS}) VALUES {values(right, 2, 2)}, {wrong}")

    assert plain("SELECT count(*), max(seq) FROM messages") == [(2, 1)]
    assert plain("SELECT last_seq FROM sessions") == [(1,), (1,)]


@pytest.fixture
def connect(url: str) -> Callable[[], psycopg.Connection]:
    return lambda: psycopg.connect(driver_url(make_url(url)), autocommit=True)


APPEND = """\
INSERT INTO messages (session_key, seq, role, content, timestamp_ms)
SELECT key, last_seq + 1, 'user', 'x', 1700000000000 FROM sessions WHERE key = ANY(%s) ORDER BY key FOR NO KEY UPDATE"""


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_statement_that_waited_behind_a_large_batch_trims_that_batch_too(
    manager: SessionManager, connect: Callable[[], psycopg.Connection]
) -> None:
    keys = [manager.spawn_cron("main", str(number)) for number in range(3)]
    waiting = connect()
    with ThreadPoolExecutor(1) as threads:
        with manager.transaction() as tx:
            for key in keys:
                tx.add_messages(key, texts(150))
            outcome = threads.submit(waiting.execute, APPEND, (keys,))
            assert not outcome.done()
        outcome.result(timeout=30)
    waiting.close()

    for key in keys:
        session = manager.get(key)
        assert session is not None
        assert (session.message_count, len(session.messages)) == (151, 100)

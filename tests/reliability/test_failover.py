"""A primary that dies or steps down, a standby that takes over, and a manager that follows on its own."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from sqlalchemy import URL

from sessions_db import DatabaseUnavailable, SessionManager
from tests.support.client import PlainClient
from tests.support.retrying import RetryingWriters
from tests.support.servers import Server, postgres, standby_of

Open = Callable[..., SessionManager]


@pytest.fixture(params=["sync", "async"])
def face(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@contextmanager
def pair() -> Iterator[tuple[Server, Server, URL]]:
    """A primary, its synchronous standby, and the URL that finds the one that accepts writes."""
    with postgres() as primary, standby_of(primary) as standby:
        hosts = [f"127.0.0.1:{server.port}" for server in (primary, standby)]
        query = {"host": hosts, "target_session_attrs": "read-write"}
        yield primary, standby, URL.create("postgresql", "postgres", database="postgres", query=query)


@pytest.mark.parametrize("how", ["immediate", "kill"])
def test_no_acknowledged_append_is_lost_when_the_primary_dies_and_the_standby_takes_over(
    open_manager: Open, how: str, full: bool, figures: Counter[str]
) -> None:
    for _ in range(10 if full else 1):
        with pair() as (primary, standby, url), open_manager(url, message_cap=1_000_000, pool_size=4) as manager:
            keys = [manager.spawn_subagent("main", "Test") for _ in range(3)]
            with RetryingWriters(manager, keys, figures) as writers:
                writers.go_on(100)
                if how == "kill":
                    primary.kill()
                else:
                    primary.stop("immediate")
                standby.promote()
                figures["failovers"] += 1
                writers.go_on(100)

            plain = PlainClient(standby.url())
            writers.check(plain)
            plain.close()


def test_call_without_a_primary_fails_within_the_budget(open_manager: Open) -> None:
    with pair() as (primary, standby, url), open_manager(url, retry_budget_s=0.5) as manager:
        key = manager.get_or_create_main("main").key
        primary.kill()
        calls: list[Callable[[], object]] = [manager.list, lambda: manager.send_message(key, "Hello")]
        for call in calls:
            started = time.monotonic()
            with pytest.raises(DatabaseUnavailable) as caught:
                call()

            assert time.monotonic() - started < 30
            assert not caught.value.outcome_unknown
        standby.promote()

        assert manager.send_message(key, "Hello").seq == 1


def test_primary_that_steps_down_but_keeps_its_connections_is_left_for_the_new_one(open_manager: Open) -> None:
    with pair() as (primary, standby, url), open_manager(url, pool_size=3) as manager:
        key = manager.get_or_create_main("main").key
        fill_the_pool(manager)
        step_down(primary)
        standby.promote()

        assert [manager.send_message(key, "Hello").seq for _ in range(5)] == [1, 2, 3, 4, 5]
        assert standby.execute("SELECT last_seq FROM sessions") == [(5,)]


def test_block_on_a_primary_that_stepped_down_is_rolled_back_and_the_next_finds_the_new_one(open_manager: Open) -> None:
    with pair() as (primary, standby, url), open_manager(url, pool_size=1) as manager:
        key = manager.get_or_create_main("main").key
        step_down(primary)
        standby.promote()

        def write() -> None:
            with manager.transaction() as tx:
                tx.send_message(key, "Hello")

        with pytest.raises(DatabaseUnavailable, match="read-only") as caught:
            write()
        assert not caught.value.outcome_unknown
        write()

        assert manager.get_or_create_main("main").message_count == 1


def test_waiting_survives_a_failover(open_manager: Open) -> None:
    with pair() as (primary, standby, url), open_manager(url) as manager, ThreadPoolExecutor(1) as threads:
        key = manager.get_or_create_main("main").key
        waiting = threads.submit(lambda: manager.wait_for_messages(key, 0, timeout=60))
        time.sleep(0.3)
        primary.kill()
        standby.promote()
        with SessionManager(standby.url()) as other:
            other.send_message(key, "Hello")

        assert [message.content for message in waiting.result()] == ["Hello"]


def test_who_waits_on_a_standby_hears_what_is_written_on_the_primary(open_manager: Open) -> None:
    with pair() as (_, standby, url), SessionManager(url) as writer:
        key = writer.get_or_create_main("main").key
        with open_manager(standby.url(), read_only=True) as reader, ThreadPoolExecutor(1) as threads:
            waiting = threads.submit(lambda: reader.wait_for_messages(key, 0, timeout=60))
            time.sleep(0.3)
            assert not waiting.done()
            writer.send_message(key, "Hello")

            assert [message.content for message in waiting.result()] == ["Hello"]


def fill_the_pool(manager: SessionManager) -> None:
    with manager.transaction(), manager.transaction(), manager.transaction():
        pass


def step_down(server: Server) -> None:
    """Refuse writes, like a primary that a managed service turns into a standby; connections stay open."""
    server.configure(default_transaction_read_only="on", synchronous_standby_names="")
    server.reload()

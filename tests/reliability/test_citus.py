"""Distributed schemas of a Citus cluster: the same promises, on whatever node a schema is, and while it moves."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from sessions_db import DatabaseUnavailable, NewMessage, SessionManager, doctor
from sessions_db.enums import Severity
from sessions_db.operations.appending_together import Append, append_together
from sessions_db.schemas import distribute_schema, find_schemas, make_audit_views
from tests.reliability.test_servers import behaviour_passes
from tests.support.citus import Cluster, citus
from tests.support.client import PlainClient
from tests.support.commands import ok, ok_json
from tests.support.retrying import RetryingWriters


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with citus() as running:
        yield running


@pytest.fixture
def schema(cluster: Cluster) -> Iterator[str]:
    """The name of a schema that does not exist yet."""
    name = f"team_{random.randrange(10**9)}"
    yield name
    cluster.execute(f"DROP SCHEMA IF EXISTS {name} CASCADE")


def in_schema(cluster: Cluster, schema: str) -> PlainClient:
    with_path = sa.make_url(cluster.url).update_query_dict({"options": f"-csearch_path={schema}"})
    return PlainClient(with_path.render_as_string(hide_password=False))


def check_log(manager: SessionManager) -> None:
    """Seal, and assert that the seal covers everything, in the order in which it happened."""
    seal = manager.seal_log()
    verdict = manager.verify_log()
    events = manager.events(after_id=0, limit=1_000_000)

    assert seal is not None
    assert (verdict.fault, verdict.unsealed, verdict.messages_unsealed) == (None, 0, 0)
    assert seal.through_event_id == events[-1].id
    assert [event.id for event in events] == sorted(event.id for event in events)


def test_schema_keeps_every_promise_on_each_node_that_it_moves_to(cluster: Cluster, schema: str) -> None:
    url = cluster.url
    with SessionManager(url, schema=schema, message_cap=3, archive_trimmed=True, actor="bill'ing \\ 100%") as manager:
        first = cluster.node_of(schema)
        here, there = sorted(cluster.workers, key=lambda worker: worker.port != first)
        for worker in (here, there, here):
            cluster.place(schema, worker)
            keys = [manager.spawn_subagent("clerk", "Look", label="look") for _ in range(2)]
            manager.add_messages(keys[0], [NewMessage("user", str(number)) for number in range(5)])
            found = manager.get_by_label("look")
            exported = [each for each in manager.export_sessions() if each.key == keys[0]]
            manager.delete_session(keys[0])
            manager.import_sessions(exported)
            manager.pop_messages(keys[0])
            manager.complete_session(keys[1])

            assert found is not None
            assert found.key == keys[1]
            assert [message.seq for message in manager.history(keys[0], archived=True) or []] == [1, 2, 3, 4, 5]
            assert [message.seq for message in manager.history(keys[0]) or []] == [3, 4]
            check_log(manager)
        events = manager.events(limit=1000)

    assert {event.actor for event in events} == {"bill'ing \\ 100%"}
    # They go on from one node to the next: a node's own range begins at 2^48.
    assert [event.id for event in events] == list(range(1, len(events) + 1))
    findings = [*doctor.examine(url, schema=schema)]
    assert [finding for finding in findings if finding.outcome is Severity.FAILURE] == []


def test_batch_over_many_sessions_is_sent_to_their_node_as_it_is(cluster: Cluster, schema: str) -> None:
    with SessionManager(cluster.url, schema=schema, message_cap=4, archive_trimmed=True) as manager:
        keys = [manager.spawn_subagent("clerk", "Look") for _ in range(8)]
        with manager._engine.connect() as conn:
            appends = [Append(key, [NewMessage("user", str(number)) for number in range(6)]) for key in keys]
            stored = append_together(conn, appends)

        assert [len(messages or []) for messages in stored] == [6] * 8
        assert [len(manager.history(key) or []) for key in keys] == [4] * 8
        assert [len(manager.history(key, archived=True) or []) for key in keys] == [6] * 8


def test_schema_with_sessions_is_distributed_without_a_change(cluster: Cluster, schema: str) -> None:
    cluster.execute(f"CREATE SCHEMA {schema}")
    with SessionManager(cluster.url, schema=schema, message_cap=2, archive_trimmed=True, actor="clerk") as manager:
        key = manager.spawn_subagent("clerk", "Look", label="look")
        manager.add_messages(key, [NewMessage("user", str(number)) for number in range(5)])
        manager.complete_session(key)
        manager.seal_log()
        before = [*manager.export_sessions()], manager.events(), manager.seals(), manager.proofs([key])

        node = ok_json("upgrade", "--schema", schema, db=cluster.url)["node"]

        assert ([*manager.export_sessions()], manager.events(), manager.seals(), manager.proofs([key])) == before
        assert node == f"127.0.0.1:{cluster.node_of(schema)}"
        assert f"The schema is on the node {node}." in ok("upgrade", "--schema", schema, db=cluster.url)
        manager.reopen_session(key)
        manager.send_message(key, "5")
        assert [message.seq for message in manager.history(key) or []] == [5, 6]
        check_log(manager)


def test_schemas_of_both_nodes_are_audited_together(cluster: Cluster) -> None:
    names = ["audited_a", "audited_b"]
    with ExitStack() as stack:
        for name, worker in zip(names, cluster.workers, strict=True):
            manager = stack.enter_context(SessionManager(cluster.url, schema=name))
            cluster.place(name, worker)
            manager.send_message(manager.get_or_create_main(name).key, "Hello")
        nodes = {each.name: each.node for each in find_schemas(cluster.url)}
        covered = make_audit_views(cluster.url)
        found = cluster.execute(
            "SELECT schema_name, agent_id, message_count FROM audit.all_sessions"
            " WHERE schema_name LIKE 'audited%' ORDER BY 1"
        )
        cluster.execute("DROP SCHEMA audit CASCADE")

    for name in names:
        cluster.execute(f"DROP SCHEMA {name} CASCADE")
    assert [nodes[name] for name in names] == [f"127.0.0.1:{worker.port}" for worker in cluster.workers]
    assert set(names) <= set(covered)
    assert found == [(name, name, 1) for name in names]


def test_schemas_move_under_writers_and_nothing_is_lost(
    cluster: Cluster, schema: str, full: bool, figures: Counter[str]
) -> None:
    with SessionManager(cluster.url, schema=schema, message_cap=1_000_000, retry_budget_s=60) as manager:
        keys = [manager.spawn_subagent("clerk", "Test") for _ in range(8)]
        capped = manager.spawn_subagent("clerk", "Test", message_cap=5)
        with RetryingWriters(manager, [*keys, capped], figures) as writers:
            for _ in range(12 if full else 1):
                writers.go_on(100)
                cluster.move(schema)
                figures["moves"] += 1
                manager.complete_session(manager.spawn_subagent("clerk", "Meanwhile"))
            writers.go_on(100)
        last = max(writers.stored.pop(capped).values())

        with closing(in_schema(cluster, schema)) as plain:
            writers.check(plain)
        assert [message.seq for message in manager.history(capped) or []] == [*range(last - 4, last + 1)]
        check_log(manager)


def test_worker_is_killed_under_writers_and_nothing_is_lost(
    cluster: Cluster, schema: str, full: bool, figures: Counter[str]
) -> None:
    worker, other_worker = cluster.workers
    other_schema = f"{schema}_elsewhere"
    with (
        SessionManager(cluster.url, schema=schema, message_cap=1_000_000, retry_budget_s=30) as manager,
        SessionManager(cluster.url, schema=other_schema) as other,
    ):
        cluster.place(schema, worker)
        cluster.place(other_schema, other_worker)
        keys = [manager.spawn_subagent("clerk", "Test") for _ in range(8)]
        key = other.get_or_create_main("clerk").key
        with RetryingWriters(manager, keys, figures) as writers:
            for _ in range(4 if full else 1):
                writers.go_on(100)
                worker.kill()
                other.send_message(key, "Hello")
                worker.start()
                figures["kills"] += 1
            writers.go_on(100)

        with closing(in_schema(cluster, schema)) as plain:
            writers.check(plain)
        check_log(manager)
    cluster.execute(f"DROP SCHEMA {other_schema} CASCADE")


def test_block_whose_node_died_before_the_commit_leaves_the_outcome_unknown(cluster: Cluster, schema: str) -> None:
    worker = cluster.workers[0]
    with SessionManager(cluster.url, schema=schema) as manager:
        cluster.place(schema, worker)
        key = manager.get_or_create_main("clerk").key

        def commit() -> None:
            with manager.transaction() as tx:
                tx.touch(key)
                worker.kill()

        with pytest.raises(DatabaseUnavailable) as caught:
            commit()

        worker.start()
        assert caught.value.outcome_unknown
        assert manager.send_message(key, "Hello").seq == 1


def test_dumped_schema_is_restored_and_distributed_again(cluster: Cluster, schema: str, tmp_path: Path) -> None:
    with SessionManager(cluster.url, schema=schema, message_cap=2, archive_trimmed=True) as manager:
        key = manager.spawn_subagent("clerk", "Look", label="look")
        manager.add_messages(key, [NewMessage("user", str(number)) for number in range(5)])
        manager.seal_log()
        before = [*manager.export_sessions()], manager.events(), manager.seals()

    file = str(tmp_path / "dump")
    cluster.run("pg_dump", "--format=custom", "--schema", schema, "--file", file)
    cluster.execute(f"DROP SCHEMA {schema} CASCADE")
    cluster.run("pg_restore", "--no-owner", "--exit-on-error", "--single-transaction", file)

    assert distribute_schema(cluster.url, schema) == f"127.0.0.1:{cluster.node_of(schema)}"
    with SessionManager(cluster.url, schema=schema) as manager:
        assert ([*manager.export_sessions()], manager.events(), manager.seals()) == before
        manager.complete_session(key)
        check_log(manager)


def test_distributing_is_for_citus_only(postgres_server: sa.URL) -> None:
    assert distribute_schema(postgres_server, "team_a") is None


@pytest.mark.full
def test_behaviour_is_the_same_in_a_distributed_schema(monkeypatch: pytest.MonkeyPatch, figures: Counter[str]) -> None:
    monkeypatch.setenv("SESSIONS_DB_TEST_CITUS", "1")
    # For the engines of the caller's.
    with citus(**{"citus.propagate_set_commands": "local"}) as cluster:
        behaviour_passes(cluster.url, ["tests/behaviour"], figures)

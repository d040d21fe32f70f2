"""The log, its seals, and the archive."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from sessions_db import (
    EventKind,
    InvalidInput,
    NewMessage,
    Seal,
    SessionEvent,
    SessionManager,
    SessionNotActive,
    SessionsError,
)
from sessions_db.store import SessionStore
from tests.support.client import PlainClient
from tests.support.clock import Clock, at, ms
from tests.support.locks import wait_for_lock
from tests.support.threads import run_together


def logged(manager: SessionManager, **filters: Any) -> list[str]:
    return [event.event.value for event in manager.events(**filters)]


def database_user(plain: PlainClient) -> str | None:
    return None if plain.backend == "sqlite" else str(plain("SELECT session_user")[0][0])


def guards(plain: PlainClient, *, on: bool) -> None:
    """Turn the triggers that guard the log off or on, which only the owner of the tables can do."""
    for table in ("session_events", "event_digests", "event_seals"):
        if plain.backend == "postgresql":
            plain(f"ALTER TABLE {table} {'ENABLE' if on else 'DISABLE'} TRIGGER USER")
        elif not on:
            for (name,) in plain("SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = ?", table):
                plain(f"DROP TRIGGER {name}")


# Events


def test_log_records_the_life_of_a_session(manager: SessionManager, plain: PlainClient) -> None:
    parent = manager.get_or_create_main("main").key
    key = manager.spawn_subagent("main", "Test", "research", parent)
    manager.send_message(key, "Hello")
    manager.error_session(key, "gave up")
    manager.reopen_session(key)
    newer = manager.spawn_cron("main", "Test", "research")
    manager.complete_session(key)
    manager.delete_session(key)
    manager.delete_session(newer)

    def event(session_key: str, kind: str, **fields: object) -> dict[str, object]:
        return {"session_key": session_key, "event": kind, **fields}

    def shown(found: SessionEvent) -> dict[str, object]:
        hidden = {"id", "at_ms", "actor", "db_user"}
        fields = {name: getattr(found, name) for name in found.__slots__ if name not in hidden}
        return {name: value for name, value in fields.items() if value is not None}

    events = manager.events()
    assert [shown(found) for found in events] == [
        event(parent, "created", to_status="active", message_count=0),
        event(key, "created", to_status="active", parent_key=parent, message_count=0),
        event(key, "label_assigned", label="research"),
        event(key, "status_changed", from_status="active", to_status="error", reason="gave up", message_count=1),
        event(key, "status_changed", from_status="error", to_status="active", message_count=1),
        event(newer, "created", to_status="active", message_count=0),
        event(newer, "label_moved", label="research", from_session_key=key),
        event(key, "status_changed", from_status="active", to_status="completed", message_count=1),
        event(key, "deleted", from_status="completed", parent_key=parent, message_count=1),
        event(newer, "deleted", from_status="active", message_count=0),
        event(newer, "label_removed", label="research"),
    ]
    assert {(found.actor, found.db_user) for found in events} == {(database_user(plain), database_user(plain))}
    assert [found.at_ms for found in events] == sorted(found.at_ms for found in events)
    assert events[0].to_dict()["sessionKey"] == parent


def test_event_has_the_databases_time_not_the_writers(manager: SessionManager, clock: Clock) -> None:
    clock.now_ms = 1
    manager.get_or_create_main("main")

    (event,) = manager.events()
    assert event.at_ms > 1_700_000_000_000


def test_appends_are_not_logged(manager: SessionManager) -> None:
    key = manager.get_or_create_main("main").key
    manager.send_message(key, "one")
    manager.add_messages(key, [NewMessage("user", "two")])

    assert logged(manager) == ["created"]


def test_end_of_a_session_is_logged_once_however_many_try(manager: SessionManager) -> None:
    keys = [manager.spawn_subagent("main", "Test") for _ in range(5)]
    won: list[str] = []

    def end(method: str, key: str) -> None:
        try:
            if getattr(manager, method)(key):
                won.append(key)
        except SessionNotActive:
            pass

    for key in keys:
        methods = ("complete_session", "error_session", "timeout_session", "stop_session") * 2
        run_together([threading.Thread(target=end, args=(method, key)) for method in methods])

    assert won == keys
    assert [event.session_key for event in manager.events(kind="status_changed")] == keys


def test_events_are_filtered_and_paged(manager: SessionManager) -> None:
    keys = [manager.spawn_subagent("main", "Test") for _ in range(4)]
    manager.stop_session(keys[1])

    assert logged(manager, session_key=keys[1]) == ["created", "status_changed"]
    assert [event.session_key for event in manager.events(kind="created", limit=2)] == keys[2:]
    both = manager.events(kind={EventKind.CREATED, "status_changed"})
    assert both == [event for event in manager.events() if event.event in ("created", "status_changed")]
    assert manager.events(kind=["created"]) == manager.events(kind="created")
    assert manager.events(kind=[]) == []
    first = manager.events(after_id=0, limit=3)
    assert [event.session_key for event in first] == keys[:3]
    assert [event.session_key for event in manager.events(after_id=first[-1].id)] == [keys[3], keys[1]]
    assert manager.events(limit=0) == []
    for wrong in ({"limit": -1}, {"after_id": "1"}, {"kind": "gone"}, {"session_key": 1}):
        with pytest.raises(InvalidInput, match=next(iter(wrong))):
            manager.events(**wrong)


# Actors


def act(manager: SessionStore, clock: Clock) -> None:
    """Every operation that is logged."""
    key = manager.spawn_subagent("main", "Test", "research")
    manager.spawn_cron("main", "Test", "research")
    manager.complete_session(key)
    manager.reopen_session(key)
    clock.now_ms += 10
    manager.timeout_idle(ms(5))
    clock.now_ms += 10
    manager.prune(before=at(clock.now_ms))
    manager.delete_session(manager.get_or_create_main("other").key)


def test_everything_a_manager_does_is_logged_under_its_actor(
    open_manager: Callable[..., SessionManager], url: str, plain: PlainClient, clock: Clock
) -> None:
    with open_manager(url, actor="billing-service") as billing:
        act(billing, clock)
        billing.send_message(billing.get_or_create_main("main").key, "Hello")

    events = plain("SELECT event, actor, db_user FROM session_events")
    assert {event for event, _, _ in events} == {
        "created",
        "label_assigned",
        "label_moved",
        "label_removed",
        "status_changed",
        "deleted",
    }
    assert {(actor, user) for _, actor, user in events} == {("billing-service", database_user(plain))}


def test_transaction_is_logged_under_the_actor(
    open_manager: Callable[..., SessionManager], url: str, plain: PlainClient, clock: Clock
) -> None:
    with open_manager(url, actor="größe'; --") as manager, manager.transaction() as tx:
        act(tx, clock)

    assert {actor for (actor,) in plain("SELECT actor FROM session_events")} == {"größe'; --"}


def test_actor_of_one_manager_is_not_mistaken_for_that_of_another(
    open_manager: Callable[..., SessionManager], url: str, plain: PlainClient
) -> None:
    with open_manager(url, actor="one", pool_size=1) as one, open_manager(url) as nobody:
        for name in ("a", "b"):
            one.get_or_create_main(f"one-{name}")
            nobody.get_or_create_main(f"nobody-{name}")
        plain(
            "INSERT INTO sessions (key, agent_id, kind, status, created_ms, last_activity_ms)"
            " VALUES ('agent:x:main', 'x', 'main', 'active', 1, 1)"
        )

    user = database_user(plain)
    assert [actor for (actor,) in plain("SELECT actor FROM session_events ORDER BY id")] == [
        "one",
        user,
        "one",
        user,
        user,
    ]


def test_actor_of_a_manager_on_the_callers_engine_stays_in_its_transactions(
    open_manager: Callable[..., SessionManager], url: str, plain: PlainClient
) -> None:
    # Behind PgBouncer a caller's own engine must not prepare statements.
    options = {} if plain.backend == "sqlite" else {"prepare_threshold": None}
    address = url.replace("postgresql:", "postgresql+psycopg:")
    engine = sa.create_engine(address, connect_args=options, pool_size=1, max_overflow=0)
    with open_manager(engine, actor="one") as one, open_manager(engine) as nobody:
        one.get_or_create_main("a")
        nobody.get_or_create_main("b")
    engine.dispose()

    assert [actor for (actor,) in plain("SELECT actor FROM session_events ORDER BY id")] == [
        "one",
        database_user(plain),
    ]


@pytest.mark.parametrize("actor", [None, "one", "two"])
@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_name_that_a_shell_left_is_not_taken_for_that_of_a_manager(
    open_manager: Callable[..., SessionManager], url: str, plain: PlainClient, actor: str | None
) -> None:
    calls: list[Callable[[SessionStore], object]] = [
        lambda store: store.get_or_create_main("a"),
        lambda store: store.spawn_subagent("a", "Test", "research"),
        lambda store: store.stop_session("agent:a:main"),
        lambda store: store.delete_session("agent:a:main"),
    ]
    with open_manager(url, actor=actor) as manager:
        for call in calls:
            plain("INSERT INTO event_actor VALUES ('one'), ('zzz')")
            call(manager)

    events = plain("SELECT event, actor FROM session_events ORDER BY id")
    assert events == [(event, actor) for event in ("created", "created", "label_assigned", "status_changed", "deleted")]
    assert plain("SELECT * FROM event_actor") == []


@pytest.mark.parametrize("actor", ["", 1, "a\x00b", "a" * 256])
def test_actor_must_be_a_name(open_manager: Callable[..., SessionManager], url: str, actor: Any) -> None:
    with pytest.raises(InvalidInput, match="actor"), open_manager(url, actor=actor):
        pass


# Seals


def seal_six(manager: SessionManager) -> str:
    """The digest of the second of two seals, over events 1 to 3 and 4 to 6; event 7 is not sealed."""
    for name in "abc":
        manager.get_or_create_main(name)
    manager.seal_log()
    for name in "def":
        manager.get_or_create_main(name)
    seal = manager.seal_log()
    manager.get_or_create_main("g")
    assert seal is not None
    return seal.digest


@pytest.fixture
def sealed(manager: SessionManager) -> str:
    """What `seal_six` returns."""
    return seal_six(manager)


def test_unchanged_log_is_verified(manager: SessionManager, sealed: str) -> None:
    for options in ({}, {"expect": sealed}):
        verdict = manager.verify_log(**options)

        assert (verdict.fault, verdict.event_id) == (None, None)
        assert (verdict.verified, verdict.expired, verdict.unsealed) == (6, 0, 1)
        assert verdict.seal is not None
        assert (verdict.seal.id, verdict.seal.through_event_id, verdict.seal.event_count) == (2, 6, 3)


def test_seals_of_equal_logs_are_equal_on_both_databases(
    open_manager: Callable[..., SessionManager], url: str, plain: PlainClient, clock: Clock
) -> None:
    plain(
        "INSERT INTO session_events (at_ms, actor, event, session_key, reason, message_count)"
        " VALUES (1700000000123, 'Größe', 'deleted', 'agent:a:main', 'a \"b\" \\ 中', 7)"
    )

    with open_manager(url, actor="notary") as manager:
        seal = manager.seal_log()
    assert seal is not None
    columns = '[1,1700000000123,"Größe",null,"deleted","agent:a:main",null,null,"a \\"b\\" \\\\ 中",'
    columns += "null,null,null,7,null,null]"
    event = hashlib.sha256(columns.encode()).hexdigest()
    events = hashlib.sha256(f"1 1700000000123 {event}\n".encode()).hexdigest()
    row = f'[1,{clock.now_ms},"notary",1,1,"{"0" * 64}","{events}",0,"{hashlib.sha256().hexdigest()}"]'
    assert seal.digest == hashlib.sha256(row.encode()).hexdigest()


def test_sealing_without_new_events_returns_the_last_seal(manager: SessionManager) -> None:
    assert manager.seal_log() is None
    assert manager.verify_log().seal is None
    manager.get_or_create_main("a")

    first = manager.seal_log()
    assert manager.seal_log() == first


def test_verifying_can_start_from_a_seal(manager: SessionManager, sealed: str) -> None:
    manager.seal_log()

    assert manager.verify_log(since=sealed).verified == 1
    assert manager.verify_log(since=sealed).fault is None


@pytest.mark.parametrize("which", ["expect", "since"])
@pytest.mark.usefixtures("sealed")
def test_missing_seal_is_a_fault(manager: SessionManager, which: str) -> None:
    assert manager.verify_log(**{which: "0" * 64}).fault == f"no seal has the digest {'0' * 64}"


@pytest.fixture
def chain(manager: SessionManager) -> list[Seal]:
    """Three seals, each over one event; a fourth event is not sealed."""
    made = []
    for name in "abc":
        manager.get_or_create_main(name)
        made.append(manager.seal_log())
    manager.get_or_create_main("d")
    return [seal for seal in made if seal is not None]


def test_expected_seal_may_be_the_one_to_go_on_from_or_a_later_one(manager: SessionManager, chain: list[Seal]) -> None:
    for count, seal in enumerate(chain[1:]):
        verdict = manager.verify_log(since=chain[1].digest, expect=seal.digest)

        assert (verdict.fault, verdict.verified, verdict.unsealed) == (None, 1, 1), count


def test_expected_seal_that_was_made_before_the_one_to_go_on_from_is_a_fault(
    manager: SessionManager, chain: list[Seal]
) -> None:
    since, expect = chain[1].digest, chain[0].digest

    fault = manager.verify_log(since=since, expect=expect).fault
    assert fault == f"the seal {expect} does not come after the seal {since}"


@pytest.mark.parametrize("order", ["expected first", "expected last"])
def test_rewritten_log_does_not_pass_by_the_seals_that_are_asked_for(
    manager: SessionManager, plain: PlainClient, chain: list[Seal], order: str
) -> None:
    since, expect = chain[0].digest, chain[2].digest
    first, second = (expect, since) if order == "expected first" else (since, expect)
    guards(plain, on=False)
    plain("UPDATE session_events SET reason = 'nothing happened' WHERE id = 2")
    plain("DELETE FROM session_events WHERE id = 3")
    plain("DELETE FROM event_digests")
    plain("DELETE FROM event_seals")
    # The seal to go on from gets the position of the newest event, so that no event would be looked at.
    for number, (digest, previous) in enumerate(((first, ""), (second, first)), start=1):
        plain(
            "INSERT INTO event_seals"
            " (id, sealed_ms, through_event_id, event_count, previous_digest, events_digest,"
            " transcript_count, transcripts_digest, digest)"
            " VALUES (?, 1, 4, 0, ?, '', 0, '', ?)",
            number,
            previous,
            digest,
        )

    verdict = manager.verify_log(expect=expect, since=since)
    if plain.backend == "postgresql":
        guards(plain, on=True)
    number = 2 if order == "expected first" else 1
    assert (verdict.fault, verdict.verified) == (f"seal {number} was changed", 0)


def test_change_after_the_seal_to_go_on_from_is_named(
    manager: SessionManager, plain: PlainClient, chain: list[Seal]
) -> None:
    guards(plain, on=False)
    plain("UPDATE session_events SET reason = 'x' WHERE id = 3")

    verdict = manager.verify_log(expect=chain[2].digest, since=chain[0].digest)
    if plain.backend == "postgresql":
        guards(plain, on=True)
    assert (verdict.event_id, verdict.fault, verdict.verified) == (3, "was changed", 1)


TAMPERING = {
    "changed": ("UPDATE session_events SET reason = 'nothing happened' WHERE id = 5", 5, "was changed"),
    "nulled": ("UPDATE session_events SET to_status = NULL WHERE id = 1", 1, "was changed"),
    "removed": ("DELETE FROM session_events WHERE id = 2", 2, "was removed"),
    "removed last": ("DELETE FROM session_events WHERE id = 6", 6, "was removed"),
    "slipped in": (
        (
            "DELETE FROM session_events WHERE id = 4; DELETE FROM event_digests WHERE event_id = 4; "
            "INSERT INTO session_events (id, at_ms, event, session_key) VALUES (4, 1, 'deleted', 'agent:x:main')"
        ),
        4,
        "was slipped in after its time",
    ),
    "digest removed too": (
        "DELETE FROM session_events WHERE id = 2; DELETE FROM event_digests WHERE event_id = 2",
        None,
        "seal 1 is not over the digests that are there for it",
    ),
    "seal removed": (
        "DELETE FROM event_seals WHERE id = 1",
        None,
        "seal 2 is not over the digests that are there for it",
    ),
    "last seal removed": ("DELETE FROM event_seals WHERE id = 2", 4, "has a digest that no seal covers"),
    "seal changed": (
        "UPDATE event_seals SET event_count = 4 WHERE id = 2",
        None,
        "seal 2 is not over the digests that are there for it",
    ),
    "sealer changed": ("UPDATE event_seals SET actor = 'nobody' WHERE id = 1", None, "seal 1 was changed"),
    "time of sealing changed": ("UPDATE event_seals SET sealed_ms = 1 WHERE id = 2", None, "seal 2 was changed"),
}


@pytest.mark.parametrize("name", TAMPERING)
@pytest.mark.usefixtures("sealed")
def test_tampering_is_named(manager: SessionManager, plain: PlainClient, name: str) -> None:
    statements, event_id, fault = TAMPERING[name]
    guards(plain, on=False)
    for statement in statements.split(";"):
        plain(statement)

    verdict = manager.verify_log()
    if plain.backend == "postgresql":
        guards(plain, on=True)
    assert (verdict.event_id, verdict.fault) == (event_id, fault)


def without_constraints(plain: PlainClient, table: str) -> None:
    """Let the table hold any row, as its owner can."""
    guards(plain, on=False)
    if plain.backend == "sqlite":
        plain("PRAGMA legacy_alter_table = ON")
        plain(f"ALTER TABLE {table} RENAME TO {table}_before")
        plain(f"CREATE TABLE {table} AS SELECT * FROM {table}_before")
    else:
        plain(f"ALTER TABLE {table} DROP CONSTRAINT pk_{table}")
        plain("ALTER TABLE session_events DROP CONSTRAINT ck_session_events_id")
        plain(f"ALTER TABLE {table} ALTER {'id' if table == 'session_events' else 'event_id'} DROP NOT NULL")


@pytest.fixture
def own(open_manager: Callable[..., SessionManager], own_url: str) -> Iterator[SessionManager]:
    """A manager of a database whose tables the test may change."""
    with open_manager(own_url) as manager:
        yield manager


@pytest.fixture
def own_plain(own: SessionManager, own_url: str) -> Iterator[PlainClient]:  # noqa: ARG001  # makes the tables
    client = PlainClient(own_url)
    yield client
    client.close()


@pytest.mark.parametrize("number", [0, -1, None])
@pytest.mark.parametrize("table", ["session_events", "event_digests"])
def test_row_with_a_number_that_is_never_given_is_a_fault(
    own: SessionManager, own_plain: PlainClient, table: str, number: int | None
) -> None:
    sealed = seal_six(own)
    without_constraints(own_plain, table)
    event = table == "session_events"
    columns, values = ("id, event, session_key", "'deleted', 'x'") if event else ("event_id, digest", "''")
    own_plain(f"INSERT INTO {table} ({columns}, at_ms) VALUES (?, {values}, 1)", number)

    for options in ({"expect": sealed}, {"since": sealed}):
        verdict = own.verify_log(**options)
        fault = f"in {table} has a number that is never given"
        assert (verdict.event_id, verdict.fault) == (number, fault)


def test_second_row_with_the_number_of_a_sealed_event_is_a_fault(own: SessionManager, own_plain: PlainClient) -> None:
    sealed = seal_six(own)
    without_constraints(own_plain, "session_events")
    columns = "id, at_ms, actor, db_user, event, session_key, from_status, to_status, reason, parent_key, message_count"
    own_plain(
        f"INSERT INTO session_events ({columns})"
        f" SELECT {columns.replace('reason', repr('nothing happened'))} FROM session_events WHERE id = 5"
    )

    verdict = own.verify_log(expect=sealed)
    assert (verdict.event_id, verdict.fault) == (5, "is there more than once")


def test_second_digest_at_the_end_of_a_page_is_a_fault(own: SessionManager, own_plain: PlainClient) -> None:
    with own.transaction() as tx:
        for _ in range(1100):
            tx.spawn_subagent("main", "Test")
    own.seal_log()
    without_constraints(own_plain, "event_digests")
    own_plain("INSERT INTO event_digests SELECT event_id, at_ms, digest FROM event_digests WHERE event_id = 1000")

    assert own.verify_log().fault == "seal 1 is not over the digests that are there for it"


def test_resealed_log_does_not_match_the_expected_digest(
    manager: SessionManager, plain: PlainClient, sealed: str
) -> None:
    guards(plain, on=False)
    for statement in (
        "UPDATE session_events SET actor = 'somebody else'",
        "DELETE FROM event_digests",
        "DELETE FROM event_seals",
    ):
        plain(statement)
    manager.seal_log()
    if plain.backend == "postgresql":
        guards(plain, on=True)

    assert manager.verify_log().fault is None
    assert manager.verify_log(expect=sealed).fault == f"no seal has the digest {sealed}"


def test_events_that_expired_after_sealing_are_not_a_fault(manager: SessionManager, plain: PlainClient) -> None:
    for number in (1, 2):
        plain("INSERT INTO session_events (at_ms, event, session_key) VALUES (?, 'deleted', 'agent:a:main')", number)
    manager.get_or_create_main("a")
    seal = manager.seal_log()
    plain("DELETE FROM session_events WHERE at_ms < 1000")

    assert seal is not None
    verdict = manager.verify_log(expect=seal.digest)
    assert (verdict.fault, verdict.verified, verdict.expired) == (None, 1, 2)


def test_more_events_than_one_page_are_sealed_and_verified(manager: SessionManager, plain: PlainClient) -> None:
    with manager.transaction() as tx:
        keys = [tx.spawn_subagent("main", "Test") for _ in range(1100)]
        for key in keys:
            tx.complete_session(key)
    seal = manager.seal_log()
    assert seal is not None
    assert seal.event_count == 2200
    assert manager.verify_log().verified == 2200

    guards(plain, on=False)
    plain("UPDATE session_events SET reason = 'x' WHERE id = 2100")
    verdict = manager.verify_log()
    if plain.backend == "postgresql":
        guards(plain, on=True)
    assert (verdict.event_id, verdict.fault, verdict.verified) == (2100, "was changed", 2099)


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_seal_waits_for_a_writer_whose_event_already_has_an_id(manager: SessionManager, plain: PlainClient) -> None:
    manager.get_or_create_main("before")
    plain("BEGIN")
    plain(
        "INSERT INTO sessions (key, agent_id, kind, status, created_ms, last_activity_ms)"
        " VALUES ('agent:late:main', 'late', 'main', 'active', 1, 1)"
    )
    sealing = threading.Thread(target=manager.seal_log)
    sealing.start()
    wait_for_lock(plain)
    plain("COMMIT")
    sealing.join()

    verdict = manager.verify_log()
    assert (verdict.fault, verdict.verified, verdict.unsealed) == (None, 2, 0)


def test_concurrent_seals_form_one_chain(manager: SessionManager) -> None:
    def work(name: str) -> None:
        for number in range(5):
            manager.get_or_create_main(f"{name}-{number}")
            manager.seal_log()

    run_together([threading.Thread(target=work, args=(name,)) for name in "abc"])

    verdict = manager.verify_log()
    assert (verdict.fault, verdict.verified, verdict.unsealed) == (None, 15, 0)


# The archive


def archived(plain: PlainClient) -> list[int]:
    return [seq for (seq,) in plain("SELECT seq FROM archived_messages ORDER BY session_key, seq")]


def test_trimmed_messages_are_archived_if_the_session_says_so(manager: SessionManager, plain: PlainClient) -> None:
    key = manager.spawn_subagent("main", "Test", message_cap=2, archive_trimmed=True)
    new = NewMessage("tool", "found", tool_name="search", metadata={"z": 1, "a": None}, idempotency_key="1")
    manager.add_messages(key, [new, NewMessage("user", "two")])
    before = plain(
        "SELECT session_key, seq, role, content, tool_name, CAST(metadata AS TEXT), timestamp_ms, "
        "idempotency_key FROM messages WHERE seq = 1"
    )
    manager.send_message(key, "three")

    assert (
        plain(
            "SELECT session_key, seq, role, content, tool_name, CAST(metadata AS TEXT), timestamp_ms, idempotency_key"
            " FROM archived_messages"
        )
        == before
    )
    history = manager.history(key)
    assert history is not None
    assert [message.seq for message in history] == [2, 3]


def test_batch_larger_than_the_cap_is_archived_except_for_its_end(manager: SessionManager, plain: PlainClient) -> None:
    key = manager.spawn_cron("main", "Test", message_cap=3, archive_trimmed=True)
    manager.add_messages(key, [NewMessage("user", str(number)) for number in range(250)])

    assert archived(plain) == list(range(1, 248))


def test_lowered_cap_archives_what_it_trims(manager: SessionManager, plain: PlainClient) -> None:
    key = manager.spawn_subagent("main", "Test", archive_trimmed=True)
    manager.add_messages(key, [NewMessage("user", str(number)) for number in range(5)])
    plain("UPDATE sessions SET message_cap = 2 WHERE key = ?", key)

    assert archived(plain) == [1, 2, 3]


def test_manager_sets_the_default_for_archiving_in_new_sessions(
    open_manager: Callable[..., SessionManager], url: str, plain: PlainClient
) -> None:
    with open_manager(url, message_cap=1, archive_trimmed=True) as manager, manager.transaction() as tx:
        keys = [
            tx.get_or_create_main("main").key,
            tx.spawn_subagent("main", "Test"),
            tx.spawn_cron("main", "Test", archive_trimmed=False),
        ]
        for key in keys:
            tx.add_messages(key, [NewMessage("user", "one"), NewMessage("user", "two")])

    assert sorted(key for (key,) in plain("SELECT session_key FROM archived_messages")) == sorted(keys[:2])


def test_archive_is_deleted_with_its_session(manager: SessionManager, plain: PlainClient) -> None:
    key = manager.spawn_subagent("main", "Test", message_cap=1, archive_trimmed=True)
    manager.add_messages(key, [NewMessage("user", "one"), NewMessage("user", "two")])
    manager.delete_session(key)

    assert archived(plain) == []


def test_nothing_is_archived_unless_a_session_says_so(manager: SessionManager, plain: PlainClient) -> None:
    key = manager.spawn_subagent("main", "Test", message_cap=1)
    manager.add_messages(key, [NewMessage("user", "one"), NewMessage("user", "two")])

    assert archived(plain) == []


# Reading only


def test_read_only_manager_reads_and_refuses_to_write(
    open_manager: Callable[..., SessionManager], manager: SessionManager, url: str, clock: Clock
) -> None:
    key = manager.spawn_subagent("main", "Test", "research")
    manager.send_message(key, "Hello")
    manager.complete_session(key)
    clock.now_ms += 1
    with open_manager(url, read_only=True) as reader:
        assert reader.get(key) == manager.get_by_label("research")
        assert len(reader.history(key) or []) == len(reader.list()) == 1
        assert reader.prune(before=at(clock.now_ms), dry_run=True) == [key]
        assert reader.verify_log().unsealed == 3
        writes: list[Callable[[SessionStore], object]] = [
            lambda m: m.get_or_create_main("main"),
            lambda m: m.spawn_subagent("main", "Test"),
            lambda m: m.send_message(key, "Hello"),
            lambda m: m.add_messages(key, []),
            lambda m: m.reopen_session(key),
            lambda m: m.delete_session(key),
            lambda m: m.prune(before=at(clock.now_ms)),
            lambda m: m.seal_log(),
        ]
        for write in writes:
            with pytest.raises(SessionsError, match="read-only"):
                write(reader)
            with reader.transaction() as tx, pytest.raises(SessionsError, match="read-only"):
                write(tx)

    assert manager.get(key) is not None


def test_transaction_of_a_read_only_manager_sees_one_snapshot(
    open_manager: Callable[..., SessionManager], manager: SessionManager, url: str
) -> None:
    key = manager.get_or_create_main("main").key
    with open_manager(url, read_only=True) as reader:
        with reader.transaction() as tx:
            assert tx.history(key) == []
            manager.send_message(key, "Hello")
            assert tx.history(key) == []
        assert len(reader.history(key) or []) == 1

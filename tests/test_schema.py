"""What the database enforces for every writer: constraints and triggers, tested with plain SQL."""

from __future__ import annotations

import sqlite3
import time

import psycopg
import pytest
from sqlalchemy import PrimaryKeyConstraint, UniqueConstraint

from sessions_db import SessionManager, schema
from tests.support.client import PlainClient
from tests.support.rows import insert_cycle

REFUSAL = (sqlite3.IntegrityError, psycopg.errors.IntegrityError, psycopg.errors.DataError)


@pytest.fixture
def key(manager: SessionManager) -> str:
    """An active sub-agent session with a label and two messages."""
    key = manager.spawn_subagent("main", "Test", "research", message_cap=3)
    manager.send_message(key, "one")
    manager.send_message(key, "two")
    return key


def insert_session(plain: PlainClient, **changes: object) -> None:
    """Insert a sub-agent session with some columns changed."""
    row = {
        "key": "agent:main:subagent:1",
        "agent_id": "main",
        "kind": "subagent",
        "status": "active",
        "run_id": "1",
        "created_ms": 1,
        "last_activity_ms": 1,
    } | changes
    plain(f"INSERT INTO sessions ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})", *row.values())


def insert_message(plain: PlainClient, key: str, seq: object, **changes: object) -> None:
    """Insert a user message with some columns changed."""
    row = {"session_key": key, "seq": seq, "role": "user", "content": "plain", "timestamp_ms": 1} | changes
    plain(f"INSERT INTO messages ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})", *row.values())


def test_valid_row_is_accepted_with_the_default_cap(plain: PlainClient) -> None:
    insert_session(plain)

    assert plain("SELECT message_cap, last_seq FROM sessions") == [(100, 0)]


@pytest.mark.parametrize(
    ("constraint", "changes"),
    [
        ("ck_sessions_kind", {"kind": "robot", "key": "agent:main:robot:1"}),
        ("ck_sessions_status", {"status": "done", "finished_ms": 1}),
        ("ck_sessions_agent_id", {"agent_id": "", "key": "agent::subagent:1"}),
        ("ck_sessions_agent_id", {"agent_id": "a:b", "key": "agent:a:b:subagent:1"}),
        ("ck_sessions_key", {"key": "agent:other:subagent:1"}),
        ("ck_sessions_key", {"key": "agent:main:cron:1"}),
        ("ck_sessions_key", {"kind": "main", "run_id": None, "key": "agent:main:main:1"}),
        ("ck_sessions_label", {"label": ""}),
        ("ck_sessions_run_id", {"run_id": None}),
        ("ck_sessions_run_id", {"kind": "main", "key": "agent:main:main"}),
        ("ck_sessions_run_id", {"kind": "conversation", "key": "agent:main:conversation:1"}),
        ("ck_sessions_forked_at_seq", {"forked_at_seq": 0}),
        ("ck_sessions_forked_at_seq", {"forked_at_seq": -1, "parent_key": "agent:main:main"}),
        ("ck_sessions_finished_ms", {"finished_ms": 1}),
        ("ck_sessions_finished_ms", {"status": "completed"}),
        ("ck_sessions_end_reason", {"end_reason": "because"}),
        ("ck_sessions_message_cap", {"message_cap": 0}),
        ("ck_sessions_last_seq", {"last_seq": -1}),
        ("ck_sessions_metadata", {"metadata": "[1]"}),
        ("metadata", {"metadata": "no json"}),
        ("agent_id", {"agent_id": None}),
        ("kind", {"kind": None}),
        ("status", {"status": None}),
        ("created_ms", {"created_ms": None}),
        ("last_activity_ms", {"last_activity_ms": None}),
        ("message_cap", {"message_cap": None}),
        ("last_seq", {"last_seq": None}),
        ("key", {"key": None}),
    ],
)
def test_invalid_session_is_refused(plain: PlainClient, constraint: str, changes: dict[str, object]) -> None:
    with pytest.raises(REFUSAL, match=constraint if constraint != "metadata" else "metadata|json"):
        insert_session(plain, **changes)

    assert plain("SELECT * FROM sessions") == []


def test_session_keys_and_run_ids_are_unique(plain: PlainClient) -> None:
    insert_session(plain)

    with pytest.raises(REFUSAL, match=r"pk_sessions|sessions\.key"):
        insert_session(plain, run_id="2")
    with pytest.raises(REFUSAL, match=r"uq_sessions_run_id|sessions\.run_id"):
        insert_session(plain, key="agent:main:subagent:2")


@pytest.mark.parametrize(
    ("constraint", "changes"),
    [
        ("ck_messages_role", {"role": "robot"}),
        ("ck_messages_metadata", {"metadata": '"text"'}),
        ("metadata|json", {"metadata": "no json"}),
        ("content", {"content": None}),
        ("role", {"role": None}),
        ("timestamp_ms", {"timestamp_ms": None}),
    ],
)
def test_invalid_message_is_refused(plain: PlainClient, key: str, constraint: str, changes: dict[str, object]) -> None:
    with pytest.raises(REFUSAL, match=constraint):
        insert_message(plain, key, 3, **changes)

    assert plain("SELECT count(*) FROM messages") == [(2,)]
    assert plain("SELECT last_seq FROM sessions") == [(2,)]


def test_message_number_must_be_positive(plain: PlainClient) -> None:
    insert_session(plain)

    with pytest.raises(REFUSAL, match="ck_messages_seq"):
        insert_message(plain, "agent:main:subagent:1", 0)


def test_message_numbers_are_unique(plain: PlainClient, key: str) -> None:
    with pytest.raises(REFUSAL, match=r"pk_messages|messages\.session_key, messages\.seq"):
        insert_message(plain, key, 2)


def test_idempotency_keys_of_a_session_are_unique(plain: PlainClient, key: str) -> None:
    insert_message(plain, key, 3, idempotency_key="1")

    with pytest.raises(REFUSAL, match=r"uq_messages_idempotency_key|messages\.session_key, messages\.idempotency_key"):
        insert_message(plain, key, 4, idempotency_key="1")


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_value_of_another_type_is_refused(plain: PlainClient, key: str) -> None:
    with pytest.raises(
        sqlite3.IntegrityError, match=r"cannot store TEXT value in INTEGER column messages\.timestamp_ms"
    ):
        insert_message(plain, key, 3, timestamp_ms="yesterday")
    with pytest.raises(sqlite3.IntegrityError, match=r"cannot store BLOB value in TEXT column messages\.content"):
        insert_message(plain, key, 3, content=b"bytes")


# Triggers


def test_append_in_plain_sql_updates_the_counters_and_trims(
    manager: SessionManager, plain: PlainClient, key: str
) -> None:
    insert_message(plain, key, 3, timestamp_ms=9_999_999_999_999)
    insert_message(plain, key, 4)

    session = manager.get(key)
    assert session is not None
    assert session.message_count == 4
    assert session.last_activity_ms == 9_999_999_999_999
    assert [message.seq for message in session.messages] == [2, 3, 4]
    assert manager.send_message(key, "next").seq == 5


@pytest.mark.parametrize("seq", [4, 9])
def test_append_in_plain_sql_that_leaves_a_gap_is_refused(plain: PlainClient, key: str, seq: int) -> None:
    with pytest.raises(REFUSAL, match="messages_append"):
        insert_message(plain, key, seq)

    assert plain("SELECT seq FROM messages ORDER BY seq") == [(1,), (2,)]


def test_message_of_no_session_is_refused(plain: PlainClient) -> None:
    with pytest.raises(REFUSAL, match=r"messages_append|fk_messages_session_key"):
        insert_message(plain, "agent:main:main", 1)


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_statement_over_several_sessions_is_counted_for_each(
    manager: SessionManager, plain: PlainClient, key: str
) -> None:
    other = manager.spawn_subagent("main", "Test")
    plain(
        "INSERT INTO messages (session_key, seq, role, content, timestamp_ms)"
        " SELECT key, last_seq + number, 'user', number::text, 1 FROM sessions, generate_series(1, 4) AS number"
    )

    assert dict(plain("SELECT key, last_seq FROM sessions")) == {key: 6, other: 4}
    assert dict(plain("SELECT session_key, count(*) FROM messages GROUP BY session_key")) == {key: 3, other: 4}


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
@pytest.mark.parametrize("numbers", ["3, 5", "4, 5", "3, 4, 6"])
def test_statement_that_leaves_a_gap_is_refused_as_a_whole(plain: PlainClient, key: str, numbers: str) -> None:
    with pytest.raises(REFUSAL, match="messages_append"):
        plain(
            "INSERT INTO messages (session_key, seq, role, content, timestamp_ms)"
            f" SELECT ?, number, 'user', '', 1 FROM unnest(ARRAY[{numbers}]) AS number",
            key,
        )

    assert plain("SELECT count(*) FROM messages") == [(2,)]


def test_metadata_that_another_writer_formatted_differently_is_read(
    manager: SessionManager, plain: PlainClient, key: str
) -> None:
    insert_message(plain, key, 3, metadata=' \n{ "a" : [1] }\n ')

    history = manager.history(key, 1)
    assert history is not None
    assert history[0].metadata == {"a": [1]}


def test_message_keeps_its_place(plain: PlainClient, key: str) -> None:
    for change in ("seq = seq + 1", "session_key = 'agent:main:main'"):
        with pytest.raises(REFUSAL, match="messages_place"):
            plain(f"UPDATE messages SET {change} WHERE session_key = ?", key)

    assert plain("SELECT session_key, seq FROM messages ORDER BY seq") == [(key, 1), (key, 2)]


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_clients_search_path_and_temporary_tables_do_not_mislead_the_triggers(plain: PlainClient, key: str) -> None:
    plain("CREATE TEMPORARY TABLE messages (session_key TEXT, seq BIGINT)")
    plain("CREATE TEMPORARY TABLE sessions (key TEXT)")
    plain("SET search_path = ''")
    for seq in (3, 4, 5):
        plain(
            "INSERT INTO public.messages (session_key, seq, role, content, timestamp_ms) VALUES (?, ?, 'user', '', 1)",
            key,
            seq,
        )

    assert plain("SELECT seq FROM public.messages ORDER BY seq") == [(3,), (4,), (5,)]
    plain("UPDATE public.sessions SET message_cap = 1")
    assert plain("SELECT seq FROM public.messages") == [(5,)]


def test_lowered_cap_takes_effect_at_once(plain: PlainClient, key: str) -> None:
    plain("UPDATE sessions SET message_cap = 1 WHERE key = ?", key)

    assert plain("SELECT seq FROM messages") == [(2,)]


def test_raised_cap_keeps_what_is_there(manager: SessionManager, plain: PlainClient, key: str) -> None:
    plain("UPDATE sessions SET message_cap = 4 WHERE key = ?", key)
    for content in "abc":
        manager.send_message(key, content)

    assert plain("SELECT seq FROM messages ORDER BY seq") == [(2,), (3,), (4,), (5,)]


def test_deleting_a_session_in_plain_sql_deletes_its_messages_and_labels(plain: PlainClient, key: str) -> None:
    plain("DELETE FROM sessions WHERE key = ?", key)

    assert plain("SELECT count(*) FROM messages") == [(0,)]
    assert plain("SELECT count(*) FROM labels") == [(0,)]


def test_label_must_point_to_a_session(plain: PlainClient, key: str) -> None:
    with pytest.raises(REFUSAL, match=r"labels_insert|fk_labels_session_key"):
        plain("INSERT INTO labels (label, session_key, assigned_ms) VALUES ('lost', 'agent:x:main', 1)")
    with pytest.raises(REFUSAL, match=r"labels_update|fk_labels_session_key"):
        plain("UPDATE labels SET session_key = 'agent:x:main'")

    assert plain("SELECT label, session_key FROM labels") == [("research", key)]


def test_label_belongs_to_one_session(plain: PlainClient, key: str) -> None:
    with pytest.raises(REFUSAL, match=r"pk_labels|labels\.label"):
        plain("INSERT INTO labels (label, session_key, assigned_ms) VALUES ('research', ?, 1)", key)
    with pytest.raises(REFUSAL, match="assigned_ms"):
        plain("INSERT INTO labels (label, session_key, assigned_ms) VALUES ('other', ?, NULL)", key)


def test_label_is_not_empty(plain: PlainClient, key: str) -> None:
    with pytest.raises(REFUSAL, match="ck_labels_label"):
        plain("INSERT INTO labels (label, session_key, assigned_ms) VALUES ('', ?, 1)", key)
    with pytest.raises(REFUSAL, match="ck_labels_label"):
        plain("UPDATE labels SET label = ''")


# The log, in plain SQL


def events(plain: PlainClient) -> list[tuple[object, ...]]:
    """What was logged after the fixture's session, its label and its status."""
    columns = "event, session_key, from_status, to_status, reason, label, from_session_key, message_count"
    return plain(f"SELECT {columns} FROM session_events WHERE id > 2 ORDER BY id")


def test_changes_in_plain_sql_are_logged(plain: PlainClient, key: str) -> None:
    other = "agent:main:subagent:1"
    insert_session(plain)
    plain("UPDATE sessions SET status = 'error', finished_ms = 5, end_reason = 'why' WHERE key = ?", key)
    plain("UPDATE sessions SET end_reason = 'because' WHERE key = ?", key)
    plain("UPDATE sessions SET end_reason = end_reason, metadata = NULL, last_activity_ms = 7")
    plain("UPDATE labels SET session_key = ?", other)
    plain("UPDATE labels SET label = 'renamed'")
    plain("INSERT INTO labels (label, session_key, assigned_ms) VALUES ('second', ?, 1)", key)
    plain("DELETE FROM labels WHERE label = 'renamed'")
    plain("DELETE FROM sessions WHERE key = ?", key)

    assert events(plain) == [
        ("created", other, None, "active", None, None, None, 0),
        ("status_changed", key, "active", "error", "why", None, None, 2),
        ("end_changed", key, "error", "error", "because", None, None, 2),
        ("label_moved", other, None, None, None, "research", key, None),
        ("label_removed", other, None, None, None, "research", None, None),
        ("label_assigned", other, None, None, None, "renamed", None, None),
        ("label_assigned", key, None, None, None, "second", None, None),
        ("label_removed", other, None, None, None, "renamed", None, None),
        ("deleted", key, "error", None, "because", None, None, 2),
        ("label_removed", key, None, None, None, "second", None, None),
    ]


def test_session_keeps_its_identity(plain: PlainClient, key: str) -> None:
    before = plain("SELECT * FROM sessions")
    for change in (
        "key = 'agent:main:subagent:other'",
        "agent_id = 'other'",
        "kind = 'cron'",
        "run_id = 'other'",
        "parent_key = 'agent:other:main'",
        "forked_at_seq = -1",
        "created_ms = created_ms + 1",
    ):
        with pytest.raises(REFUSAL, match="sessions_identity"):
            plain(f"UPDATE sessions SET {change} WHERE key = ?", key)

    plain("UPDATE sessions SET key = key, parent_key = parent_key")
    assert plain("SELECT * FROM sessions") == before


@pytest.mark.usefixtures("key")
def test_recent_events_can_be_neither_changed_nor_deleted(plain: PlainClient) -> None:
    before = plain("SELECT * FROM session_events")
    statements = ["UPDATE session_events SET actor = 'x'", "DELETE FROM session_events"]
    if plain.backend == "postgresql":
        statements.append("TRUNCATE session_events")
    else:
        statements.append(
            "INSERT OR REPLACE INTO session_events (id, at_ms, event, session_key) VALUES (1, 1, 'deleted', 'x')"
        )
        statements.append("INSERT INTO session_events (id, at_ms, event, session_key) VALUES (-1, 1, 'deleted', 'x')")
    for statement in statements:
        with pytest.raises(REFUSAL, match="session_events"):
            plain(statement)

    assert len(before) == 2
    assert plain("SELECT * FROM session_events") == before


def test_events_older_than_180_days_may_be_deleted(plain: PlainClient) -> None:
    now_ms = time.time_ns() // 1_000_000
    for age_days in (181, 179):
        plain(
            "INSERT INTO session_events (at_ms, event, session_key) VALUES (?, 'deleted', 'agent:a:main')",
            now_ms - age_days * 86_400_000,
        )

    plain("DELETE FROM session_events WHERE id = 1")
    with pytest.raises(REFUSAL, match="session_events_delete"):
        plain("DELETE FROM session_events WHERE id = 2")
    with pytest.raises(REFUSAL, match="session_events_update"):
        plain("UPDATE session_events SET at_ms = 1")


def test_id_of_a_deleted_event_is_not_reused(plain: PlainClient, manager: SessionManager) -> None:
    plain("INSERT INTO session_events (at_ms, event, session_key) VALUES (1, 'deleted', 'agent:a:main')")
    plain("DELETE FROM session_events")
    manager.get_or_create_main("main")

    assert plain("SELECT id FROM session_events") == [(2,)]


def test_seals_and_digests_can_be_neither_changed_nor_deleted(
    plain: PlainClient, manager: SessionManager, key: str
) -> None:
    manager.send_message(key, "Hello")
    manager.seal_log()
    for table in ("event_digests", "event_seals", "message_digests", "sealed_transcripts"):
        before = plain(f"SELECT * FROM {table}")
        statements = [f"UPDATE {table} SET digest = 'x'", f"DELETE FROM {table}"]
        if plain.backend == "postgresql":
            statements.append(f"TRUNCATE {table}")
        else:
            statements.append(f"INSERT OR REPLACE INTO {table} SELECT * FROM {table}")
        for statement in statements:
            with pytest.raises(REFUSAL, match=table):
                plain(statement)
        assert plain(f"SELECT * FROM {table}") == before


@pytest.mark.parametrize("number", [3, 1000, 2**63 - 1])
@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_event_does_not_bring_its_own_number(plain: PlainClient, manager: SessionManager, number: int) -> None:
    manager.get_or_create_main("a")
    with pytest.raises(REFUSAL, match="session_events_insert"):
        plain("INSERT INTO session_events (id, at_ms, event, session_key) VALUES (?, 1, 'deleted', 'x')", number)
    manager.get_or_create_main("b")

    assert plain("SELECT id FROM session_events") == [(1,), (2,)]


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_sessions_and_labels_cannot_be_truncated_unlogged(plain: PlainClient, key: str) -> None:
    for tables in ("sessions, messages, labels, archived_messages, message_digests", "sessions CASCADE", "labels"):
        with pytest.raises(REFUSAL, match=r"(sessions|labels)_truncate"):
            plain(f"TRUNCATE {tables}")

    assert plain("SELECT key FROM sessions") == [(key,)]


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_session_cannot_be_replaced_unlogged(plain: PlainClient, key: str) -> None:
    with pytest.raises(REFUSAL, match="sessions_unique_insert"):
        plain("INSERT OR REPLACE INTO sessions SELECT * FROM sessions")

    assert plain("SELECT count(*) FROM messages") == [(2,)]
    plain("DELETE FROM sessions")
    insert_session(plain, key=key)
    assert plain("SELECT key FROM sessions") == [(key,)]


def names_of_tables() -> list[str]:
    return [table.name for table in schema.tables_of("sqlite")]


def unique_keys() -> list[tuple[str, str]]:
    """Each unique key of each table, with its columns in a row."""
    found = []
    for table in schema.tables_of("sqlite"):
        unique = [item for item in table.constraints if isinstance(item, PrimaryKeyConstraint | UniqueConstraint)]
        keys = [item.columns for item in unique] + [index.columns for index in table.indexes if index.unique]
        found += [(table.name, " ".join(column.name for column in columns)) for columns in keys]
    # A second event with an id is refused by its own trigger; event_actor is nothing but its key.
    return sorted(set(found) - {("session_events", "id"), ("event_actor", "name"), ("message_removals", "session_key")})


@pytest.fixture
def two_of_everything(manager: SessionManager, plain: PlainClient) -> list[str]:
    """The keys of two sessions, with two rows or more in every table that has a unique key. Their events are gone."""
    keys = [manager.spawn_subagent("main", "Test", name, message_cap=2, archive_trimmed=True) for name in "ab"]
    for key in keys:
        for number in range(4):
            manager.add_message(key, "user", str(number), idempotency_key=str(number))
        manager.seal_log()
        manager.complete_session(key)
    manager.seal_log()
    plain("DROP TRIGGER session_events_delete")
    plain("DELETE FROM session_events")
    return keys


@pytest.mark.parametrize(("table", "unique"), unique_keys())
@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
@pytest.mark.usefixtures("two_of_everything")
def test_no_row_is_replaced_by_an_insert(plain: PlainClient, table: str, unique: str) -> None:
    columns = [str(name) for (name,) in plain(f"SELECT name FROM pragma_table_info('{table}')")]
    before = {name: plain(f"SELECT * FROM {name}") for name in names_of_tables()}
    changed = {"sessions": {"key": "substr(key, 1, 20) || 'new'", "run_id": "'new'"}}.get(table, {})
    if table == "messages":
        changed = {"seq": "(SELECT last_seq + 1 FROM sessions WHERE key = session_key)", "idempotency_key": "'new'"}
    if table == "event_seals":
        changed = {"id": "100", "previous_digest": "'new'"}
    values = [name if name in unique.split() else changed.get(name, name) for name in columns]

    named = ", ".join(f"{table}.{name}" for name in unique.split())
    refusal = (
        "messages_append" if named == "messages.session_key, messages.seq" else f"{table}_unique_insert: .*{named}"
    )
    with pytest.raises(sqlite3.IntegrityError, match=refusal):
        plain(f"INSERT OR REPLACE INTO {table} SELECT {', '.join(values)} FROM {table} LIMIT 1")
    assert {name: plain(f"SELECT * FROM {name}") for name in names_of_tables()} == before


@pytest.mark.parametrize(
    ("table", "change"),
    [
        ("sessions", "key = (SELECT max(key) FROM sessions)"),
        ("sessions", "run_id = (SELECT max(run_id) FROM sessions)"),
        ("messages", "seq = 4"),
        ("messages", "idempotency_key = '3'"),
        ("labels", "label = 'b'"),
        ("archived_messages", "seq = 2"),
        ("event_digests", "event_id = 2"),
        ("event_seals", "id = 2"),
        ("event_seals", "previous_digest = (SELECT max(previous_digest) FROM event_seals)"),
    ],
)
@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
@pytest.mark.usefixtures("two_of_everything")
def test_no_row_is_replaced_by_an_update(plain: PlainClient, table: str, change: str) -> None:
    before = {name: plain(f"SELECT * FROM {name}") for name in names_of_tables()}

    with pytest.raises(sqlite3.IntegrityError, match=table):
        plain(f"UPDATE OR REPLACE {table} SET {change}")
    assert {name: plain(f"SELECT * FROM {name}") for name in names_of_tables()} == before


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_session_that_was_deleted_is_made_again_when_only_the_deletion_has_expired(
    manager: SessionManager, plain: PlainClient
) -> None:
    key = manager.get_or_create_main("main").key
    manager.delete_session(key)
    plain("DROP TRIGGER session_events_delete")
    plain("DELETE FROM session_events WHERE event = 'deleted'")

    assert manager.get_or_create_main("main").key == key


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_log_is_written_whatever_the_clients_search_path(plain: PlainClient, key: str) -> None:
    plain("CREATE TEMPORARY TABLE session_events (id BIGINT)")
    plain("SET search_path = ''")
    plain("DELETE FROM public.sessions WHERE key = ?", key)

    assert plain("SELECT event FROM public.session_events ORDER BY id DESC LIMIT 2") == [
        ("label_removed",),
        ("deleted",),
    ]


@pytest.mark.usefixtures("key")
def test_archive_trimmed_is_0_or_1(plain: PlainClient) -> None:
    with pytest.raises(REFUSAL, match="ck_sessions_archive_trimmed"):
        plain("UPDATE sessions SET archive_trimmed = 2")


def test_lineage_lists_every_session_once_even_in_a_cycle(plain: PlainClient, manager: SessionManager) -> None:
    cycle = insert_cycle(plain)
    below = manager.spawn_subagent("main", "Test", parent_key=cycle[0])
    root = manager.get_or_create_main("main").key
    child = manager.spawn_subagent("main", "Test", parent_key=root)
    gone = manager.spawn_subagent("main", "Test", parent_key=child)
    orphan = manager.spawn_subagent("main", "Test", parent_key=gone)
    manager.delete_session(gone)

    rows = {row[0]: row[1:] for row in plain("SELECT session_key, root_key, depth, path FROM audit_lineage")}
    assert len(rows) == 7
    assert {key: rows[key] for key in [*cycle, below]} == dict.fromkeys([*cycle, below], (None, None, None))
    assert rows[root] == (root, 0, root)
    assert rows[child] == (root, 1, f"{root} > {child}")
    assert rows[orphan] == (orphan, 0, orphan)

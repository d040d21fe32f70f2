"""What somebody can do to messages, digests and seals, and what `verify_log` says of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from sessions_db import NewMessage, SessionManager, Verdict, doctor
from sessions_db.transfer import export_lines, import_lines
from sessions_db.validation import JsonValue
from tests.support.both import both_databases
from tests.support.client import PlainClient
from tests.support.databases import PostgresDatabases, SQLiteDatabases
from tests.support.locks import wait_for_lock
from tests.support.threads import run_together

A, B = "agent:a:main", "agent:b:main"


@pytest.fixture
def owner(url: str) -> Iterator[PlainClient]:
    """A client whom no trigger stops."""
    client = PlainClient(url)
    if client.backend == "postgresql":
        client("SET session_replication_role = replica")
    else:
        for (name,) in client("SELECT name FROM sqlite_master WHERE type = 'trigger'"):
            client(f"DROP TRIGGER {name}")
    yield client
    client.close()


def say(manager: SessionManager, key: str, *numbers: int) -> None:
    metadata: dict[str, JsonValue] = {"z": 1.50, "a": "é"}
    for number in numbers:
        manager.add_message(key, "tool", f"said {number}", tool_name="search", metadata=metadata)


@pytest.fixture
def seals(manager: SessionManager, plain: PlainClient) -> list[str]:
    """Two seals. A has archived 1 to 3 and retains 4 to 7; B had trimmed 1 and 2 before the first, and 3 since."""
    for agent_id, cap, archives in (("a", 4, 1), ("b", 3, 0)):
        key = manager.get_or_create_main(agent_id).key
        plain("UPDATE sessions SET message_cap = ?, archive_trimmed = ? WHERE key = ?", cap, archives, key)
    digests = []
    for of_a, of_b in (((1, 2, 3, 4, 5, 6), (1, 2, 3, 4, 5)), ((7,), (6,))):
        say(manager, A, *of_a)
        say(manager, B, *of_b)
        seal = manager.seal_log()
        assert seal is not None
        digests.append(seal.digest)
    return digests


def place(verdict: Verdict) -> tuple[str | None, int | None, str | None]:
    return verdict.session_key, verdict.seq, verdict.fault


def test_untouched_messages_are_verified(manager: SessionManager, seals: list[str]) -> None:
    verdict = manager.verify_log(expect=seals[1])
    assert verdict.fault is None
    counted = verdict.messages_verified, verdict.messages_gone, verdict.messages_unsealed
    assert counted == (7 + 3, 1, 0)

    since = manager.verify_log(expect=seals[1], since=seals[0])
    assert (since.fault, since.messages_verified) == (None, 2)


COLUMNS = "session_key, seq, role, content, tool_name, metadata, timestamp_ms, idempotency_key"
OF_A = f"session_key = '{A}'"
CHANGED = "was changed"
MARK = """tool_name = '[redacted]', metadata = '{"redacted": "asked for"}'"""
MISSING = "is missing, and the log has no removal"
NOT_OVER = "transcript 1 is not over the digests that are there for it"

# What is done, and the place and the fault that are told; all of it is about the first seal.
TAMPERING = {
    "content": (f"UPDATE messages SET content = 'x' WHERE {OF_A} AND seq = 5", A, 5, CHANGED),
    "role": (f"UPDATE messages SET role = 'user' WHERE {OF_A} AND seq = 5", A, 5, CHANGED),
    "tool name": (f"UPDATE messages SET tool_name = NULL WHERE {OF_A} AND seq = 5", A, 5, CHANGED),
    "metadata": (f"UPDATE messages SET metadata = '{{}}' WHERE {OF_A} AND seq = 5", A, 5, CHANGED),
    "order of keys": (
        f"""UPDATE messages SET metadata = '{{"a": "é", "z": 1.5}}' WHERE {OF_A} AND seq = 5""",
        A,
        5,
        CHANGED,
    ),
    "time": (f"UPDATE messages SET timestamp_ms = 1 WHERE {OF_A} AND seq = 5", A, 5, CHANGED),
    "idempotency key": (f"UPDATE messages SET idempotency_key = 'k' WHERE {OF_A} AND seq = 5", A, 5, CHANGED),
    "archived": (f"UPDATE archived_messages SET content = 'x' WHERE {OF_A} AND seq = 2", A, 2, CHANGED),
    "looks redacted": (
        f"UPDATE messages SET content = '[redacted]', {MARK} WHERE {OF_A} AND seq = 5",
        A,
        5,
        CHANGED,
    ),
    "deleted": (f"DELETE FROM messages WHERE {OF_A} AND seq = 5", A, 5, MISSING),
    "deleted from the archive": (f"DELETE FROM archived_messages WHERE {OF_A} AND seq = 1", A, 1, MISSING),
    "cap raised": (
        f"UPDATE sessions SET message_cap = 9 WHERE {OF_A.replace('session_key', 'key')}",
        A,
        1,
        "is in the archive before its time",
    ),
    "slipped in": (
        f"INSERT INTO messages (session_key, seq, role, content, timestamp_ms) VALUES ('{B}', 2, 'user', 'x', 1)",
        B,
        2,
        "was slipped in after its time",
    ),
    "slipped in before the first": (
        (
            f"INSERT INTO archived_messages ({COLUMNS}, archived_ms)"
            f" SELECT session_key, 0, role, 'x', tool_name, metadata, 1, NULL, 1 FROM messages WHERE {OF_A} AND seq = 4"
        ),
        A,
        0,
        "has a number that is never given",
    ),
    "renumbered": (f"UPDATE messages SET seq = 60 WHERE {OF_A} AND seq = 5", A, 5, MISSING),
    "exchanged": (
        (
            f"UPDATE messages SET seq = 60 WHERE {OF_A} AND seq = 5; "
            f"UPDATE messages SET seq = 5 WHERE {OF_A} AND seq = 4; "
            f"UPDATE messages SET seq = 4 WHERE {OF_A} AND seq = 60"
        ),
        A,
        4,
        CHANGED,
    ),
    "moved to another session": (
        f"UPDATE messages SET session_key = '{B}', seq = 2 WHERE {OF_A} AND seq = 5",
        A,
        5,
        MISSING,
    ),
    "moved to the archive": (
        (
            f"INSERT INTO archived_messages ({COLUMNS}, archived_ms) SELECT {COLUMNS}, 1 FROM messages"
            f" WHERE {OF_A} AND seq = 4; DELETE FROM messages WHERE {OF_A} AND seq = 4"
        ),
        A,
        4,
        "is in the archive before its time",
    ),
    "moved out of the archive": (
        (
            f"INSERT INTO messages ({COLUMNS}) SELECT {COLUMNS} FROM archived_messages"
            f" WHERE {OF_A} AND seq = 3; DELETE FROM archived_messages WHERE {OF_A} AND seq = 3"
        ),
        A,
        3,
        "is in the session, which has trimmed it",
    ),
    "in both": (
        f"INSERT INTO messages ({COLUMNS}) SELECT {COLUMNS} FROM archived_messages WHERE {OF_A} AND seq = 3",
        A,
        3,
        "is there more than once",
    ),
    "digest changed": (f"UPDATE message_digests SET digest = '00' WHERE {OF_A} AND seq = 5", A, 1, NOT_OVER),
    "digest removed": (f"DELETE FROM message_digests WHERE {OF_A} AND seq = 6", A, 1, NOT_OVER),
    "digests of another session": (
        f"UPDATE message_digests SET transcript = 2 WHERE {OF_A} AND seq = 6",
        A,
        1,
        NOT_OVER,
    ),
    "transcript changed": (
        f"UPDATE sealed_transcripts SET after_seq = 1 WHERE {OF_A} AND number = 1",
        A,
        1,
        "transcript 1 was changed",
    ),
    "transcript removed": (
        f"DELETE FROM sealed_transcripts WHERE {OF_A} AND number = 1; DELETE FROM message_digests WHERE {OF_A}",
        None,
        None,
        "seal 1 is not over the transcripts that are there for it",
    ),
    "session removed": (
        (
            f"DELETE FROM messages WHERE {OF_A}; DELETE FROM archived_messages WHERE {OF_A}; "
            f"DELETE FROM message_digests WHERE {OF_A}; DELETE FROM sessions WHERE key = '{A}'"
        ),
        A,
        None,
        "was removed, or its digests were, and the log has no deletion",
    ),
    "digest added": (
        f"INSERT INTO message_digests (session_key, seq, transcript, digest) VALUES ('{B}', 900, 2, '00')",
        B,
        900,
        "has a digest that no transcript covers",
    ),
    "transcript added": (
        (
            "INSERT INTO sealed_transcripts SELECT session_key, 9, 9, after_seq, first_seq, last_seq, message_count,"
            f" previous_digest, messages_digest, digest FROM sealed_transcripts WHERE {OF_A} AND number = 1"
        ),
        A,
        None,
        "has a transcript that no seal covers",
    ),
}


@pytest.mark.parametrize("name", TAMPERING)
def test_tampering_is_told(manager: SessionManager, seals: list[str], owner: PlainClient, name: str) -> None:
    statements, *expected = TAMPERING[name]
    for statement in statements.split("; "):
        owner(statement)

    assert [*place(manager.verify_log())] == expected
    assert [*place(manager.verify_log(expect=seals[1]))] == expected


def test_what_the_second_seal_covers_is_told_since_the_first(
    manager: SessionManager, seals: list[str], owner: PlainClient
) -> None:
    owner(f"UPDATE messages SET content = 'x' WHERE {OF_A} AND seq = 7")

    assert place(manager.verify_log(expect=seals[1], since=seals[0])) == (A, 7, CHANGED)


def test_what_the_first_seal_covers_is_not_looked_at_since_it(
    manager: SessionManager, seals: list[str], owner: PlainClient
) -> None:
    owner(f"UPDATE messages SET content = 'x' WHERE {OF_A} AND seq = 5")

    assert manager.verify_log(expect=seals[1], since=seals[0]).fault is None
    assert place(manager.verify_log(expect=seals[1])) == (A, 5, CHANGED)


def test_newest_messages_written_anew_under_the_same_numbers_are_told(
    manager: SessionManager, seals: list[str], owner: PlainClient
) -> None:
    owner(f"DELETE FROM messages WHERE {OF_A} AND seq = 7")
    owner(
        f"INSERT INTO messages ({COLUMNS}) SELECT session_key, 7, role, 'said 70', tool_name, metadata, timestamp_ms,"
        f" idempotency_key FROM messages WHERE {OF_A} AND seq = 6"
    )

    assert place(manager.verify_log(expect=seals[1])) == (A, 7, CHANGED)


@pytest.mark.parametrize("everything", [False, True])
def test_digests_and_seals_made_anew_do_not_match_the_expected_digest(
    manager: SessionManager, seals: list[str], owner: PlainClient, everything: bool
) -> None:
    owner(f"UPDATE messages SET content = 'x' WHERE {OF_A} AND seq = 5")
    for table in ("message_digests", "sealed_transcripts", *(("event_digests", "event_seals") if everything else ())):
        owner(f"DELETE FROM {table}")
    owner("UPDATE sessions SET unsealed = 1")
    manager.seal_log()

    assert (manager.verify_log().fault is None) == everything
    assert manager.verify_log(expect=seals[1]).fault is not None


def test_database_restored_from_before_the_expected_seal_is_told(
    manager: SessionManager, seals: list[str], owner: PlainClient
) -> None:
    for statement in (
        "DELETE FROM event_seals WHERE id = 2",
        "DELETE FROM sealed_transcripts WHERE seal_id = 2",
        "DELETE FROM message_digests WHERE transcript = 2",
        "UPDATE sessions SET unsealed = 1, last_seq = last_seq - 1",
        f"DELETE FROM messages WHERE {OF_A} AND seq = 7",
        "DELETE FROM messages WHERE session_key = 'agent:b:main' AND seq = 6",
        f"INSERT INTO messages ({COLUMNS}) SELECT {COLUMNS} FROM archived_messages WHERE {OF_A} AND seq = 3",
        f"DELETE FROM archived_messages WHERE {OF_A} AND seq = 3",
    ):
        owner(statement)

    assert manager.verify_log(expect=seals[1]).fault == f"no seal has the digest {seals[1]}"


def test_message_that_changed_before_it_was_sealed_is_not_told(manager: SessionManager, plain: PlainClient) -> None:
    key = manager.get_or_create_main("a").key
    say(manager, key, 1, 2)
    if plain.backend == "postgresql":
        plain("SET session_replication_role = replica")
    plain("DELETE FROM messages WHERE seq = 1")
    manager.seal_log()

    verdict = manager.verify_log()
    assert (verdict.fault, verdict.messages_verified) == (None, 1)


# What may happen to sealed messages


LOGGING = {
    "sqlite": "SELECT name FROM sqlite_master WHERE type = 'trigger' AND name LIKE 'sessions_log%'",
    "postgresql": "SELECT tgname FROM pg_trigger WHERE tgname LIKE 'sessions_log%'",
}


def test_trim_archive_deletion_and_new_life_of_a_session_are_no_fault(
    manager: SessionManager, seals: list[str], plain: PlainClient
) -> None:
    say(manager, A, *range(8, 30))
    say(manager, B, *range(7, 20))
    manager.delete_session(B)
    manager.get_or_create_main("b")
    say(manager, B, 1, 2)
    last = manager.seal_log()
    assert last is not None

    verdict = manager.verify_log(expect=last.digest)
    assert (verdict.fault, verdict.messages_unsealed) == (None, 0)
    assert (verdict.messages_verified, verdict.messages_gone) == (29 + 2, 4)
    assert manager.verify_log(expect=last.digest, since=seals[1]).fault is None
    numbers = plain("SELECT number FROM audit_transcripts WHERE session_key = ? ORDER BY number", B)
    assert numbers == [(1,), (2,), (3,)]


def test_removal_and_redaction_are_no_fault(
    manager: SessionManager, seals: list[str], plain: PlainClient, request: pytest.FixtureRequest
) -> None:
    plain(f"DELETE FROM messages WHERE {OF_A} AND seq IN (5, 6)")
    manager.redact_message(A, 4, reason="asked for")
    manager.pop_messages(B)

    verdict = manager.verify_log(expect=seals[1])
    assert (verdict.fault, verdict.messages_redacted) == (None, 1)
    assert verdict.messages_gone >= 3

    owner: PlainClient = request.getfixturevalue("owner")
    owner(f"UPDATE messages SET content = 'another text' WHERE {OF_A} AND seq = 4")
    assert place(manager.verify_log(expect=seals[1])) == (A, 4, CHANGED)


@pytest.mark.usefixtures("seals")
def test_removal_from_an_earlier_session_of_the_key_explains_nothing(
    manager: SessionManager, url: str, request: pytest.FixtureRequest
) -> None:
    manager.pop_messages(A, 3)
    manager.delete_session(A)
    manager.get_or_create_main("a")
    say(manager, A, *range(1, 8))
    seal = manager.seal_log()
    assert seal is not None
    assert manager.verify_log(expect=seal.digest).fault is None

    owner: PlainClient = request.getfixturevalue("owner")
    owner(f"DELETE FROM messages WHERE {OF_A} AND seq = 6")
    assert place(manager.verify_log(expect=seal.digest)) == (A, 6, MISSING)
    (gaps,) = [finding.detail for finding in doctor.examine(url) if finding.check == "gaps"]
    assert gaps == f"1 messages are gone and the log does not say why, number 6 of {A} for one"


def test_deletion_is_told_unless_the_log_has_it_or_had_it_before_it_expired(
    manager: SessionManager, plain: PlainClient
) -> None:
    # The log is written by hand: all of it was long ago.
    old_event = "INSERT INTO session_events (at_ms, event, session_key) VALUES (1, ?, ?)"
    logging = [row[0] for row in plain(LOGGING[plain.backend])]
    for name in logging:
        plain(f"DROP TRIGGER {name}" if plain.backend == "sqlite" else f"ALTER TABLE sessions DISABLE TRIGGER {name}")
    key = manager.get_or_create_main("a").key
    say(manager, key, 1)
    plain(old_event, "created", key)
    manager.seal_log()
    manager.delete_session(key)
    if plain.backend == "postgresql":
        plain("ALTER TABLE sessions ENABLE TRIGGER USER")

    deletion = "was removed, or its digests were, and the log has no deletion"
    assert place(manager.verify_log()) == (key, None, deletion)
    plain(old_event, "deleted", key)
    assert manager.verify_log().fault is None
    manager.seal_log()
    plain("DELETE FROM session_events")
    verdict = manager.verify_log()
    assert (verdict.fault, verdict.expired, verdict.messages_gone) == (None, 2, 1)


# How messages are sealed


def test_seal_that_was_interrupted_is_continued(
    manager: SessionManager, plain: PlainClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = manager.get_or_create_main("a").key
    manager.add_messages(key, [NewMessage("user", str(number)) for number in range(50)])
    with monkeypatch.context() as interrupted:
        interrupted.setattr("sessions_db.operations.sealing.seal", None)
        with pytest.raises(AttributeError):
            manager.seal_log()
    assert plain("SELECT count(*) FROM message_digests") == [(50,)]
    assert manager.verify_log().messages_unsealed == 50
    say(manager, key, 51)
    seal = manager.seal_log()

    assert seal is not None
    verdict = manager.verify_log(expect=seal.digest)
    assert (verdict.fault, verdict.messages_verified, verdict.messages_unsealed) == (None, 51, 0)


def test_many_sessions_and_many_messages_are_sealed_in_pages(manager: SessionManager, plain: PlainClient) -> None:
    with manager.transaction() as tx:
        for size in (2100, *([12] * 230), 0):
            key = tx.spawn_cron("a", "Test", message_cap=3000)
            tx.add_messages(key, [NewMessage("user", str(number)) for number in range(size)])
    seal = manager.seal_log()
    assert seal is not None
    assert seal.transcript_count == 3 + 230

    verdict = manager.verify_log(expect=seal.digest)
    assert (verdict.fault, verdict.messages_verified) == (None, 2100 + 230 * 12)
    assert plain("SELECT count(*) FROM sessions WHERE unsealed = 1") == [(0,)]


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_session_that_somebody_holds_is_sealed_last(
    manager: SessionManager, plain: PlainClient, seals: list[str]
) -> None:
    say(manager, A, 8)
    say(manager, B, 7)
    plain("BEGIN")
    plain("SELECT 1 FROM sessions WHERE key = ? FOR UPDATE", A)
    sealing = threading.Thread(target=manager.seal_log)
    sealing.start()
    wait_for_lock(plain)

    assert len(plain("SELECT 1 FROM message_digests WHERE session_key = ?", B)) == 5
    plain("COMMIT")
    sealing.join()
    verdict = manager.verify_log(since=seals[1])
    assert (verdict.fault, verdict.messages_verified, verdict.messages_unsealed) == (None, 2, 0)


def test_appends_and_seals_at_the_same_time_leave_nothing_out(manager: SessionManager) -> None:
    keys = [manager.get_or_create_main(name).key for name in "abc"]

    def work(key: str) -> None:
        for number in range(30):
            say(manager, key, number)

    def seal() -> None:
        for _ in range(10):
            manager.seal_log()

    run_together([*(threading.Thread(target=work, args=(key,)) for key in keys), threading.Thread(target=seal)])
    manager.seal_log()

    verdict = manager.verify_log()
    assert (verdict.fault, verdict.messages_verified, verdict.messages_unsealed) == (None, 90, 0)


def test_equal_transcripts_have_equal_digests_on_both_databases_and_after_an_import(
    sqlite_databases: SQLiteDatabases, postgres_databases: PostgresDatabases
) -> None:
    with both_databases(sqlite_databases, postgres_databases) as both:
        source, target = both.managers.values()
        key = source.spawn_subagent("main", "Test", message_cap=3, archive_trimmed=True)
        texts = ["plain", "ünïcode \U0001f600", 'quoted " \\ \n', "/ \u2028 \x7f", "<&>"]
        metadata: list[dict[str, JsonValue] | None] = [
            None,
            {},
            {"z": 1, "a": [1.0, 1e22, True, None]},
            {"é": "\u0001"},
            {"n": 10**30},
        ]
        for text, of_message in zip(texts, metadata, strict=True):
            source.add_message(key, "tool", text, tool_name="t", metadata=of_message, idempotency_key=f"k {text[:5]!r}")
        with export_lines(source, keys=[key]) as export:
            lines = [*export.lines]
        assert [line.reason for line in import_lines(target, None, lines)] == [None]
        for manager in both.managers.values():
            manager.seal_log()

        query = f"SELECT seq, digest FROM message_digests WHERE session_key = '{key}' ORDER BY seq"
        of_source, of_target = (client(query) for client in both.clients.values())
        assert len(of_source) == 5
        assert of_source == of_target
        query = f"SELECT messages_digest FROM sealed_transcripts WHERE session_key = '{key}'"
        of_source, of_target = (client(query) for client in both.clients.values())
        assert of_source == of_target

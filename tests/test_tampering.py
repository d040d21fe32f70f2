"""What somebody can do to messages, digests and seals, and what `verify_log` says of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sessions_db import InvalidInput, NewMessage, SessionManager, Verdict
from sessions_db.transfer import export_lines, import_lines
from tests.support.both import both_databases
from tests.support.client import PlainClient
from tests.support.databases import PostgresDatabases, SQLiteDatabases

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
    metadata = {"z": 1.50, "a": "é"}
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
        f"UPDATE messages SET content = '[redacted]', tool_name = NULL, metadata = NULL WHERE {OF_A} AND seq = 5",
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
    "renumbered": (f"UPDATE messages SET seq = 60 WHERE {OF_A} AND seq = 5", A, 5, MISSING),
    "exchanged": (
        f"UPDATE messages SET seq = 60 WHERE {OF_A} AND seq = 5; UPDATE messages SET seq = 5 WHERE {OF_A} AND seq = 4; "
        f"UPDATE messages SET seq = 4 WHERE {OF_A} AND seq = 60",
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
        f"INSERT INTO archived_messages ({COLUMNS}, archived_ms) SELECT {COLUMNS}, 1 FROM messages"
        f" WHERE {OF_A} AND seq = 4; DELETE FROM messages WHERE {OF_A} AND seq = 4",
        A,
        4,
        "is in the archive before its time",
    ),
    "moved out of the archive": (
        f"INSERT INTO messages ({COLUMNS}) SELECT {COLUMNS} FROM archived_messages"
        f" WHERE {OF_A} AND seq = 3; DELETE FROM archived_messages WHERE {OF_A} AND seq = 3",
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
        f"DELETE FROM messages WHERE {OF_A}; DELETE FROM archived_messages WHERE {OF_A}; "
        f"DELETE FROM message_digests WHERE {OF_A}; DELETE FROM sessions WHERE key = '{A}'",
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
        "INSERT INTO sealed_transcripts SELECT session_key, 9, 9, after_seq, first_seq, last_seq, message_count,"
        f" previous_digest, messages_digest, digest FROM sealed_transcripts WHERE {OF_A} AND number = 1",
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

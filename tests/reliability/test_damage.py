"""Databases that were damaged: files with bytes that SQLite did not write, schemas with something missing.

What can still be read is read; everything else is a documented error, one line on the command line, and nothing is made
worse.
"""

from __future__ import annotations

import random
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import Table

from sessions_db import (
    DatabaseUnavailable,
    NewMessage,
    SchemaMismatch,
    SessionManager,
    SessionNotFound,
    SessionsError,
    WriteUndone,
)
from sessions_db.schema import TRIGGERS, labels, messages, sessions
from tests.support.client import PlainClient
from tests.support.clock import at, ms
from tests.support.commands import run
from tests.support.examples import FACTOR, note

MAIN = "agent:main:main"


def fill(manager: SessionManager, sessions: int = 4) -> None:
    """Sessions of each kind with messages."""
    manager.get_or_create_main("main")
    manager.reopen_session(MAIN)
    for number in range(sessions):
        key = manager.spawn_subagent("main", "Test " * 20, f"label {number}", MAIN, metadata={"a": [number, "x" * 50]})
        manager.add_messages(
            key,
            [NewMessage("assistant", "text " * 40, "tool", {"id": n, "b": {"c": "ü"}}, f"key {n}") for n in range(20)],
        )
        if number % 2:
            manager.stop_session(key, "because")
    manager.send_message(MAIN, "Hello")


def now_ms() -> int:
    return time.time_ns() // 1_000_000


READS: dict[str, Callable[[SessionManager], object]] = {
    "list": lambda m: [session.to_dict() for session in m.list(limit=1000, message_limit=1000)],
    "filtered": lambda m: m.list(["subagent"], True, 5, agent_id="main", parent_key=MAIN, active_within_ms=10**12),
    "get": lambda m: [m.get(session.key) for session in m.list(limit=1000)],
    "get_by_label": lambda m: m.get_by_label("label 3"),
    "children": lambda m: m.children(MAIN),
    "find_keys": lambda m: m.find_keys("main"),
    "search": lambda m: m.search("a", limit=1000),
    "descendants": lambda m: m.descendants(MAIN),
    "history": lambda m: [m.history(session.key, include_tools=True) for session in m.list(limit=1000)],
    "dry prune": lambda m: m.prune(before=at(now_ms()), dry_run=True),
}
WRITES: dict[str, Callable[[SessionManager], object]] = {
    "main": lambda m: m.get_or_create_main("main"),
    "new main": lambda m: m.get_or_create_main("other"),
    "spawn": lambda m: m.spawn_cron("main", "Test", "label 1", MAIN, metadata={"a": 1}, idempotency_key="once"),
    "send": lambda m: m.send_message(MAIN, "Hello"),
    "add": lambda m: m.add_message(MAIN, "tool", "Hello", tool_name="tool", metadata={}, idempotency_key="key 1"),
    "batch": lambda m: m.add_messages(MAIN, [NewMessage("user", "Hello")] * 3),
    "keyed batch": lambda m: m.add_messages(MAIN, [NewMessage("user", "Hello", idempotency_key="key 2")]),
    "end": lambda m: m.error_session(MAIN, "because"),
    "reopen": lambda m: m.reopen_session(MAIN),
    "sweep": lambda m: m.timeout_idle(ms(10**12)),
    "prune": lambda m: m.prune(before=at(now_ms())),
    "delete": lambda m: m.delete_session(MAIN),
}


def use(url: str) -> tuple[dict[str, SessionsError], dict[str, object]]:
    """The errors of each operation, and the results of those that work. Any other error is raised."""
    failed: dict[str, SessionsError] = {}
    done: dict[str, object] = {}
    try:
        with SessionManager(url, retry_budget_s=0.1) as manager:
            for name, operation in {**READS, **WRITES}.items():
                try:
                    done[name] = operation(manager)
                except SessionsError as error:
                    failed[name] = error
    except SessionsError as error:
        failed["open"] = error
    return failed, done


def check_command(url: str, *arguments: str) -> int:
    """The exit code of a command, which must report any error in one line."""
    result = run(*arguments, db=url)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    if result.exit_code:
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr.startswith("Error: ")
        assert result.stderr.count("\n") == 1
        assert len(result.stderr) < 1000
    return result.exit_code


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a file in which nothing is wrong."""
    path = tmp_path_factory.mktemp("sound") / "sound.db"
    with SessionManager(f"sqlite:///{path}") as manager:
        fill(manager, 10)
    return path.read_bytes()


def write(path: Path, content: bytes) -> str:
    for each in path.parent.glob(f"{path.name}*"):
        each.unlink()
    path.write_bytes(content)
    return f"sqlite:///{path}"


def changed(content: bytes, at: int, by: bytes) -> bytes:
    return (content[:at] + by + content[at + len(by) :])[: len(content)]


# SQLite keeps no checksums: what a changed byte does depends on where it is.
KINDS: dict[str, Callable[[bytes, int, random.Random], bytes]] = {
    "bit": lambda content, at, chance: (
        content[:at] + bytes([content[at] ^ 1 << chance.randrange(8)]) + content[at + 1 :]
    ),
    "byte": lambda content, at, chance: content[:at] + bytes([chance.randrange(256)]) + content[at + 1 :],
    "burst": lambda content, at, chance: changed(content, at, chance.randbytes(64)),
    "page": lambda content, at, _: changed(content, at // 4096 * 4096, bytes(4096)),
    "swapped": lambda content, at, _: changed(content, at // 4096 * 4096, content[-4096:]),
}


@pytest.mark.parametrize("number", ["1e999", "9" * 5000], ids=["infinite", "too long"])
def test_number_in_metadata_that_only_sql_can_store_is_refused_where_it_would_be_stored_again(
    url: str, plain: PlainClient, number: str
) -> None:
    with SessionManager(url) as manager:
        key = manager.get_or_create_main("main").key
        plain("UPDATE sessions SET metadata = ?", f'{{"a": {number}}}')

        with pytest.raises(SessionsError):
            manager.update_session(key, metadata={"b": 1})
        with pytest.raises(SessionsError):
            manager.fork_session(key, 0)
        assert manager.update_session(key, metadata={"b": 1}, replace_metadata=True).metadata == {"b": 1}


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_damaged_metadata_that_begins_with_a_whole_object_is_reported(url: str, plain: PlainClient) -> None:
    with SessionManager(url) as manager:
        key = manager.get_or_create_main("main").key
        manager.add_message(key, "user", "Hello", metadata={"a": 1, "b": 2})
        plain("PRAGMA ignore_check_constraints = 1")
        plain("DROP TRIGGER messages_redacted")
        plain("""UPDATE messages SET metadata = '{"a":1},"b":2}'""")

        with pytest.raises(DatabaseUnavailable, match="the database is damaged"):
            manager.history(key)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_with_changed_bytes_is_read_or_refused(
    sound: bytes, tmp_path: Path, kind: str, request: pytest.FixtureRequest
) -> None:
    chance = random.Random(kind)
    tried, with_errors = 25 * FACTOR, 0
    faults: list[str] = []

    for number in range(tried):
        at = len(sound) * number // tried + chance.randrange(max(1, len(sound) // tried))
        url = write(tmp_path / "damaged.db", KINDS[kind](sound, at, chance))
        try:
            with_errors += bool(use(url)[0])
        except Exception as error:  # noqa: BLE001  # whatever it is, it is reported with the others
            faults.append(f"at {at}: {error!r}"[:300])

    note(request, "files", tried)
    note(request, "with errors", with_errors)
    assert faults == []
    assert with_errors > 0


@pytest.mark.parametrize("command", [("list",), ("show", MAIN), ("history", MAIN), ("upgrade",)], ids=" ".join)
def test_commands_say_in_one_line_what_is_wrong_with_a_file(
    sound: bytes, tmp_path: Path, command: tuple[str, ...]
) -> None:
    chance = random.Random(1)

    codes = []
    for number in range(12):
        at = 100 + (len(sound) - 200) * number // 12
        url = write(tmp_path / "damaged.db", KINDS["burst"](sound, at, chance))
        codes.append(check_command(url, *command))

    assert set(codes) <= {0, 1}
    assert 1 in codes


HOPELESS: dict[str, Callable[[bytes], bytes]] = {
    "cut to a half": lambda content: content[: len(content) // 2],
    "cut within the first page": lambda content: content[:2000],
    "cut within the header": lambda content: content[:50],
    "header zeroed": lambda content: bytes(100) + content[100:],
    "magic gone": lambda content: b"NOTSQLite format" + content[16:],
    "first page gone": lambda content: content[4096:],
    "text": lambda _: b"This is no database. " * 500,
    "JSON Lines": lambda _: b'{"messages": []}\n' * 500,
    "zeros": lambda content: bytes(len(content)),
    "noise": lambda content: random.Random(1).randbytes(len(content)),
}


@pytest.mark.parametrize("damage", HOPELESS)
def test_a_destroyed_file_is_reported_and_left_as_it_is(sound: bytes, tmp_path: Path, damage: str) -> None:
    path = tmp_path / "damaged.db"
    content = HOPELESS[damage](sound)
    url = write(path, content)

    def read() -> None:
        with SessionManager(url, retry_budget_s=0.1) as manager:
            for operation in READS.values():
                operation(manager)

    for _ in range(2):
        with pytest.raises(DatabaseUnavailable):
            read()
    code = check_command(url, "list")

    assert path.read_bytes() == content
    assert code == 1


@pytest.mark.parametrize("suffix", ["-wal", "-shm", "-journal"])
def test_garbage_next_to_the_file_is_ignored(sound: bytes, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "sessions.db"
    url = write(path, sound)
    with SessionManager(url) as manager:
        expected = READS["list"](manager)
    path.with_name(path.name + suffix).write_bytes(random.Random(1).randbytes(40_000))

    failed, done = use(url)

    assert failed == {}
    assert done["list"] == expected


@pytest.mark.parametrize("replaced", [False, True])
def test_a_file_that_is_removed_or_replaced_is_noticed_by_those_who_have_it_open(
    tmp_path: Path, replaced: bool
) -> None:
    path, elsewhere = tmp_path / "sessions.db", tmp_path / "elsewhere.db"
    with SessionManager(f"sqlite:///{path}", poll_interval=0.01) as manager, ThreadPoolExecutor() as pool:
        manager.get_or_create_main("main")
        waits = pool.submit(manager.wait_for_messages, MAIN, 0, timeout=60)
        path.rename(elsewhere)
        if replaced:
            for suffix in ("-wal", "-shm"):
                path.with_name(path.name + suffix).unlink()
            SessionManager(f"sqlite:///{path}").close()

        with pytest.raises(DatabaseUnavailable, match="removed or replaced"):
            waits.result()
        for call in (lambda: manager.send_message(MAIN, "Hello"), manager.list, manager.snapshot().__enter__):
            with pytest.raises(DatabaseUnavailable, match="removed or replaced"):
                call()
        assert path.exists() == replaced
        if not replaced:
            elsewhere.rename(path)
            assert manager.send_message(MAIN, "Hello").seq == 1
    if replaced:
        with SessionManager(f"sqlite:///{path}") as manager:
            assert manager.list() == []


@pytest.mark.parametrize("kind", ["directory", "missing directory", "file as a directory", "/dev/null", "/dev/full"])
def test_a_path_that_is_not_a_file_is_reported(tmp_path: Path, kind: str) -> None:
    (tmp_path / "file").write_text("x")
    paths = {
        "directory": tmp_path,
        "missing directory": tmp_path / "a/b.db",
        "file as a directory": tmp_path / "file/b",
    }
    path = paths.get(kind, Path(kind))
    if kind.startswith("/dev") and not path.exists():
        pytest.skip(f"no {kind} here")

    with pytest.raises(DatabaseUnavailable):
        SessionManager(f"sqlite:///{path}", retry_budget_s=0.1)
    code = check_command(f"sqlite:///{path}", "list")

    assert code == 1
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


# Schemas with something missing


@pytest.fixture
def url(own_url: str) -> str:
    """A database of its own, because the test changes the schema."""
    with SessionManager(own_url) as manager:
        fill(manager)
    return own_url


def rows(plain: PlainClient) -> list[tuple[int]]:
    return [plain(f"SELECT count(*) FROM {table}")[0] for table in ("sessions", "messages", "labels")]


def check_mismatch(url: str) -> dict[str, SessionsError]:
    """Assert that each operation works or fails as documented."""
    failed, _ = use(url)
    assert failed
    assert {type(error) for error in failed.values()} <= {SchemaMismatch, SessionNotFound}
    assert SchemaMismatch in {type(error) for error in failed.values()}
    return failed


@pytest.mark.parametrize("table", ["sessions", "messages", "labels"])
def test_a_dropped_table_is_reported_by_name(url: str, plain: PlainClient, table: str, backend: str) -> None:
    plain(f"DROP TABLE {table}" + (" CASCADE" if backend == "postgresql" else ""))

    failed = check_mismatch(url)

    assert all(table in str(error) for error in failed.values() if isinstance(error, SchemaMismatch))
    if table != "labels":
        assert check_command(url, "show", MAIN) == 1


@pytest.mark.parametrize("table", [sessions, messages, labels], ids=str)
def test_a_missing_column_is_reported_by_name(url: str, plain: PlainClient, table: Table, backend: str) -> None:
    faults: list[str] = []
    of_view = "SELECT sql FROM sqlite_master WHERE tbl_name = 'labelled_sessions' ORDER BY type = 'trigger'"
    view = [sql for (sql,) in plain(of_view)] if backend == "sqlite" else []

    def rename(column: str, name: str) -> None:
        if view:
            # SQLite refuses to rename a column that the trigger of a view names.
            plain("DROP VIEW labelled_sessions")
        plain(f"ALTER TABLE {table} RENAME COLUMN {column} TO {name}")
        for sql in view:
            plain(str(sql))

    for column in table.columns.keys():  # noqa: SIM118  # not a dict
        rename(column, "moved")
        failed, _ = use(url)
        rename("moved", column)

        # A column that triggers name changes their definitions, which are looked at first.
        told = [
            error
            for error in failed.values()
            if isinstance(error, SchemaMismatch) and (column in str(error) or "is changed" in str(error))
        ]
        others = [error for error in failed.values() if not isinstance(error, SchemaMismatch | SessionNotFound)]
        if others or not told:
            faults.append(f"{column}: {others or 'not told'}"[:300])
        with SessionManager(url) as manager:
            fill(manager)

    assert faults == []


@pytest.mark.parametrize("change", ["DROP TABLE sessions_db_version", "DELETE FROM sessions_db_version"])
def test_a_lost_version_is_reported_and_nothing_changed(url: str, plain: PlainClient, change: str) -> None:
    before = rows(plain)
    plain(change)

    failed, done = use(url)

    assert set(failed) == {"open"}
    assert type(failed["open"]) is SchemaMismatch
    assert done == {}
    assert rows(plain) == before
    assert check_command(url, "list") == 1
    assert check_command(url, "upgrade") == 1


@pytest.mark.parametrize(
    "version", ["", "9999", "'; DROP TABLE sessions; --", "%s", "head", "base", "heads", "-1", "+1"]
)
def test_an_invalid_version_is_reported(url: str, plain: PlainClient, version: str) -> None:
    before = rows(plain)
    plain("UPDATE sessions_db_version SET version_num = ?", version)

    faults: list[str] = []
    for migrate in (False, True):
        try:
            SessionManager(url, migrate=migrate).close()
            faults.append("opened")
        except SchemaMismatch:
            pass
        except Exception as error:  # noqa: BLE001  # whatever it is, it is reported
            faults.append(repr(error))

    assert faults == []
    assert rows(plain) == before


def drop_trigger(plain: PlainClient, trigger: str) -> str:
    """What makes it again."""
    if plain.backend == "sqlite":
        [(definition,)] = plain("SELECT sql FROM sqlite_master WHERE type = 'trigger' AND name = ?", trigger)
        plain(f"DROP TRIGGER {trigger}")
    else:
        query = "SELECT tgrelid::regclass::text, pg_get_triggerdef(oid) FROM pg_trigger WHERE tgname = ?"
        [(table, definition)] = plain(query, trigger)
        plain(f"DROP TRIGGER {trigger} ON {table}")
    return str(definition)


def test_a_dropped_trigger_is_reported_on_opening(url: str, plain: PlainClient, subtests: pytest.Subtests) -> None:
    for trigger in TRIGGERS[plain.backend]:
        with subtests.test(trigger):
            definition = drop_trigger(plain, trigger)

            with pytest.raises(SchemaMismatch, match=trigger):
                SessionManager(url).close()

            assert check_command(url, "upgrade") == 1
            # Reading still works, for example to verify the log.
            assert check_command(url, "list") == 0
            plain(definition)
    SessionManager(url).close()


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_a_disabled_trigger_is_reported_on_opening(url: str, plain: PlainClient) -> None:
    plain("ALTER TABLE messages DISABLE TRIGGER messages_append")

    with pytest.raises(SchemaMismatch, match="messages_append"):
        SessionManager(url).close()


@pytest.mark.parametrize(
    "append",
    [
        lambda m: m.send_message(MAIN, "Hello"),
        lambda m: m.add_message(MAIN, "user", "Hello", idempotency_key="once"),
        lambda m: m.add_messages(MAIN, [NewMessage("user", "Hello")] * 2),
        lambda m: m.add_messages(MAIN, [NewMessage("user", "Hello", idempotency_key=key) for key in "ab"]),
    ],
    ids=["send", "keyed", "batch", "keyed batch"],
)
def test_appends_after_a_trigger_was_dropped_under_an_open_manager_are_refused_from_the_second_on(
    url: str, plain: PlainClient, append: Callable[[SessionManager], object]
) -> None:
    with SessionManager(url, retry_budget_s=0.1) as manager:
        drop_trigger(plain, "messages_append")
        append(manager)

        with pytest.raises(SchemaMismatch, match="messages_append"):
            manager.add_messages(MAIN, [NewMessage("user", "Hello")] * 2)
        with pytest.raises(SchemaMismatch, match="messages_append"):
            manager.send_message(MAIN, "Hello")


def test_prune_stops_if_a_foreign_trigger_keeps_the_sessions(url: str, plain: PlainClient) -> None:
    if plain.backend == "sqlite":
        plain("CREATE TRIGGER theirs BEFORE DELETE ON sessions BEGIN SELECT RAISE(IGNORE); END")
        away = "DROP TRIGGER theirs"
    else:
        plain("CREATE FUNCTION theirs() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'")
        plain("CREATE TRIGGER theirs BEFORE DELETE ON sessions FOR EACH ROW EXECUTE FUNCTION theirs()")
        away = "DROP TRIGGER theirs ON sessions"
    told: list[SessionsError] = []

    def prune(manager: SessionManager) -> None:
        try:
            manager.prune(before=at(now_ms()))
        except SessionsError as error:
            told.append(error)

    with SessionManager(url) as manager:
        thread = threading.Thread(target=prune, args=[manager])
        thread.start()
        thread.join(20)
        went_on = thread.is_alive()
        plain(away)
        thread.join()

    assert not went_on
    assert [type(error) for error in told] == [WriteUndone]


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_a_copy_of_the_file_alone_is_a_whole_database(url: str, tmp_path: Path) -> None:
    source = url.removeprefix("sqlite:///")
    copy = tmp_path / "copy.db"
    shutil.copy(source, copy)

    failed, done = use(f"sqlite:///{copy}")

    assert failed == {}
    assert done["list"]
    with sqlite3.connect(copy) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()

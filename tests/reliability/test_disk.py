"""Full disks and unwritable files: a clear error, no part of a batch stored, and recovery afterwards."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import sqlite3
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy import URL, Engine, event

from sessions_db import DatabaseUnavailable, NewMessage, SessionManager, SessionsError
from sessions_db.database import migrate
from tests.support.client import driver_url
from tests.support.commands import run

MAIN = "agent:main:main"
NOBODY = 65534


def require(command: list[str], reason: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"{reason}: {done.stderr.strip()}")


@contextmanager
def mounted(directory: Path, megabytes: int) -> Iterator[Path]:
    """A separate file system of this size."""
    if shutil.which("mount") is None:
        pytest.skip("no command mount here")
    directory.mkdir()
    require(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(directory)], "may not mount a file system"
    )
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


class Disk(ABC):
    """A SQLite file on a disk that can be filled and cleared."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def database(self) -> str | Engine:
        return f"sqlite:///{self.path}"

    @abstractmethod
    def fill(self) -> None: ...

    @abstractmethod
    def clear(self) -> None: ...

    def clear_within_transaction(self) -> None:
        """Free space while a connection is in use."""
        self.clear()


class SmallFileSystem(Disk):
    """A real disk that is full."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory / "sessions.db")
        self._ballast = directory / "ballast"

    def fill(self) -> None:
        with self._ballast.open("wb", buffering=0) as ballast:
            for size in (1 << 16, 1 << 12, 1):
                try:
                    while ballast.write(b"x" * size):
                        pass
                except OSError:
                    continue

    def clear(self) -> None:
        self._ballast.unlink(missing_ok=True)


class LimitedFileSize(Disk):
    """A limit on this process's files, like a quota: the write fails halfway, with a different error."""

    _HARD = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(self) -> None:
        # The next write goes to the log, or to the file if there is no log.
        sizes = [each.stat().st_size for each in self.path.parent.iterdir() if not each.name.endswith("-shm")]
        largest = max(sizes, default=0)
        resource.setrlimit(resource.RLIMIT_FSIZE, (max(largest, 40_000) + 2000, self._HARD[1]))

    def clear(self) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, self._HARD)


class LimitedPages(Disk):
    """SQLite's own limit, which needs no privileges."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._limit = 1 << 30
        self._engine = sa.create_engine(f"sqlite:///{path}")
        event.listen(self._engine, "connect", self._configure)

    @property
    def database(self) -> Engine:
        return self._engine

    def _configure(self, connection: sqlite3.Connection, _record: object) -> None:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute(f"PRAGMA max_page_count = {self._limit}")

    def fill(self) -> None:
        self._engine.dispose()
        self._limit = 40

    def clear(self) -> None:
        self._engine.dispose()
        self._limit = 1 << 30

    def clear_within_transaction(self) -> None:
        """Do nothing: some room is left, since SQLite rolled back only the last statement."""

    def close(self) -> None:
        self._engine.dispose()


@pytest.fixture(params=["small file system", "limited file size", "limited pages"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    match request.param:
        case "small file system":
            with mounted(tmp_path / "disk", 16) as directory:
                yield SmallFileSystem(directory)
        case "limited file size":
            limited = LimitedFileSize(tmp_path / "sessions.db")
            try:
                yield limited
            finally:
                limited.clear()
        case _:
            pages = LimitedPages(tmp_path / "sessions.db")
            yield pages
            pages.close()


def is_sound(path: Path) -> bool:
    with sqlite3.connect(path) as connection:
        found = connection.execute("PRAGMA integrity_check").fetchall()
    connection.close()
    return bool(found == [("ok",)])


FULL = r"disk is full|disk I/O error|No space left"


def fill_up(manager: SessionManager, key: str) -> int:
    """How many appends succeeded until one was refused."""
    for number in range(10_000):
        try:
            manager.send_message(key, "x" * 1000)
        except DatabaseUnavailable as error:
            if re.search(FULL, error.reason) and not error.outcome_unknown:
                return number
            raise
    pytest.fail("the disk is never full")


def test_appends_to_a_full_disk_are_refused_whole_and_succeed_once_there_is_space(disk: Disk) -> None:
    with SessionManager(disk.database, message_cap=100_000, retry_budget_s=1) as manager:
        key = manager.get_or_create_main("main").key
        for _ in range(10):
            manager.send_message(key, "x" * 1000)

        disk.fill()
        stored = 10 + fill_up(manager, key)
        batch = [NewMessage("user", "y" * 1000)] * 200
        for _ in range(3):
            with pytest.raises(DatabaseUnavailable, match=FULL):
                manager.add_messages(key, batch)
            with pytest.raises(DatabaseUnavailable, match=FULL):
                manager.add_messages(key, [*batch, NewMessage("user", "y", idempotency_key="once")])
            with pytest.raises(DatabaseUnavailable, match=FULL):
                manager.spawn_subagent("main", "z" * 100_000, "label")
        full = manager.get(key)
        disk.clear()
        after = manager.send_message(key, "after")
        whole = manager.add_messages(key, batch)
        spawned = manager.spawn_subagent("main", "z" * 100_000, "label")

        assert full is not None
        assert full.message_count == len(full.messages) == stored
        assert {message.content for message in full.messages} == {"x" * 1000}
        assert after.seq == stored + 1
        assert [message.seq for message in whole] == [*range(stored + 2, stored + 202)]
        found = manager.get_by_label("label")
        assert found is not None
        assert found.key == spawned
    assert is_sound(disk.path)


def test_a_transaction_on_a_full_disk_stores_nothing(disk: Disk) -> None:
    def write(manager: SessionManager) -> None:
        with manager.transaction() as tx:
            for _ in range(300):
                tx.spawn_subagent("main", "z" * 10_000, "label", MAIN)

    with SessionManager(disk.database, retry_budget_s=1) as manager:
        main = manager.get_or_create_main("main")
        disk.fill()
        with pytest.raises(DatabaseUnavailable, match=FULL):
            write(manager)
        full = manager.list()
        disk.clear()
        manager.spawn_subagent("main", "Test", "label", MAIN)

        assert full == [main]
        assert len(manager.list()) == 2
    assert is_sound(disk.path)


@pytest.mark.parametrize("operation", ["append", "spawn"])
def test_a_transaction_that_hit_a_full_disk_stores_nothing_even_if_it_continues(disk: Disk, operation: str) -> None:
    met: list[str] = []

    def write(manager: SessionManager) -> None:
        with manager.transaction() as tx:
            tx.send_message(MAIN, "before")
            try:
                for _ in range(1000):
                    if operation == "append":
                        tx.add_message(MAIN, "user", "z" * 10_000)
                    else:
                        tx.spawn_subagent("main", "z" * 10_000)
            except DatabaseUnavailable as error:
                met.append(error.reason)
            disk.clear_within_transaction()
            # The database decides how it refuses this; in any case, nothing of it may be stored.
            with suppress(SessionsError):
                tx.send_message(MAIN, "after")
            with suppress(SessionsError):
                tx.spawn_subagent("main", "after")

    with SessionManager(disk.database, message_cap=100_000, retry_budget_s=1) as manager:
        manager.get_or_create_main("main")
        disk.fill()
        with pytest.raises(SessionsError):
            write(manager)
        disk.clear()

        assert [reason for reason in met if re.search(FULL, reason)]
        assert [(session.key, session.message_count) for session in manager.list()] == [(MAIN, 0)]
        assert manager.send_message(MAIN, "Hello").seq == 1
    assert is_sound(disk.path)


def test_a_database_is_created_on_a_disk_that_was_full_before(disk: Disk) -> None:
    if isinstance(disk, LimitedPages):
        pytest.skip("SQLite's limit starts from the file that is there")
    disk.fill()
    with pytest.raises(DatabaseUnavailable, match=rf"{FULL}|unable to open"):
        SessionManager(disk.database, retry_budget_s=0.1).close()
    refused = run("list", db=str(disk.database))
    disk.clear()

    with SessionManager(disk.database) as manager:
        manager.get_or_create_main("main")
        manager.send_message(MAIN, "Hello")

    assert refused.exit_code == 1
    assert refused.stderr.startswith("Error: ")
    assert refused.stderr.count("\n") == 1
    assert is_sound(disk.path)


def test_an_import_interrupted_by_a_full_disk_continues_where_it_stopped(disk: Disk, tmp_path: Path) -> None:
    if isinstance(disk, LimitedPages):
        pytest.skip("SQLite's limit belongs to a connection, and the command has its own")
    file = tmp_path / "conversations.jsonl"
    lines = [json.dumps({"messages": [{"role": "user", "content": f"{n} {'x' * 2000}"}] * 5}) for n in range(60)]
    file.write_text("\n".join(lines))
    url = str(disk.database)
    SessionManager(url).close()

    disk.fill()
    if isinstance(disk, LimitedFileSize):
        limit, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit + 200_000, hard))
    ended = run("import", str(file), "--agent", "main", db=url)
    disk.clear()
    with SessionManager(url) as manager:
        before = manager.list(["subagent"], limit=1000, message_limit=10)
        main = manager.get(MAIN)
    again = run("import", str(file), "--agent", "main", "--json", db=url)

    assert ended.exit_code == 1
    assert ended.stderr.startswith("Error: Database unavailable")
    assert ended.stderr.count("\n") == 1
    assert all(len(session.messages) == 5 for session in before)
    assert (0 if main is None else main.message_count) == 5 * len(before)
    assert (again.exit_code, again.stderr) == (0, "")
    assert json.loads(again.stdout)["imported"] == 60 - len(before)
    assert is_sound(disk.path)


# Files that may not be written


@contextmanager
def permissions(path: Path) -> Iterator[None]:
    """The file and its directory are read-only, for a user who can't bypass permissions."""
    modes = {each: each.stat().st_mode for each in (path, path.parent)}
    path.chmod(0o444)
    path.parent.chmod(0o555)
    root = os.geteuid() == 0
    if root:
        os.seteuid(NOBODY)
    try:
        # Opening reads the migrations.
        if not os.access(migrate._scripts() / "versions", os.R_OK, effective_ids=True):
            pytest.skip("root is held to no permissions, and another user may not read this checkout")
        yield
    finally:
        if root:
            os.seteuid(0)
        for each, mode in modes.items():
            each.chmod(mode)


@contextmanager
def read_only_mount(path: Path) -> Iterator[None]:
    directory = str(path.parent)
    require(["mount", "--bind", directory, directory], "may not mount a directory")
    try:
        require(["mount", "-o", "remount,bind,ro", directory], "may not mount a directory to be read only")
        yield
    finally:
        subprocess.run(["umount", "--lazy", directory], check=True)


@contextmanager
def immutable(path: Path) -> Iterator[None]:
    if shutil.which("chattr") is None:
        pytest.skip("no command chattr here")
    require(["chattr", "+i", str(path)], "may not make a file immutable")
    try:
        yield
    finally:
        subprocess.run(["chattr", "-i", str(path)], check=True)


@pytest.fixture
def path() -> Iterator[Path]:
    """A database that another user can read, unlike files in pytest's own directories."""
    directory = Path(tempfile.mkdtemp(prefix="sessions-db-"))
    directory.chmod(0o755)
    file = directory / "sessions.db"
    with SessionManager(f"sqlite:///{file}") as manager:
        manager.get_or_create_main("main")
        manager.send_message(MAIN, "Hello")
    yield file
    shutil.rmtree(directory)


PROTECTIONS = {"permissions": permissions, "read-only mount": read_only_mount, "immutable": immutable}


@pytest.mark.parametrize("protection", PROTECTIONS)
def test_an_unwritable_file_is_reported_and_stays_as_it_is(path: Path, protection: str) -> None:
    content = path.read_bytes()
    url = f"sqlite:///{path}"

    def write() -> None:
        with SessionManager(url, retry_budget_s=0.1) as manager:
            manager.send_message(MAIN, "Hello")

    with PROTECTIONS[protection](path):
        for _ in range(2):
            with pytest.raises(DatabaseUnavailable, match=r"readonly|unable to open"):
                write()
        shown = run("history", MAIN, db=url)
        refused = run("import", "-", "--agent", "main", db=url, stdin=b'{"messages": []}')

    assert path.read_bytes() == content
    for result in (shown, refused):
        # Some protections allow reading: the log needs a writable directory.
        assert result.exit_code == (1 if result.stderr else 0)
        assert result.stderr.count("\n") == result.exit_code
    assert refused.stderr.startswith("Error: Database unavailable")
    with SessionManager(url) as manager:
        assert manager.send_message(MAIN, "Hello").seq == 2
    assert is_sound(path)


@pytest.mark.parametrize("protection", [protection for protection in PROTECTIONS if protection != "immutable"])
def test_an_unwritable_directory_is_reported(path: Path, protection: str) -> None:
    new = path.with_name("new.db")
    with PROTECTIONS[protection](path):
        with pytest.raises(DatabaseUnavailable, match="unable to open database file"):
            SessionManager(f"sqlite:///{new}", retry_budget_s=0.1).close()
        refused = run("list", db=f"sqlite:///{new}")

    assert refused.exit_code == 1
    assert refused.stderr.count("\n") == 1
    assert not new.exists()


# A tablespace of the shared server on a separate disk; only that disk is full.


@pytest.fixture
def small_postgres(postgres_server: URL) -> Iterator[tuple[URL, Path]]:
    """A database in a tablespace on a small file system, and the directory of that file system."""
    directory = Path(tempfile.mkdtemp(prefix="sessions-db-"))
    directory.chmod(0o755)
    with (
        mounted(directory / "disk", 32) as disk,
        psycopg.connect(driver_url(postgres_server), autocommit=True) as admin,
    ):
        owner = admin.execute("SELECT (pg_stat_file('PG_VERSION')).size, current_setting('data_directory')").fetchone()
        assert owner is not None
        data = Path(owner[1])
        if not data.exists():
            pytest.skip("the server is on another machine: no disk of its can be filled")
        name = f"sessions_db_small_{os.getpid()}"
        space = disk / "space"
        space.mkdir()
        os.chown(space, data.stat().st_uid, data.stat().st_gid)
        admin.execute(f"CREATE TABLESPACE {name} LOCATION '{space}'")
        try:
            admin.execute(f"CREATE DATABASE {name} TABLESPACE {name}")
            yield postgres_server.set(database=name), disk
        finally:
            admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
            admin.execute(f"DROP TABLESPACE {name}")
    shutil.rmtree(directory)


def test_appends_to_a_full_postgres_are_refused_whole_and_succeed_once_there_is_space(
    small_postgres: tuple[URL, Path],
) -> None:
    url, directory = small_postgres
    ballast = SmallFileSystem(directory)
    with SessionManager(url, message_cap=100_000, retry_budget_s=1) as manager:
        key = manager.get_or_create_main("main").key
        ballast.fill()
        stored = fill_up(manager, key)
        with pytest.raises(DatabaseUnavailable, match=FULL):
            manager.add_messages(key, [NewMessage("user", "y" * 1000)] * 200)
        full = manager.get(key)
        ballast.clear()
        after = manager.send_message(key, "after")

        assert full is not None
        assert full.message_count == len(full.messages) == stored
        assert after.seq == stored + 1

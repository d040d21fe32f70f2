"""A read-only manager leaves the database as it is, whatever is tried."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import make_url

from sessions_db import DatabaseUnavailable, InvalidInput, SchemaMismatch, SessionManager, UnsafeFork
from tests.support.client import PlainClient


def test_statement_that_bypasses_the_managers_methods_is_refused_too(url: str, manager: SessionManager) -> None:
    manager.get_or_create_main("main")
    with SessionManager(url, read_only=True) as reader:
        for statement in ("DELETE FROM sessions", "CREATE TABLE own (id INTEGER)", "DROP TRIGGER messages_append"):
            with pytest.raises(sa.exc.DBAPIError, match=r"readonly|read-only|syntax"), reader.transaction() as tx:
                tx.connection.exec_driver_sql(statement)

    assert len(manager.list()) == 1


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_file_stays_the_same_byte_for_byte(url: str) -> None:
    with SessionManager(url) as manager:
        key = manager.spawn_subagent("main", "Test", "research")
        manager.send_message(key, "Hello")
    file = Path(str(make_url(url).database))
    before = file.read_bytes()

    with SessionManager(url, read_only=True) as reader:
        assert reader.get_by_label("research") is not None
        reader.verify_log()

    assert file.read_bytes() == before


NOT_CREATING = pytest.mark.parametrize("options", [{"read_only": True}, {"create": False}], ids=str)


@NOT_CREATING
def test_missing_file_is_not_created(tmp_path: Path, options: dict[str, Any]) -> None:
    file = tmp_path / "what%is?this#.db"
    with pytest.raises(DatabaseUnavailable, match="unable to open database file"):
        SessionManager(sa.URL.create("sqlite", database=str(file)), **options)
    assert [*tmp_path.iterdir()] == []

    SessionManager(sa.URL.create("sqlite", database=str(file))).close()
    with SessionManager(sa.URL.create("sqlite", database=str(file)), **options) as manager:
        assert manager.list() == []


@NOT_CREATING
def test_empty_database_and_one_that_is_behind_are_refused_and_unchanged(
    empty_url: str, backend: str, options: dict[str, Any]
) -> None:
    file = Path(str(make_url(empty_url).database))
    if backend == "sqlite":
        file.touch()
    with pytest.raises(SchemaMismatch, match="nothing has created it yet, `sessions-db upgrade` does") as caught:
        SessionManager(empty_url, **options)
    assert caught.value.found is None
    assert backend != "sqlite" or file.read_bytes() == b""

    SessionManager(empty_url).close()
    plain = PlainClient(empty_url)
    plain("UPDATE sessions_db_version SET version_num = '0002'")
    with pytest.raises(SchemaMismatch, match="run `sessions-db upgrade`"):
        SessionManager(empty_url, **options)
    assert plain("SELECT version_num FROM sessions_db_version") == [("0002",)]
    plain.close()


def test_manager_that_creates_nothing_works_as_any_other(url: str, plain: PlainClient, backend: str) -> None:
    if backend == "sqlite":  # as in a copy that VACUUM INTO has made
        plain("PRAGMA journal_mode = DELETE")
    with SessionManager(url, create=False) as manager:
        manager.get_or_create_main("main")

    assert plain("SELECT count(*) FROM sessions") == [(1,)]
    assert backend != "sqlite" or plain("PRAGMA journal_mode") == [("wal",)]


def test_options_that_contradict_read_only_are_refused(url: str) -> None:
    with pytest.raises(InvalidInput, match="read_only"):
        SessionManager("sqlite://", read_only=True)
    with pytest.raises(InvalidInput, match="migrate"):
        SessionManager(url, read_only=True, migrate=True)


# A path means the file that it named when the manager was opened


@pytest.mark.parametrize(
    "database",
    ["sqlite:///sessions.db", "sqlite:///file:sessions.db?uri=true", "sqlite:///file:./a%20b.db?uri=true&mode=rwc"],
)
@pytest.mark.parametrize("read_only", [False, True])
def test_new_connections_open_the_same_file_after_chdir(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database: str, read_only: bool
) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        with SessionManager(database) as manager:
            manager.get_or_create_main(name)

    monkeypatch.chdir(tmp_path / "first")
    with SessionManager(database, read_only=read_only) as manager:
        monkeypatch.chdir(tmp_path / "second")
        # The second connection, while the first one is in use.
        with manager.snapshot() as tx:
            found = [*tx.list(), *manager.list()]

    assert [session.agent_id for session in found] == ["first", "first"]


def test_new_connections_open_the_same_file_when_a_link_is_moved(tmp_path: Path) -> None:
    link = tmp_path / "current.db"
    for name in ("second", "first"):
        link.unlink(missing_ok=True)
        link.symlink_to(tmp_path / f"{name}.db")
        with SessionManager(f"sqlite:///{link}") as manager:
            manager.get_or_create_main(name)

    with SessionManager(f"sqlite:///{link}", read_only=True) as manager:
        link.unlink()
        link.symlink_to(tmp_path / "second.db")
        with manager.snapshot() as tx:
            found = [*tx.list(), *manager.list()]

    assert [session.agent_id for session in found] == ["first", "first"]


@pytest.mark.parametrize(
    ("database", "own_engine"),
    [("sqlite:///sessions.db", False), ("sqlite:///file:sessions.db?uri=true", False), ("sqlite:///sessions.db", True)],
)
def test_child_forked_in_a_block_is_refused_after_chdir_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database: str, own_engine: bool
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path)
    monkeypatch.chdir(link)
    engine = sa.create_engine(database) if own_engine else None
    with SessionManager(engine or database) as manager, manager.transaction() as tx:
        tx.get_or_create_main("main")
        monkeypatch.chdir(other)
        child = os.fork()
        if child == 0:
            try:
                manager.list()
            except UnsafeFork:
                os._exit(0)
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)
    if engine is not None:
        engine.dispose()

    assert os.waitstatus_to_exitcode(status) == 0
    assert [*other.iterdir()] == []

"""Code in the README and the docs runs as printed, and what they name exists."""

from __future__ import annotations

import gc
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from sessions_db import SessionManager, schema
from sessions_db.transfer import export_lines
from tests.support.client import PlainClient
from tests.support.commands import run
from tests.support.pages import ROOT, blocks

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands() -> list[str]:
    """Every line of a shell block that calls `sessions-db`."""
    return [
        line
        for page in PAGES
        for block in blocks(page, "sh")
        for line in block.splitlines()
        if line.startswith("sessions-db ")
    ]


PYTHON = [pytest.param(block, id=page.name) for page in PAGES for block in blocks(page, "python")]
# The queries of audit.md are run in test_audit_docs.py, on data that gives each of them an answer.
SQL = [pytest.param(block, id=page.name) for page in PAGES if page.name != "audit.md" for block in blocks(page, "sql")]


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, with no database named in the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SESSIONS_DB_URL", raising=False)
    return tmp_path


@pytest.mark.usefixtures("directory")
def test_quickstart_does_what_the_readme_says() -> None:
    (quickstart,) = blocks(ROOT / "README.md", "python")

    command = [sys.executable, "-W", "error", "-c", quickstart]
    assert subprocess.check_output(command, text=True).splitlines() == [
        "completed three sources found 3",
        "1 user      Start with the newest ones.",
        '2 tool      ["a.pdf", "b.pdf", "c.pdf"]',
        "3 assistant Here are three sources.",
        "True",
        "['Find three sources']",
    ]


@pytest.mark.usefixtures("directory")
@pytest.mark.parametrize("code", PYTHON)
def test_python_in_the_docs_runs(code: str) -> None:
    if re.search(r"^(import logging|from opentelemetry)", code, flags=re.MULTILINE):
        # It configures the whole process.
        subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
        return
    exec(code, {"__name__": "__main__"})
    # A connection that is left open warns when it is collected, which fails the test.
    gc.collect()


@pytest.mark.no_cover
def test_python_in_the_docs_is_typed(tmp_path: Path) -> None:
    files = []
    for number, block in enumerate(PYTHON):
        files.append(tmp_path / f"{re.sub(r'[^a-z]', '_', str(block.id))}_{number}.py")
        files[-1].write_text(str(block.values[0]))

    # With the options and the cache of the linter, which has the dependencies in it or finds them there.
    found = subprocess.run(
        [sys.executable, "-m", "mypy", *files], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert found.returncode == 0, found.stdout + found.stderr


@pytest.mark.parametrize("line", commands())
def test_command_in_the_docs_runs(line: str, directory: Path) -> None:
    database = "sqlite:///sessions.db"
    with SessionManager(database) as manager:
        manager.get_or_create_main("assistant")
        manager.send_message(manager.spawn_subagent("assistant", "Find three sources", label="research"), "Hello")
    with SessionManager(database, read_only=True) as manager, export_lines(manager) as export:
        (directory / "sessions.jsonl").write_bytes(b"".join(export.lines))
    (directory / "conversations.jsonl").write_text('{"messages": [{"role": "user", "content": "Hello"}]}\n')

    result = run(*shlex.split(line)[1:])

    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("sql", SQL)
def test_sql_in_the_docs_runs(manager: SessionManager, plain: PlainClient, sql: str) -> None:
    key = manager.get_or_create_main("assistant").key
    manager.add_message(key, "tool", "result", tool_name="search")
    manager.error_session(key, "gave up")

    found = plain(sql)

    if sql.startswith("INSERT"):
        assert manager.get_or_create_main("assistant").message_count == 2
    else:
        assert len(found) == 1


def test_docs_have_something_to_run() -> None:
    assert {block.id for block in PYTHON} >= {"README.md", "usage.md"}
    assert {block.id for block in SQL} >= {"schema.md"}
    assert len(commands()) >= 3


def test_schema_page_names_every_table_column_constraint_index_and_trigger(plain: PlainClient) -> None:
    page = (ROOT / "docs" / "schema.md").read_text()
    created = "\n".join(schema.TRIGGERS[plain.backend].values())
    names = set(re.findall(r"CREATE TRIGGER (\w+)", created))
    for table in schema.tables_of(plain.backend):
        names |= {table.name}
        names |= {column.name for column in table.columns}
        names |= {str(constraint.name) for constraint in table.constraints}
        names |= {str(index.name) for index in table.indexes}

    assert {name for name in names if f"`{name}`" not in page} == set()


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text()):
            assert (page.parent / target).exists(), (page.name, target)


def test_every_test_that_the_reliability_page_names_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "reliability.md").read_text()))
    files = (ROOT / "tests").rglob("test_*.py")
    defined = {name for file in files for name in re.findall(r"^def (test_\w+)", file.read_text(), flags=re.MULTILINE)}

    assert len(named) > 40
    assert named - defined == set()


def test_ci_runs_the_readmes_test_command() -> None:
    setups = [block.strip() for block in blocks(ROOT / "README.md", "sh") if "venv" in block]

    assert len(setups) == 2
    assert setups[1] in (ROOT / ".ci" / "run").read_text().splitlines()

"""What the README and the docs show is run as printed, and what they name exists."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sessions_db import SessionManager, schema
from sessions_db.transfer import export_lines
from tests.support.client import PlainClient
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
# What audit.md asks is asked in test_audit_docs.py, of data that give each question an answer.
SQL = [pytest.param(block, id=page.name) for page in PAGES if page.name != "audit.md" for block in blocks(page, "sql")]


def run(*command: str, cwd: Path) -> str:
    """The output of a command that must succeed."""
    environment = {name: value for name, value in os.environ.items() if name != "SESSIONS_DB_URL"}
    return subprocess.run(command, cwd=cwd, env=environment, check=True, capture_output=True, text=True).stdout


def test_quickstart_does_what_the_readme_says(tmp_path: Path) -> None:
    (quickstart,) = blocks(ROOT / "README.md", "python")

    assert run(sys.executable, "-W", "error", "-c", quickstart, cwd=tmp_path).splitlines() == [
        "1 user      Start with the newest ones.",
        '2 tool      ["a.pdf", "b.pdf", "c.pdf"]',
        "3 assistant Here are three sources.",
        "completed three sources found 3",
        "['Find three sources']",
    ]


@pytest.mark.parametrize("code", PYTHON)
def test_python_in_the_docs_runs(code: str, tmp_path: Path) -> None:
    run(sys.executable, "-W", "error", "-c", code, cwd=tmp_path)


@pytest.mark.parametrize("line", commands())
def test_command_in_the_docs_runs(line: str, tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path / 'sessions.db'}"
    with SessionManager(database) as manager:
        manager.get_or_create_main("assistant")
    with SessionManager(database, read_only=True) as manager, export_lines(manager) as export:
        (tmp_path / "sessions.jsonl").write_bytes(b"".join(export.lines))
    (tmp_path / "conversations.jsonl").write_text('{"messages": [{"role": "user", "content": "Hello"}]}\n')

    run(sys.executable, "-m", "sessions_db", *line.split()[1:], cwd=tmp_path)


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

"""The built wheel, installed in an empty environment, upgrades, writes and reads on its own."""

from __future__ import annotations

import subprocess
import sys
import venv
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

# What runs is pip, and the package as it is installed elsewhere.
pytestmark = pytest.mark.no_cover

ROOT = Path(__file__).parent.parent

READ_AND_WRITE = """
import sys, sessions_db
with sessions_db.SessionManager(sys.argv[1]) as manager:
    key = manager.get_or_create_main("main").key
    manager.send_message(key, "Hello")
    print(manager.history(key)[0].content, sessions_db.__file__)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", str(directory), str(ROOT)],
        check=True,
        capture_output=True,
    )
    (built,) = directory.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with only the wheel and its dependencies."""
    directory = tmp_path_factory.mktemp("environment")
    venv.create(directory)
    interpreter = directory / "bin" / "python"
    command = [sys.executable, "-m", "pip", "--python", str(interpreter), "install", "-q", f"{wheel}[postgres]"]
    subprocess.run(command, check=True, capture_output=True)
    return interpreter


def test_wheel_carries_the_migrations_and_no_tests(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())

    assert {
        "sessions_db/py.typed",
        "sessions_db/migrations/env.py",
        "sessions_db/migrations/versions/0001_tables.py",
        "sessions_db/web/audit.md",
        "sessions_db/web/static/style.css",
        "sessions_db/web/templates/base.html",
    } <= names
    assert {name.split("/")[0] for name in names} == {"sessions_db", f"sessions_db-{version('sessions-db')}.dist-info"}
    assert not [name for name in names if "__pycache__" in name]


def test_installed_wheel_upgrades_writes_and_reads(python: Path, empty_url: str, tmp_path: Path) -> None:
    command = [str(python), "-W", "error", "-c", READ_AND_WRITE, empty_url]
    output = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    content, module = output.split()
    assert content == "Hello"
    assert str(python.parent.parent) in module


def test_command_without_its_extra_says_what_to_install(python: Path, tmp_path: Path) -> None:
    command = [str(python.parent / "sessions-db"), "list"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert result.returncode == 1
    assert result.stderr.strip() == "The command needs click: pip install 'sessions-db[cli]'"

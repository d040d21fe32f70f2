"""The command `sessions-db`, also as `python -m sessions_db`."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

from sessions_db import signals


def main() -> None:
    """Run the command and exit the process with its exit code."""
    try:
        signals.prepare()
        _prepare_streams()
        from sessions_db.cli import cli  # noqa: PLC0415  # its packages are an extra

        cli(prog_name="sessions-db")
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in ("click", "rich"):
            raise
        sys.exit(f"The command needs {missing}: pip install 'sessions-db[cli]'")
    except KeyboardInterrupt:
        # Importing takes half a second; later the command tells what it has done.
        sys.stderr.write("\nInterrupted. Nothing was changed.\n")
        sys.exit(130)


def _prepare_streams() -> None:
    # What the caller has closed (`<&-`, `>&-`) is None.
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115  # until the process ends
    # Replace characters that the terminal can't show, instead of failing.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


if __name__ == "__main__":
    main()

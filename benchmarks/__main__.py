"""`python -m benchmarks`: measure, and write `docs/performance.md`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.environment import enter

SECTIONS = ("floor", "peers", "concurrency", "processes", "starting", "ceiling", "waiting", "growth")


def main() -> None:
    """Read the arguments, then measure in the benchmarks' own environment."""
    options = _options()
    enter(sys.argv[1:], refresh=options.refresh)
    from benchmarks import run  # noqa: PLC0415  # needs that environment

    run.run(options.sections, conversations=options.conversations, before=options.before, quick=options.quick)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure, and write docs/performance.md.")
    parser.add_argument(
        "--only",
        dest="sections",
        type=_sections,
        default=SECTIONS,
        metavar="SECTION,…",
        help=f"measure only these ({', '.join(SECTIONS)}); the page keeps the earlier figures of the others",
    )
    parser.add_argument(
        "--report-only",
        dest="sections",
        action="store_const",
        const=(),
        help="measure nothing; write the page from earlier figures",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="take minutes instead of half an hour; the page goes to build/benchmarks/quick",
    )
    parser.add_argument(
        "--conversations",
        type=Path,
        metavar="FILE",
        help="messages to store: one JSON object per line with `messages` in the chat-completions shape "
        "(default: generated ones)",
    )
    parser.add_argument(
        "--before",
        type=Path,
        metavar="DIRECTORY",
        help="a checkout of an earlier commit, which the section `processes` measures too",
    )
    parser.add_argument("--refresh", action="store_true", help="rebuild the environment from the newest releases")
    return parser.parse_args()


def _sections(names: str) -> tuple[str, ...]:
    chosen = tuple(names.split(","))
    if unknown := sorted({*chosen} - {*SECTIONS}):
        raise argparse.ArgumentTypeError(f"no such section: {', '.join(unknown)}")
    return chosen


if __name__ == "__main__":
    main()

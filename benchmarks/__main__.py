"""`python -m benchmarks`: measure, and write `docs/performance.md`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.environment import ROOT, enter

SECTIONS = ("floor", "stages", "peers", "concurrency", "growth")


def main() -> None:
    """Read the arguments, go on in the benchmark's own environment, measure there."""
    options = _options()
    enter(options.cache / "environment", sys.argv[1:], refresh=options.refresh)
    from benchmarks import run  # noqa: PLC0415  # needs that environment

    run.run(options.sections, cache=options.cache, conversations=options.conversations, quick=options.quick)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure, and write docs/performance.md.")
    parser.add_argument(
        "--only",
        dest="sections",
        type=_sections,
        default=SECTIONS,
        metavar="SECTION,…",
        help=f"measure these only ({', '.join(SECTIONS)}); the page keeps what was measured before of the others",
    )
    parser.add_argument(
        "--report-only",
        dest="sections",
        action="store_const",
        const=(),
        help="measure nothing, write the page from what was measured before",
    )
    parser.add_argument(
        "--quick", action="store_true", help="a minute or two instead of half an hour; writes its page to the cache"
    )
    parser.add_argument(
        "--conversations",
        type=_file,
        metavar="FILE",
        help="messages to store: a JSON object a line, its `messages` in the shape of the chat-completions API "
        "(default: generated ones)",
    )
    parser.add_argument(
        "--cache",
        type=lambda name: Path(name).resolve(),
        default=ROOT / "build" / "benchmarks",
        metavar="DIRECTORY",
        help="for the environment and the figures (default: build/benchmarks)",
    )
    parser.add_argument("--refresh", action="store_true", help="make the environment anew, from the newest releases")
    return parser.parse_args()


def _sections(names: str) -> tuple[str, ...]:
    chosen = tuple(names.split(","))
    if unknown := sorted({*chosen} - {*SECTIONS}):
        raise argparse.ArgumentTypeError(f"no such section: {', '.join(unknown)}")
    return chosen


def _file(name: str) -> Path:
    path = Path(name).resolve()
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"no such file: {name}")
    return path


if __name__ == "__main__":
    main()

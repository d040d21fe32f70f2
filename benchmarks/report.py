"""The page: what was measured, as tables and plots, and whether it reaches the goals."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import plots
from benchmarks.databases import TITLES
from benchmarks.goals import Kept, outcomes
from benchmarks.peers.names import AS_IT_COMES, OURS
from benchmarks.stages import ROW, ROW_ON_DISK, STAGES, STATEMENT

_INTRODUCTION = """
# Performance

This page is written by `python -m benchmarks`, which makes an environment of its own with the newest releases of
everything that is compared, measures, and draws the plots. `--quick` tries it out in a minute or two, `--only` measures
some of the sections anew.

Every figure is a ratio. What it compares took turns in the same run, in slots of a second or less, for several rounds,
each round in the reverse order of the one before; the ratio is taken within each round. A figure is the median of the
rounds, followed by their quartiles in brackets. Absolute numbers say more about a machine than about a library, so
there are none.

Messages: {messages}.
A session holds 100 of them, and appends go to a session that is full, so that each one trims.
"""

_FLOOR = """
## Against the plain driver

How fast the library is where the driver's own speed is 1. The driver sends the statement that the library sends, as it
was recorded on its way to the database, with parameters that were ready before the clock started, and its rows stay
tuples. The library also checks its input, gives back frozen values, and reads the metadata's JSON, which comes as text
and which {with_metadata} of the 50 messages have.

On SQLite the driver's append is `BEGIN IMMEDIATE`, the `INSERT`, the `UPDATE` of the session's counters, the `DELETE`
that trims, and `COMMIT`, in a database without triggers. On Postgres it is the library's one statement, prepared, in
autocommit mode, on the library's schema with its triggers. Databases hold 1,000 other sessions.
"""

_STAGES = """
## Where the time of an append goes

The same message, with ever more of what the library does with it: each line has all that the lines above it have, and
an append by the library is 1. The library's own Python is the difference between the last two lines.
"""

_STAGE_TITLES = {
    ROW: "the plain driver: the row, in a table with a primary key and nothing else, not yet on the disk",
    ROW_ON_DISK: "the same, and the row is on the disk",
    STATEMENT: "the library's statement: constraints, counters and trimming too",
    OURS: "the library: checked input, a connection in turn, a frozen value",
}

_PEERS = """
## Against what one might use instead

How many times as long a peer takes for what takes the library 1. Each is used as its documentation has it, with one
engine or connection that is kept; async peers run in an event loop that is kept too. A peer's session holds the same
100 messages when it is read. None of the peers trims, so while they are appended to they keep everything, and are
spared the deletion that each of the library's appends makes.

- The plain driver sends the library's statements: nothing that keeps the same counters and trims can be faster.
- LangChain's histories can only be read whole: their newest 50 are the end of all 100.
- Agno stores runs, not messages: an append is a run of one message, by the statement that stores a run. Its agents
  also update the session's row each time, which is left out. Its reads are from its own cache of the runs' objects,
  validated against the rows.
- Google ADK and LangChain leave a new SQLite file with its rollback journal. To be compared they are given a file in
  WAL mode; what they take without is in the table as well.
"""

_CONCURRENCY = """
## Concurrency

Writers that append as fast as they can, through one manager with the default pool, in threads (sync) or in tasks of one
event loop (async): each in a session of its own, or all in one. Throughput counts the appends of all writers, latency
is what one append takes its writer, waiting included. Both are compared with the throughput and the median latency of
a single sync writer in the same round.
"""

_GROWTH = """
## Growth

What an operation costs in a larger database, where it is 1 in the smallest. The sessions that are appended to and read
are drawn at random from all that the database holds, so that nearly every access to a large one is to pages that were
not touched before; or from a thousand active ones, scattered over it. Sessions were filled in by bulk SQL with 2 or 3
messages each; one in 10 has a label. Every database was read through before each operation was measured, so that pages
come from memory where it suffices: a page that must come from the disk costs what the disk takes.
"""


def write(kept: Kept, pages: Path, *, quick: bool) -> Path:
    """Write `performance.md` and its plots below `pages`, from the sections that there are."""
    drawings = pages / "performance"
    drawings.mkdir(parents=True, exist_ok=True)
    parts: dict[str, Callable[[Mapping[str, Any], Path], Iterator[str]]] = {
        "floor": _floor,
        "stages": _stages,
        "peers": _peers,
        "concurrency": _concurrency,
        "growth": _growth,
    }
    sources = sorted({section["origin"]["messages"] for section in kept.values()})
    page = [_INTRODUCTION.format(messages="; ".join(sources))]
    if quick:
        page.append("**From a quick run: the figures try out the benchmark and mean nothing.**\n")
    page += _goals(kept)
    for name, part in parts.items():
        if name in kept:
            page += part(kept[name], drawings)
    page += _origins(kept)
    path = pages / "performance.md"
    path.write_text("\n".join(textwrap.dedent(text).strip("\n") + "\n" for text in page), encoding="utf-8")
    return path


def _goals(kept: Kept) -> Iterator[str]:
    yield "## Goals"
    rows = []
    for outcome in outcomes(kept):
        bound = f"{'≤' if outcome.goal.at_most else '≥'} {outcome.goal.bound:g}"
        if outcome.figure is None:
            rows.append((outcome.goal.what, bound, "not measured", "", ""))
            continue
        which = f" {outcome.which}" if outcome.which else ""
        verdict = "met" if outcome.met else "**missed**"
        by_driver = "" if outcome.by_driver is None else _short(outcome.by_driver)
        rows.append((outcome.goal.what, bound, _with_spread(outcome.figure) + which, verdict, by_driver))
    yield _table(("", "goal", "measured", "", "plain driver"), rows)
    yield (
        "The last column is what the plain driver reaches with the library's own statement: more than that can't be had"
        " from less Python."
    )


def _floor(section: Mapping[str, Any], drawings: Path) -> Iterator[str]:
    figures = section["figures"]
    yield _FLOOR.format(with_metadata=section["notes"]["with_metadata"])
    rows = [
        (title, _with_spread(figures[name]), str(figures[name]["rounds"]))
        for name, title in (
            ("sqlite.FULL.append", "SQLite append, WAL + FULL, against three statements"),
            ("sqlite.FULL.append.one_statement", "the same against one statement and the library's triggers"),
            ("sqlite.NORMAL.append", "SQLite append, WAL + NORMAL, against three statements"),
            ("sqlite.NORMAL.append.one_statement", "the same against one statement and the library's triggers"),
            ("sqlite.read", "SQLite, read newest 50"),
            ("sqlite.read.parsed", "the same, where the driver's side reads the metadata's JSON too"),
            ("postgresql.append", "Postgres append"),
            ("postgresql.read", "Postgres, read newest 50"),
            ("postgresql.read.parsed", "the same, where the driver's side reads the metadata's JSON too"),
        )
    ]
    yield _table(("", "speed", "rounds"), rows)
    plots.floor(figures, drawings / "floor.svg")
    yield "![Speed against the plain driver](performance/floor.svg)"
    yield "A batch (`add_messages`) of 20 messages against 20 appends (`add_message`):"
    rows = [
        (TITLES[backend], _with_spread(figures[f"{backend}.batch"]), str(figures[f"{backend}.batch"]["rounds"]))
        for backend in TITLES
    ]
    yield _table(("", "speed", "rounds"), rows)
    yield _durability(section)


def _stages(section: Mapping[str, Any], _drawings: Path) -> Iterator[str]:
    figures = section["figures"]
    yield _STAGES
    rows = [
        (_STAGE_TITLES[stage], *(_with_spread(figures[f"{backend}.{stage}"]) for backend in TITLES)) for stage in STAGES
    ]
    rounds = figures[f"sqlite.{OURS}"]["rounds"]
    yield _table((f"{rounds} rounds", *TITLES.values()), rows)
    yield _durability(section)


def _peers(section: Mapping[str, Any], drawings: Path) -> Iterator[str]:
    figures = section["figures"]
    yield _PEERS
    for backend, title in TITLES.items():
        prefix = f"{backend}.append."
        names = [name.removeprefix(prefix) for name in figures if name.startswith(prefix)]
        rows = []
        for name in names:
            append, read = figures[f"{prefix}{name}"], figures.get(f"{backend}.read.{name}")
            rows.append((name, "1" if name == OURS else _with_spread(append), _read(name, read)))
        rounds = figures[f"{prefix}{OURS}"]["rounds"]
        yield _table((f"{title}, {rounds} rounds", "append", "read newest 50"), rows)
    for action in ("append", "read"):
        plots.peers(figures, action, drawings / f"peers-{action}.svg")
        yield f"![Time of each peer, {action}](performance/peers-{action}.svg)"
    versions = ", ".join(f"{package} {version}" for package, version in section["notes"]["versions"].items())
    yield f"Versions: {versions}."
    yield _durability(section)


def _read(name: str, figure: Mapping[str, float] | None) -> str:
    if name == OURS:
        return "1"
    return "" if figure is None or name.endswith(AS_IT_COMES) else _with_spread(figure)


def _concurrency(section: Mapping[str, Any], drawings: Path) -> Iterator[str]:
    figures, notes = section["figures"], section["notes"]
    yield _CONCURRENCY
    for backend, title in TITLES.items():
        for sessions in notes["sessions"]:
            rows = []
            for writers in notes["writers"]:
                cells = [str(writers)]
                for face in notes["faces"]:
                    name = f"{backend}.{face}.{sessions}.{writers}"
                    cells.append(_with_spread(figures[f"{name}.throughput"]))
                    cells += [_short(figures[f"{name}.{measure}"]["median"]) for measure in ("p50", "p99")]
                rows.append(cells)
            whose = "a session each" if sessions == "own" else "all in one session"
            rounds = figures[f"{backend}.sync.{sessions}.1.throughput"]["rounds"]
            yield f"{title}, {whose}, {rounds} rounds:"
            measures = ("throughput", "p50", "p99")
            yield _table(("writers", *(f"{face}: {name}" for face in notes["faces"] for name in measures)), rows)
    plots.concurrency(figures, notes, drawings / "concurrency.svg")
    yield "![Throughput and latency over the number of writers](performance/concurrency.svg)"
    yield _durability(section)


def _growth(section: Mapping[str, Any], drawings: Path) -> Iterator[str]:
    figures, notes = section["figures"], section["notes"]
    sizes = notes["sizes"]
    operations = [*dict.fromkeys(name.split(".")[1] for name in figures)]
    yield _GROWTH
    for backend, title in TITLES.items():
        rows = [
            (operation, *(_with_spread(figures[f"{backend}.{operation}.{size}"]) for size in sizes[1:]))
            for operation in operations
        ]
        rounds = figures[f"{backend}.{operations[0]}.{sizes[0]}"]["rounds"]
        header = (f"{title}, {rounds} rounds", *(f"{size:,} sessions" for size in sizes[1:]))
        yield _table(header, rows)
    plots.growth(figures, sizes, operations, drawings / "growth.svg")
    yield "![Cost over the number of sessions](performance/growth.svg)"
    yield "Bytes that a session takes on the disk, its messages, indexes and label included:"
    rows = [
        (title, *(f"{notes['bytes_per_session'][backend][str(size)]:,.0f}" for size in sizes))
        for backend, title in TITLES.items()
    ]
    yield _table(("", *(f"{size:,} sessions" for size in sizes)), rows)
    yield _durability(section)


def _origins(kept: Kept) -> Iterator[str]:
    yield "## Where the figures come from"
    rows = [
        (
            name,
            section["origin"]["date"],
            section["origin"]["machine"],
            f"Python {section['origin']['python']}, SQLite {section['origin']['sqlite']}, "
            f"Postgres {section['origin']['postgres']}, "
            + ", ".join(f"{package} {version}" for package, version in section["origin"]["packages"].items()),
        )
        for name, section in sorted(kept.items())
    ]
    yield _table(("section", "date", "machine", "versions"), rows)


def _durability(section: Mapping[str, Any]) -> str:
    """Who had which settings, those with the same in one line."""
    alike: dict[str, list[str]] = {}
    for name, settings in section["durability"].items():
        said = ", ".join(f"`{setting}` = {value}" for setting, value in settings.items())
        alike.setdefault(said, []).append(TITLES.get(name, name))
    lines = [f"- {said}: {'; '.join(names)}" for said, names in alike.items()]
    return "\n".join(["Durability, as each connection reported it:", "", *lines])


def _with_spread(figure: Mapping[str, float]) -> str:
    return f"{_short(figure['median'])} ({_short(figure['low'])} to {_short(figure['high'])})"


def _short(value: float) -> str:
    """Three digits, more only where there are more before the point."""
    return f"{value:.3f}" if value < 1 else f"{value:.{max(0, 2 - int(math.log10(value)))}f}"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)

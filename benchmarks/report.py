"""Writes the page: the texts in `page/`, filled in with tables and plots of what was measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from benchmarks import plots
from benchmarks.concurrency import FACES, MANY, READERS, READS, SESSIONS, WRITERS
from benchmarks.databases import TITLES
from benchmarks.goals import GOALS, Goal
from benchmarks.names import DRIVER, OURS, OURS_ASYNC, ROW, ROW_ON_DISK, STATEMENT, THREE_STATEMENTS
from benchmarks.processes import ALONE, STARTS, TOGETHER
from benchmarks.rounds import Figure
from benchmarks.sections import Results
from benchmarks.starting import IMPORTED_MESSAGES, OPERATIONS
from benchmarks.waiting import HEARD, IDLE, WAITERS

_TEXTS = Path(__file__).with_name("page")

_SPEEDS: Final = {
    f"sqlite.FULL.append.{THREE_STATEMENTS}": "SQLite append, WAL + FULL, against three statements",
    f"sqlite.FULL.append.{STATEMENT}": "the same against one statement and the library's triggers",
    f"sqlite.NORMAL.append.{THREE_STATEMENTS}": "SQLite append, WAL + NORMAL, against three statements",
    f"sqlite.NORMAL.append.{STATEMENT}": "the same against one statement and the library's triggers",
    "sqlite.read.rows": "SQLite, read newest 50",
    "sqlite.read.parsed": "the same, where the driver's side also parses the metadata's JSON",
    f"postgresql.FULL.append.{STATEMENT}": "Postgres append",
    "postgresql.read.rows": "Postgres, read newest 50",
    "postgresql.read.parsed": "the same, where the driver's side also parses the metadata's JSON",
}

_STAGES: Final = {
    ROW: "the plain driver: the row, in a table with only a primary key, not yet on disk",
    ROW_ON_DISK: "the same, with the row on disk",
    STATEMENT: "the library's statement: constraints, counters and trimming too",
}

_STARTS: Final = dict(zip(OPERATIONS, OPERATIONS, strict=True))

_LEFT_OUT: Final = "Left out: what is compared with an earlier commit. `--before` measures it."

_QUICK: Final = "**From a quick run: the figures only show that the benchmarks work.**\n"


def write(sections: Mapping[str, Results], pages: Path, *, quick: bool) -> Path:
    """Write `performance.md` and its plots to `pages`, from the sections that were measured."""
    drawings = pages / "performance"
    drawings.mkdir(parents=True, exist_ok=True)
    messages = sorted({results.origin["messages"] for results in sections.values()})
    texts = [_text("introduction", messages="; ".join(messages)), *([_QUICK] if quick else [])]
    goals = [*_goals(sections)]
    left_out = f"\n\n{_LEFT_OUT}" if len(goals) < len(GOALS) else ""
    texts.append(_text("goals", goals=_table(("", "goal", "measured", "", "plain driver"), goals) + left_out))
    for name, part in _PARTS.items():
        if name in sections:
            results = sections[name]
            texts.append(_text(name, **part(results, drawings), durability=_durability(results)))
    origins = [
        (name, results.origin["date"], results.origin["machine"], results.origin["versions"])
        for name, results in sorted(sections.items())
    ]
    texts.append(_text("origins", origins=_table(("section", "date", "machine", "versions"), origins)))
    path = pages / "performance.md"
    path.write_text("\n".join(texts), encoding="utf-8")
    return path


def _text(name: str, **parts: str) -> str:
    return (_TEXTS / f"{name}.md").read_text(encoding="utf-8").format(**parts)


def _goals(sections: Mapping[str, Results]) -> Iterable[Sequence[str]]:
    for goal in GOALS:
        bound = f"{'≤' if goal.at_most else '≥'} {goal.bound:g}"
        figures = sections[goal.section].figures if goal.section in sections else {}
        if not figures.keys() >= {*goal.figures}:
            if goal.needs_before:
                continue
            yield goal.what, bound, "not measured", "", ""
            continue
        worst = (max if goal.at_most else min)(goal.figures, key=lambda name: figures[name].median)
        median = figures[worst].median
        met = median <= goal.bound if goal.at_most else median >= goal.bound
        which = f" {_part(worst, goal.figures)}" if len(goal.figures) > 1 else ""
        yield (
            goal.what,
            bound,
            _spread(figures[worst]) + which,
            "met" if met else "**missed**",
            _by_driver(goal, sections),
        )


def _part(name: str, names: Iterable[str]) -> str:
    """What tells this figure from the others."""
    parts = zip(*(other.split(".") for other in names), strict=True)
    return " ".join(own for own, others in zip(name.split("."), parts, strict=True) if {*others} != {own})


def _by_driver(goal: Goal, sections: Mapping[str, Results]) -> str:
    """What the plain driver reaches. Writes only: it does less than a read by the library does."""
    figures = sections[goal.section].figures
    measured = figures[goal.figures[0]].median
    if goal.ceiling is not None:
        if "ceiling" not in sections:
            return "not measured"
        ceiling = sections["ceiling"].figures[goal.ceiling].median
        return _short(measured * ceiling if goal.needs_before else ceiling)
    backend, action, *_ = goal.figures[0].split(".")
    if goal.section != "peers" or action != "append":
        return ""
    return _short(measured / figures[f"{backend}.append.{DRIVER}"].median)


def _floor(results: Results, _drawings: Path) -> dict[str, str]:
    figures = results.figures
    speeds = [(title, figures[name]) for name, title in _SPEEDS.items()]
    batches = [(title, figures[f"{backend}.batch"]) for backend, title in TITLES.items()]
    speed, batch = (
        _table(("", "speed", "rounds"), ((title, _spread(figure), str(figure.rounds)) for title, figure in rows))
        for rows in (speeds, batches)
    )
    stages = [
        (title, *(_spread(figures[f"{backend}.FULL.append.{stage}"]) for backend in TITLES))
        for stage, title in _STAGES.items()
    ]
    stages.append(("the library: checked input, a pooled connection, a frozen value", "1", "1"))
    rounds = figures[f"sqlite.FULL.append.{ROW}"].rounds
    append = _table((f"{rounds} rounds", *TITLES.values()), stages)
    return {"speed": speed, "batch": batch, "append": append, "with_metadata": str(results.notes["with_metadata"])}


def _peers(results: Results, drawings: Path) -> dict[str, str]:
    figures = results.figures
    for action in ("append", "read", "tasks"):
        plots.peers(figures, action, drawings / f"peers-{action}.svg")
    parts = {"versions": ", ".join(f"{package} {version}" for package, version in results.notes["versions"].items())}
    for backend, title in TITLES.items():
        names = [name.split(".", 2)[2] for name in figures if name.startswith(f"{backend}.append.")]
        rows = [
            (name, *(_spread(figures[f"{backend}.{action}.{name}"]) for action in ("append", "read"))) for name in names
        ]
        rounds = figures[f"{backend}.append.{OURS}"].rounds
        parts[backend] = _table((f"{title}, {rounds} rounds", "append", "read newest 50"), rows)
        at_once = [
            (name, *(_spread(figures[f"{backend}.{measure}.{name}"]) for measure in ("tasks", "tasks_p99")))
            for name in names
            if f"{backend}.tasks.{name}" in figures
        ]
        rounds = figures[f"{backend}.tasks.{OURS_ASYNC}"].rounds
        parts[f"{backend}_tasks"] = _table((f"{title}, {rounds} rounds", "time of an append", "p99"), at_once)
    return parts


def _concurrency(results: Results, drawings: Path) -> dict[str, str]:
    figures = results.figures
    plots.concurrency(figures, drawings / "concurrency.svg")
    measures = ("throughput", "p50", "p99")
    header = ("writers", *(f"{face}: {measure}" for face in FACES for measure in measures))
    tables = []
    for backend, title in TITLES.items():
        for sessions, whose in SESSIONS.items():
            rows = []
            for writers in WRITERS:
                cells = [str(writers)]
                for face in FACES:
                    throughput, p50, p99 = (
                        figures[f"{backend}.{face}.{sessions}.{writers}.{measure}"] for measure in measures
                    )
                    cells += [_spread(throughput), _short(p50.median), _short(p99.median)]
                rows.append(cells)
            rounds = figures[f"{backend}.sync.{sessions}.1.throughput"].rounds
            tables += [f"{title}, {whose}, {rounds} rounds:", _table(header, rows)]
    reads = [
        (
            f"{title}, `{read}`, {READERS} {MANY[face]}",
            *_measured(results, f"{backend}.{face}.{read}", ("p50", "p99")),
        )
        for backend, title in TITLES.items()
        for read in READS
        for face in FACES
    ]
    return {"tables": "\n\n".join(tables), "reads": _table(("", "p50", "p99"), reads)}


def _processes(results: Results, _drawings: Path) -> dict[str, str]:
    commit = results.notes["before"]
    rounds = results.figures[f"sqlite.now.{next(iter(TOGETHER))}.throughput"].rounds

    def table(title: str, code: str, cells: Mapping[str, str], measures: Sequence[str]) -> str:
        return _table(
            (title, *measures),
            (
                (f"{TITLES[backend]}, {cells[cell]}", *_measured(results, f"{backend}.{code}.{cell}", measures))
                for backend in TITLES
                for cell in cells
            ),
        )

    return {
        "together": table(f"{rounds} rounds", "now", TOGETHER, ("throughput", "p50", "p99", "longest")),
        "before": _LEFT_OUT
        if commit is None
        else table(f"commit {commit}", "before", ALONE | STARTS | TOGETHER, ("throughput", "p99", "longest")),
    }


def _measured(results: Results, name: str, measures: Iterable[str]) -> Iterable[str]:
    return (_spread(results.figures[f"{name}.{measure}"]) for measure in measures)


def _starting(results: Results, _drawings: Path) -> dict[str, str]:
    return {
        "messages": str(IMPORTED_MESSAGES),
        "costs": _by_backend(results, _STARTS),
    }


def _ceiling(results: Results, _drawings: Path) -> dict[str, str]:
    return {
        "groups": _by_backend(results, SESSIONS),
        "starts": _by_backend(results, _STARTS),
    }


def _growth(results: Results, drawings: Path) -> dict[str, str]:
    figures, sizes = results.figures, results.notes["sizes"]
    operations = [*dict.fromkeys(name.split(".")[1] for name in figures)]
    plots.growth(figures, sizes, operations, drawings / "growth.svg")
    columns = [f"{size:,} sessions" for size in sizes]
    parts = {}
    for backend, title in TITLES.items():
        rows = [
            (operation, *(_spread(figures[f"{backend}.{operation}.{size}"]) for size in sizes[1:]))
            for operation in operations
        ]
        rounds = figures[f"{backend}.{operations[0]}.{sizes[0]}"].rounds
        parts[backend] = _table((f"{title}, {rounds} rounds", *columns[1:]), rows)
    taken = results.notes["bytes_per_session"]
    rows = [(title, *(f"{number:,.0f}" for number in taken[backend])) for backend, title in TITLES.items()]
    return parts | {"bytes_per_session": _table(("", *columns), rows)}


def _waiting(results: Results, _drawings: Path) -> dict[str, str]:
    return {
        "waiters": f"{WAITERS:,}",
        "heard": _by_backend(results, {f"heard.{name}": title for name, title in HEARD.items()}),
        "idle": _by_backend(results, {f"idle.{number}": f"{number:,} waiting" for number in IDLE}),
        "append": _by_backend(results, {"append": f"{WAITERS:,} waiting"}),
    }


_PARTS: Final[dict[str, Callable[[Results, Path], dict[str, str]]]] = {
    "floor": _floor,
    "peers": _peers,
    "concurrency": _concurrency,
    "starting": _starting,
    "ceiling": _ceiling,
    "processes": _processes,
    "waiting": _waiting,
    "growth": _growth,
}


def _durability(results: Results) -> str:
    """Who had which settings, one line for each combination."""
    alike: dict[str, list[str]] = {}
    for name, settings in results.durability.items():
        combination = ", ".join(f"`{setting}` = {value}" for setting, value in settings.items())
        alike.setdefault(combination, []).append(TITLES.get(name, name))
    lines = [f"- {combination}: {'; '.join(names)}" for combination, names in alike.items()]
    return "\n".join(["Durability, as each connection reported it:", "", *lines])


def _by_backend(results: Results, rows: Mapping[str, str]) -> str:
    """Figures of both databases, one line for each name, with its title."""
    figures = results.figures
    rounds = next(iter(figures.values())).rounds
    cells = ((title, *(_spread(figures[f"{backend}.{name}"]) for backend in TITLES)) for name, title in rows.items())
    return _table((f"{rounds} rounds", *TITLES.values()), cells)


def _spread(figure: Figure) -> str:
    if figure.low == figure.high == 1:
        return "1"
    return f"{_short(figure.median)} ({_short(figure.low)} to {_short(figure.high)})"


def _short(value: float) -> str:
    """Three digits, more only if more stand before the point."""
    return f"{value:.3f}" if value < 1 else f"{value:.{max(0, 2 - int(math.log10(value)))}f}"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)

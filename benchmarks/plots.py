"""The plots of the page, as SVG that comes out the same for the same figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from benchmarks.databases import TITLES
from benchmarks.goals import GOALS
from benchmarks.peers.names import OURS

Figures: TypeAlias = Mapping[str, Mapping[str, float]]

_OURS, _OTHER, _GOAL = "#1f6f8b", "#7f8c8d", "#c0392b"
_LINES = ("#1f6f8b", "#e08e0b", "#5b8c3a", "#8e5ea2", "#7f8c8d", "#c2185b", "#4db6ac")

mpl.use("svg")
plt.rcParams.update(
    {
        # Text stays text, and element ids do not change from run to run.
        "svg.fonttype": "none",
        "svg.hashsalt": "sessions_db",
        "font.family": "sans-serif",
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": 10,
        "legend.frameon": False,
        "figure.constrained_layout.use": True,
    }
)

_FLOOR = {
    "sqlite.FULL.append": "SQLite append, WAL + FULL",
    "sqlite.NORMAL.append": "SQLite append, WAL + NORMAL",
    "sqlite.read": "SQLite, read newest 50",
    "postgresql.append": "Postgres append",
    "postgresql.read": "Postgres, read newest 50",
}


def floor(figures: Figures, path: Path) -> None:
    """How near each operation comes to the plain driver."""
    bounds = {name: goal.bound for goal in GOALS if goal.section == "floor" for name in goal.figures}
    plot, axes = plt.subplots(figsize=(7, 2.4))
    names = [*_FLOOR]
    _bars(axes, [_FLOOR[name] for name in names], [figures[name] for name in names])
    for row, name in enumerate(names):
        axes.plot([bounds[name]] * 2, [row - 0.45, row + 0.45], color=_GOAL, linewidth=1.5)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xlim(left=0)
    axes.set_xlabel("speed, raw driver = 1 (red: the goal)")
    _save(plot, path)


def peers(figures: Figures, action: str, path: Path) -> None:
    """What each peer takes for an append or a read."""
    plot, panels = plt.subplots(1, 2, figsize=(10, 3))
    for backend, axes in zip(TITLES, panels, strict=True):
        prefix = f"{backend}.{action}."
        found = {name.removeprefix(prefix): figure for name, figure in figures.items() if name.startswith(prefix)}
        _dots(axes, [*found], [*found.values()])
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(_times))
        axes.axvline(1, color="black", linewidth=0.8)
        axes.set_title(TITLES[backend])
    timed = "an append" if action == "append" else "a read of the newest 50"
    plot.supxlabel(f"time of {timed}, sessions_db = 1", fontsize=9)
    _save(plot, path)


def concurrency(figures: Figures, notes: Mapping[str, Any], path: Path) -> None:
    """Throughput and latency over the number of writers."""
    measures = {"throughput": "throughput", "p50": "median latency", "p99": "99th percentile of latency"}
    plot, panels = plt.subplots(len(measures), 2, figsize=(9, 8), sharex=True)
    for row, (measure, title) in enumerate(measures.items()):
        for backend, axes in zip(TITLES, panels[row], strict=True):
            colours = iter(_LINES)
            for face in notes["faces"]:
                for sessions, style in zip(notes["sessions"], ("-", "--"), strict=True):
                    if style == "-":
                        colour = next(colours)
                    line = [figures[f"{backend}.{face}.{sessions}.{writers}.{measure}"] for writers in notes["writers"]]
                    label = f"{face}, {'a session each' if sessions == 'own' else 'all in one session'}"
                    _line(axes, notes["writers"], line, label, colour, style)
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            if measure == "throughput":
                axes.set_ylim(bottom=0)
            else:
                axes.set_yscale("log")
            axes.yaxis.set_major_formatter(FuncFormatter(_times))
            axes.set_title(f"{TITLES[backend]}: {title}")
            axes.axhline(1, color="black", linewidth=0.8)
            if row == len(measures) - 1:
                axes.set_xlabel("threads or tasks")
    panels[0][0].legend(fontsize=8)
    plot.supylabel("sync single writer = 1", fontsize=9)
    _save(plot, path)


def growth(figures: Figures, sizes: Sequence[int], operations: Sequence[str], path: Path) -> None:
    """Cost over the number of sessions."""
    plot, panels = plt.subplots(1, 2, figsize=(9, 3.2), sharey=True)
    for backend, axes in zip(TITLES, panels, strict=True):
        for operation, colour in zip(operations, _LINES, strict=True):
            line = [figures[f"{backend}.{operation}.{size}"] for size in sizes]
            _line(axes, sizes, line, operation, colour, "-")
        axes.axhline(1.3, color=_GOAL, linewidth=1)
        axes.set_xscale("log")
        axes.set_ylim(bottom=0)
        axes.set_title(TITLES[backend])
        axes.set_xlabel("sessions in the database")
    panels[0].set_ylabel(f"cost, at {sizes[0]:,} sessions = 1")
    panels[1].legend(fontsize=8)
    _save(plot, path)


def _bars(axes: Axes, names: Sequence[str], found: Sequence[Mapping[str, float]]) -> None:
    medians = [figure["median"] for figure in found]
    axes.barh(names, medians, color=_OURS, xerr=_spreads(found), error_kw={"elinewidth": 0.8})
    _label(axes, found)


def _dots(axes: Axes, names: Sequence[str], found: Sequence[Mapping[str, float]]) -> None:
    # A bar needs a zero to start from, which a logarithmic axis has not.
    for row, (name, figure) in enumerate(zip(names, found, strict=True)):
        colour = _OURS if name.startswith(OURS) else _OTHER
        axes.errorbar([figure["median"]], [row], xerr=_spreads([figure]), fmt="o", color=colour, elinewidth=0.8)
    axes.set_yticks(range(len(names)), names)
    axes.margins(x=0.15)
    axes.grid(axis="x", color="#eeeeee")
    axes.set_axisbelow(True)
    _label(axes, found)


def _spreads(found: Sequence[Mapping[str, float]]) -> list[list[float]]:
    return [
        [figure["median"] - figure["low"] for figure in found],
        [figure["high"] - figure["median"] for figure in found],
    ]


def _label(axes: Axes, found: Sequence[Mapping[str, float]]) -> None:
    for row, figure in enumerate(found):
        text = f"{figure['median']:.3g}"
        axes.annotate(text, (figure["high"], row), (6, 0), textcoords="offset points", va="center", fontsize=8)
    axes.invert_yaxis()


def _line(
    axes: Axes, places: Sequence[int], found: Sequence[Mapping[str, float]], label: str, colour: str, style: str
) -> None:
    axes.plot(
        places, [figure["median"] for figure in found], style, color=colour, label=label, marker="o", markersize=3
    )
    lows, highs = [figure["low"] for figure in found], [figure["high"] for figure in found]
    axes.fill_between(places, lows, highs, color=colour, alpha=0.12, linewidth=0)


def _times(value: float, _position: int | None) -> str:
    return f"{value:g}"


def _save(plot: Any, path: Path) -> None:
    plot.savefig(path, metadata={"Date": None, "Creator": None})
    plt.close(plot)

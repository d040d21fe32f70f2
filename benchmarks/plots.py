"""The plots of the page, as SVG files that are the same for the same figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from benchmarks.concurrency import FACES, SESSIONS, WRITERS
from benchmarks.databases import TITLES
from benchmarks.goals import GOALS
from benchmarks.names import OURS
from benchmarks.rounds import Figure

_TIMED = {
    "append": "an append, sessions_db",
    "read": "a read of the newest 50, sessions_db",
    "tasks": "an append, 64 tasks at once, sessions_db, async",
}

_OURS, _OTHER, _GOAL = "#1f6f8b", "#7f8c8d", "#c0392b"
_LINES = ("#1f6f8b", "#e08e0b", "#5b8c3a", "#8e5ea2", "#7f8c8d", "#c2185b", "#4db6ac")

mpl.use("svg")
plt.rcParams.update(
    {
        # Text stays text, and element ids don't change from run to run.
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


def peers(figures: Mapping[str, Figure], action: str, path: Path) -> None:
    """What each peer takes for an append, a read, or an append among those of many tasks."""
    plot, panels = plt.subplots(1, 2, figsize=(10, 3))
    for backend, axes in zip(TITLES, panels, strict=True):
        prefix = f"{backend}.{action}."
        _dots(axes, {name.removeprefix(prefix): found for name, found in figures.items() if name.startswith(prefix)})
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(_times))
        axes.set_title(TITLES[backend])
    plot.supxlabel(f"time of {_TIMED[action]} = 1", fontsize=9)
    _save(plot, path)


def concurrency(figures: Mapping[str, Figure], path: Path) -> None:
    """Throughput and latency over the number of writers."""
    measures = {"throughput": "throughput", "p50": "median latency", "p99": "99th percentile of latency"}
    plot, panels = plt.subplots(len(measures), 2, figsize=(9, 8), sharex=True)
    for (measure, title), row in zip(measures.items(), panels, strict=True):
        for backend, axes in zip(TITLES, row, strict=True):
            for face, colour in zip(FACES, _LINES, strict=False):
                for sessions, style in zip(SESSIONS, ("-", "--"), strict=True):
                    line = [figures[f"{backend}.{face}.{sessions}.{writers}.{measure}"] for writers in WRITERS]
                    _line(axes, WRITERS, line, f"{face}, {SESSIONS[sessions]}", colour, style)
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter(FuncFormatter(_times))
            if measure == "throughput":
                axes.set_ylim(bottom=0)
            else:
                axes.set_yscale("log")
            axes.yaxis.set_major_formatter(FuncFormatter(_times))
            axes.set_title(f"{TITLES[backend]}: {title}")
            axes.axhline(1, color="black", linewidth=0.8)
    for axes in panels[-1]:
        axes.set_xlabel("threads or tasks")
    panels[0][0].legend(fontsize=8)
    plot.supylabel("sync single writer = 1", fontsize=9)
    _save(plot, path)


def growth(figures: Mapping[str, Figure], sizes: Sequence[int], operations: Sequence[str], path: Path) -> None:
    """Cost over the number of sessions."""
    (bound,) = {goal.bound for goal in GOALS if goal.section == "growth"}
    plot, panels = plt.subplots(1, 2, figsize=(9, 3.2), sharey=True)
    for backend, axes in zip(TITLES, panels, strict=True):
        for operation, colour in zip(operations, _LINES, strict=True):
            line = [figures[f"{backend}.{operation}.{size}"] for size in sizes]
            _line(axes, sizes, line, operation, colour, "-")
        axes.axhline(bound, color=_GOAL, linewidth=1)
        axes.set_xscale("log")
        axes.set_ylim(bottom=0)
        axes.set_title(TITLES[backend])
        axes.set_xlabel("sessions in the database")
    panels[0].set_ylabel(f"cost, at {sizes[0]:,} sessions = 1")
    panels[1].legend(fontsize=8)
    _save(plot, path)


def _dots(axes: Axes, found: Mapping[str, Figure]) -> None:
    for row, (name, figure) in enumerate(found.items()):
        spread = [[figure.median - figure.low], [figure.high - figure.median]]
        colour = _OURS if name.startswith(OURS) else _OTHER
        axes.errorbar([figure.median], [row], xerr=spread, fmt="o", color=colour, elinewidth=0.8)
        label = f"{figure.median:.3g}"
        axes.annotate(label, (figure.high, row), (6, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_yticks(range(len(found)), [*found])
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.grid(axis="x", color="#eeeeee")
    axes.set_axisbelow(True)
    axes.axvline(1, color="black", linewidth=0.8)


def _line(axes: Axes, places: Sequence[int], found: Sequence[Figure], label: str, colour: str, style: str) -> None:
    medians = [figure.median for figure in found]
    axes.plot(places, medians, style, color=colour, label=label, marker="o", markersize=3)
    lows, highs = [figure.low for figure in found], [figure.high for figure in found]
    axes.fill_between(places, lows, highs, color=colour, alpha=0.12, linewidth=0)


def _times(value: float, _position: int | None) -> str:
    return f"{value:g}"


def _save(plot: Any, path: Path) -> None:
    plot.savefig(path, metadata={"Date": None, "Creator": None})
    plt.close(plot)

"""Charts as SVG images in the page itself, made on the server."""

from __future__ import annotations

import base64
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

import pygal
from pygal.style import Style

from sessions_db import escaping

# It adds an import hook for its maps, of a kind that Python 3.12 ignores, and for which 3.11 warns of failed imports.
sys.meta_path[:] = [hook for hook in sys.meta_path if type(hook).__module__ != pygal.__name__]

# Of enough contrast with the paper in light and in dark.
_COLOURS: Final = {
    "active": "#3d9a63",
    "completed": "#5b84b1",
    "error": "#d0524f",
    "timeout": "#b87a1e",
    "stopped": "#9a6bbd",
}
_PLAIN: Final = "#5b84b1"
_INK: Final = "inline:svg{color:#1c1f24}@media(prefers-color-scheme:dark){svg{color:#e6e8eb}}"

# XML has no place for these.
_NOT_XML: Final = re.compile("[\ufffe\uffff]")
_LABEL: Final = 28
_ROOM: Final = 45


def stacked(labels: Sequence[str], series: Mapping[str, Sequence[int]]) -> str:
    """A bar for each label, of a part for each series, as the address of an image."""
    colours = [_COLOURS.get(name, _PLAIN) for name in series]
    # As many as have room beside each other.
    every = max(1, len(labels) // min(6, _ROOM // len(labels[0])))
    chart = pygal.StackedBar(
        **_looks(colours, 280),
        show_legend=len(series) > 1,
        legend_at_bottom=True,
        legend_at_bottom_columns=5,
        x_labels_major=labels[::every],
        show_minor_x_labels=False,
    )
    chart.x_labels = labels
    for name, counts in series.items():
        chart.add(name, list(counts))
    return _address(chart)


def bars(labels: Sequence[str], values: Sequence[float], colour: str, most: float | None = None) -> str:
    """A horizontal bar for each label, the first at the top; the axis ends at the largest value, or at `most`."""
    # It draws from the bottom up.
    chart = pygal.HorizontalBar(
        **_looks([_COLOURS[colour]], 60 + 26 * len(labels)),
        show_legend=False,
        range=None if most is None else (0, most),
    )
    chart.x_labels = [_label(label) for label in reversed(labels)]
    chart.add("", list(reversed(values)))
    return _address(chart)


def _looks(colours: Sequence[str], height: int) -> dict[str, object]:
    return {
        "width": 580,
        "height": height,
        "explicit_size": True,
        "disable_xml_declaration": True,
        "js": (),
        "css": ("file://style.css", "file://graph.css", _INK),
        "margin": 8,
        # The labels are short already.
        "truncate_label": -1,
        "max_scale": 6,
        "style": Style(
            background="transparent",
            plot_background="transparent",
            foreground="currentColor",
            foreground_strong="currentColor",
            foreground_subtle="currentColor",
            guide_stroke_color="#8886",
            major_guide_stroke_color="#8886",
            opacity="1",
            font_family="system-ui, sans-serif",
            label_font_size=13,
            major_label_font_size=13,
            legend_font_size=13,
            no_data_font_size=16,
            colors=tuple(colours),
        ),
    }


def _label(text: str) -> str:
    shown = _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", escaping.printable(text))
    return shown if len(shown) <= _LABEL else f"{shown[: _LABEL - 1]}…"


def _address(chart: Any) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(chart.render().encode()).decode()

"""Figures in the look of all pages: thin axes, letters that keep their size, points that link."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from pipelines.report.charts import INK, blank_figure, to_svg
from tuning.report.words import Measure

PAPER = "#fdfefc"
"""Stands for the colour behind a chart until the SVG is written."""
GREY, RED = "#8d97a5", "#d2504a"
PIXELS_PER_INCH = 100
CROWD = 30
"""Lines that can be drawn over each other at full strength."""
FAR = 3.0
"""A value is left out of the scale when it is worse than the median by this many times what the
best is better."""


@dataclass(frozen=True)
class Drawing:
    """An SVG, and the width in pixels at which its letters have the size of the page's."""

    svg: Markup
    width: int


def axes_of(width: float, height: float) -> tuple[Figure, Any]:
    """Return an empty figure of that many inches, and its axes."""
    figure, axes = blank_figure(width, height)
    figure.set_layout_engine("constrained", w_pad=0.06, h_pad=0.06)
    axes.title.set(color=INK, size=9)
    return figure, axes


def drawing(figure: Figure, label: str, titles: Mapping[int, str] | None = None) -> Drawing:
    """Return a finished figure.

    Args:
        figure: what was drawn.
        label: what it shows, for those who cannot see it.
        titles: words for each trial whose points link to it (see `link_of`).
    """
    text = to_svg(figure, label).replace(PAPER, "var(--card)")
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # the same in every drawing, and of no use
    for number, words in (titles or {}).items():
        text = re.sub(
            rf'<a xlink:href="{re.escape(link_of(number))}"[^>]*>',
            f'<a href="{link_of(number)}"><title>{escape(words)}</title>',
            text,
        )
    return Drawing(Markup(text), round(figure.get_figwidth() * PIXELS_PER_INCH))


def link_of(number: int) -> str:
    """Return where a trial is on the page."""
    return f"#trial{number}"


def points(
    axes: Any, x: Sequence[float], y: Sequence[float], numbers: Sequence[int], **look: Any
) -> None:
    """Draw a point for each trial, which links to its line in the table."""
    if len(x):
        drawn = axes.scatter(x, y, **look)
        drawn.set_urls([link_of(number) for number in numbers])


def grid(axes: Any, axis: str = "y") -> None:
    """Draw faint lines behind the points."""
    axes.grid(axis=axis, color=INK, alpha=0.12, lw=0.6)
    axes.set_axisbelow(True)


def fade(count: int) -> float:
    """Return how strong one of so many lines may be, so that all together can be told apart."""
    return min(1.0, CROWD / max(count, 1))


def scale_limits(goal: Measure, values: Sequence[float]) -> tuple[float, float]:
    """Return the ends of the scale for values of a goal, in its unit."""
    return limits([goal.factor * value for value in values], goal.maximize, goal.least)


def limits(values: Sequence[float], maximize: bool, least: float = 0.0) -> tuple[float, float]:
    """Return the ends of a scale on which good values can be told apart.

    A few very bad values, as of a run that learned nothing, are left outside.

    Args:
        values: what is to be shown.
        maximize: whether more is better.
        least: the scale is at least so long.
    """
    found = np.asarray(values, dtype=float)
    if not found.size:
        return 0.0, 1.0
    low, high, middle = float(found.min()), float(found.max()), float(np.median(found))
    if maximize and high > middle:
        low = float(found[found >= middle - FAR * (high - middle)].min())
    elif not maximize and low < middle:
        high = float(found[found <= middle + FAR * (middle - low)].max())
    short = max(0.0, least - (high - low)) / 2
    pad = max(short, 0.06 * (high - low)) or 0.01 * abs(high) or 1.0
    return low - pad, high + pad

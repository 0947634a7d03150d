"""The forest plot: each method's accuracy with its intervals, a column per setting.

Dot: accuracy; line: 95 % over episodes; bar: 95 % over classes; small dots: training runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from pipelines.compare.panel import Panel, Row
from pipelines.report.charts import COLOURS

LEADER, OTHER = COLOURS[0], "#8593a6"
FAR = 1.5
"""A method is off the scale when it is further below than this times what the others span."""


def order(panels: Sequence[Panel]) -> list[str]:
    """Return the methods from top to bottom: by how far each is from the best, on average."""
    lags: dict[str, list[float]] = {}
    for panel in panels:
        for row in panel.rows:
            lags.setdefault(row.name, []).append(panel.rows[0].mean.mean - row.mean.mean)
    return sorted(lags, key=lambda name: fmean(lags[name]))


def draw_forest(axes: Any, panel: Panel, names: Sequence[str], ink: str, labelled: bool) -> None:
    """Draw one setting.

    Args:
        axes: where.
        panel: what.
        names: methods from top to bottom; those that the panel lacks keep an empty line.
        ink: colour of text and lines.
        labelled: whether to write the methods' names.
    """
    leaders = {panel.rows[i].name for i in panel.leaders}
    low, high = _range(panel.rows)
    for row in panel.rows:
        place = names.index(row.name)
        colour = LEADER if row.name in leaders else OTHER
        _draw_row(axes, row, place, colour, low)
        axes.annotate(
            f"{100 * row.mean.mean:.1f}", (1, place), xycoords=("axes fraction", "data"),
            xytext=(6, 0), textcoords="offset points", va="center", color=ink, fontsize=8,
            fontweight="bold" if row.name in leaders else "normal", annotation_clip=False,
        )  # fmt: skip
    axes.set_xlim(low, high)
    axes.set_ylim(len(names) - 0.45, -0.55)
    axes.set_yticks(range(len(names)), names if labelled else [])
    axes.tick_params(axis="y", length=0, labelsize=9, pad=9)
    axes.set_axisbelow(True)
    axes.grid(axis="x", color=ink, alpha=0.12, lw=0.6)
    axes.set_title(panel.title, loc="left", fontsize=10, color=ink, fontweight="bold", pad=8)
    axes.set_xlabel("accuracy in %")


def _draw_row(axes: Any, row: Row, place: int, colour: str, low: float) -> None:
    """Draw the intervals of one method; an arrow at the edge when it is off the scale."""
    mean = 100 * row.mean.mean
    if mean < low:
        axes.plot(low, place, marker="<", ms=6, color=colour, clip_on=False)
        return
    half, classes = 100 * row.mean.half_width, 100 * row.across.half_width
    if not math.isnan(classes):
        axes.hlines(place, mean - classes, mean + classes, color=colour, alpha=0.28, lw=8)
    axes.hlines(place, mean - half, mean + half, color=colour, lw=2)
    axes.plot(mean, place, marker="o", ms=5, color=colour)
    if row.runs > 1:
        runs = [100 * value for value in row.run_means]
        axes.plot(runs, [place + 0.33] * row.runs, ls="", marker=".", ms=3.5, color=colour)


def _range(rows: Sequence[Row]) -> tuple[float, float]:
    """Return the limits of the scale in %, leaving out what is far below all others."""
    shown = list(rows)  # the most accurate first
    while len(shown) > 2:
        least = min(_ends(row)[0] for row in shown[:-1])
        span = max(_ends(row)[1] for row in shown[:-1]) - least
        if least - _ends(shown[-1])[1] < FAR * span:
            break
        shown.pop()
    low = min(_ends(row)[0] for row in shown)
    high = max(_ends(row)[1] for row in shown)
    margin = 0.06 * (high - low) or 0.5
    return low - margin, high + margin


def _ends(row: Row) -> tuple[float, float]:
    """Return the outermost points of a row's drawing, in %."""
    widths = (row.mean.half_width, row.across.half_width)
    wide = max(width for width in widths if not math.isnan(width))
    points = [row.mean.mean - wide, row.mean.mean + wide, *row.run_means]
    return 100 * min(points), 100 * max(points)

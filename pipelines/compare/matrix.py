"""The matrix of paired differences: how far the row's method is ahead of the column's."""

from __future__ import annotations

from statistics import quantiles
from typing import Any

from matplotlib.patches import Rectangle

from pipelines.compare.differences import Difference
from pipelines.compare.panel import Panel
from pipelines.report.charts import COLOURS

AHEAD, BEHIND = COLOURS[0], COLOURS[1]
CELL = 0.5
"""Side of a cell in inches."""


def draw_matrix(axes: Any, panel: Panel, ink: str) -> None:
    """Draw every difference in points; empty cells are those that cannot be told from none."""
    names = [row.name for row in panel.rows]
    strongest = _strongest(panel)
    for (i, j), difference in panel.differences.items():
        _draw_cell(axes, (j, i), difference, strongest, ink)
    for i in range(len(names)):
        axes.add_patch(Rectangle((i - 0.47, i - 0.47), 0.94, 0.94, facecolor=ink, alpha=0.08, lw=0))
    axes.set_xlim(-0.5, len(names) - 0.5)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_aspect("equal")
    axes.set_yticks(range(len(names)), names)
    axes.xaxis.tick_top()
    axes.set_xticks(range(len(names)), names, rotation=40, ha="left", rotation_mode="anchor")
    axes.tick_params(length=0, labelsize=9)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _draw_cell(
    axes: Any, place: tuple[int, int], difference: Difference, strongest: float, ink: str
) -> None:
    x, y = place
    corner = (x - 0.47, y - 0.47)
    axes.add_patch(
        Rectangle(corner, 0.94, 0.94, facecolor="none", edgecolor=ink, alpha=0.14, lw=0.5)
    )
    if difference.real:
        alpha = 0.12 + 0.55 * min(1.0, abs(difference.mean) / strongest)
        colour = AHEAD if difference.mean > 0 else BEHIND
        axes.add_patch(Rectangle(corner, 0.94, 0.94, facecolor=colour, alpha=alpha, lw=0))
    axes.text(
        x, y, _short(difference.mean), ha="center", va="center", fontsize=8, color=ink,
        alpha=1.0 if difference.real else 0.6,
        fontweight="bold" if difference.real_across_classes else "normal",
    )  # fmt: skip


def _strongest(panel: Panel) -> float:
    """Return the difference that gets the full colour: larger ones are no stronger."""
    sizes = sorted(abs(difference.mean) for difference in panel.differences.values())
    return max(0.002, quantiles(sizes, n=4)[-1])


def _short(value: float) -> str:
    """Return a difference in points in at most five letters."""
    points = 100 * abs(value)
    text = f"{points:.2f}" if points < 9.995 else f"{points:.1f}"
    sign = "" if float(text) == 0 else "+" if value > 0 else "−"
    return sign + text

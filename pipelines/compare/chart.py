"""The pictures of a comparison: parts for the page, and all in one PNG for a README."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from pipelines.compare.comparison import Comparison
from pipelines.compare.forest import draw_forest, order
from pipelines.compare.matrix import CELL, draw_matrix
from pipelines.compare.panel import Panel
from pipelines.report.charts import INK, to_svg

PAPER_INK, PAPER = "#1c2430", "#ffffff"
COLUMNS = 2
LINE = 0.36
"""Height of a method's line in inches."""
LETTER = 0.075
"""Width of a letter of a method's name in inches."""
CAPTION_LETTER = 0.078
LEAST_WIDTH = 7.0
FOREST_KEY = (
    "Dot: accuracy, line: 95 % over episodes (or images), bar: 95 % over classes, small dots: "
    "training runs. Blue: cannot be told from the best."
)
MATRIX_KEY = (
    "Row minus column, in points. Coloured: real on these classes, bold: on other classes too; "
    "grey: cannot be told."
)


class Picture(NamedTuple):
    """An SVG and the width in inches at which its letters have their proper size."""

    svg: str
    width: float


def forest_svg(panels: Sequence[Panel]) -> Picture:
    """Return the forest plot of all settings, in the colours of the page's text."""
    width, height = _forest_size(panels)
    figure = _figure(width, height)
    _draw_forests(figure, panels, INK)
    return Picture(to_svg(figure, "accuracies with intervals"), width)


def matrix_svg(panel: Panel) -> Picture:
    """Return the matrix of one setting."""
    width, height = _matrix_size(panel)
    figure = _figure(width, height)
    draw_matrix(_axes(figure, 1, 1, INK)[0], panel, INK)
    return Picture(to_svg(figure, f"differences, {panel.title}"), width)


def png(comparison: Comparison, dots_per_inch: int = 160) -> bytes:
    """Return forest plot and matrices in one picture on white."""
    panels = comparison.panels
    forests = _forest_size(panels)
    matrices = [_matrix_size(panel) for panel in panels]
    columns = min(COLUMNS, len(panels))
    lines = -(-len(panels) // columns)
    heights = [forests[1] + 0.5, lines * max(size[1] + 0.5 for size in matrices) + 0.5]
    width = max(LEAST_WIDTH, forests[0], columns * max(size[0] for size in matrices) + 0.3)
    figure = Figure(figsize=(width, sum(heights)), layout=_layout(), facecolor=PAPER)
    parts: Any = figure.subfigures(2, 1, height_ratios=heights)
    upper, lower = parts
    _draw_forests(upper, panels, PAPER_INK)
    _explain(upper, FOREST_KEY, width)
    for axes, panel in zip(_axes(lower, len(panels), columns, PAPER_INK), panels, strict=True):
        draw_matrix(axes, panel, PAPER_INK)
        axes.set_title(panel.title, loc="left", fontsize=10, color=PAPER_INK, fontweight="bold")
    _explain(lower, MATRIX_KEY, width)
    stream = io.BytesIO()
    canvas = FigureCanvasAgg(figure)
    figure.set_dpi(dots_per_inch)
    canvas.print_png(stream)  # type: ignore[no-untyped-call]
    return stream.getvalue()


def _draw_forests(figure: Figure | SubFigure, panels: Sequence[Panel], ink: str) -> None:
    names = order(panels)
    columns = min(COLUMNS, len(panels))
    axes = _axes(figure, len(panels), columns, ink)
    for number, (part, panel) in enumerate(zip(axes, panels, strict=True)):
        draw_forest(part, panel, names, ink, labelled=number % columns == 0)


def _explain(figure: SubFigure, words: str, width: float) -> None:
    """Write a caption below, in as many lines as `width` inches need."""
    lines = textwrap.fill(words, int(width / CAPTION_LETTER))
    figure.supxlabel(lines, fontsize=8.5, color=PAPER_INK, alpha=0.75)


def _forest_size(panels: Sequence[Panel]) -> tuple[float, float]:
    names = order(panels)
    columns = min(COLUMNS, len(panels))
    label = LETTER * max(map(len, names))
    lines = -(-len(panels) // columns)
    return label + columns * 4.2, lines * (0.9 + LINE * len(names))


def _matrix_size(panel: Panel) -> tuple[float, float]:
    label = LETTER * max(len(row.name) for row in panel.rows)
    side = CELL * len(panel.rows)
    return label + side + 0.75 * label + 0.2, side + 0.65 * label + 0.3


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout=_layout())
    figure.patch.set_alpha(0)
    return figure


def _layout() -> ConstrainedLayoutEngine:
    return ConstrainedLayoutEngine(w_pad=0.14, h_pad=0.12, wspace=0.04, hspace=0.04)


def _axes(figure: Figure | SubFigure, count: int, columns: int, ink: str) -> list[Any]:
    """Return `count` empty axes, row by row, with thin lines in the colour of the text."""
    found = figure.subplots(-(-count // columns), columns, squeeze=False).flatten().tolist()
    for axes in found[count:]:
        axes.set_axis_off()
    for axes in found[:count]:
        axes.patch.set_alpha(0)
        axes.tick_params(colors=ink, labelsize=8, width=0.6, length=3)
        axes.xaxis.label.set(color=ink, size=8)
        for side, spine in axes.spines.items():
            spine.set(visible=side == "bottom", color=ink, linewidth=0.6)
    return found[:count]

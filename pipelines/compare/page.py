"""A comparison as one HTML file without anything outside it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from pipelines.compare.chart import (
    FOREST_KEY,
    MATRIX_KEY,
    Picture,
    forest_svg,
    matrix_svg,
)
from pipelines.compare.comparison import Comparison
from pipelines.compare.panel import Panel, Row
from pipelines.compare.table import about, cells, header
from pipelines.compare.words import cautions, sentences

PIXELS_PER_INCH = 100


def html(comparison: Comparison) -> str:
    """Return the page."""
    environment = Environment(
        loader=PackageLoader("pipelines", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    panels = comparison.panels
    return environment.get_template("compare.html.j2").render(
        names=comparison.names,
        made=time.strftime("%Y-%m-%d %H:%M"),
        forest=_figure(forest_svg(panels)),
        forest_key=FOREST_KEY,
        matrix_key=MATRIX_KEY,
        panels=[_shown(panel) for panel in panels],
        cautions=cautions(panels),
        notes=comparison.notes,
        sources=_sources(panels),
    )


def _shown(panel: Panel) -> dict[str, Any]:
    leaders = set(panel.leaders)
    sorts = ["leader" if i in leaders else "" for i in range(len(panel.rows))]
    return {
        "title": panel.title,
        "about": about(panel).partition(": ")[2],
        "header": header(panel),
        "rows": list(zip(sorts, cells(panel), strict=True)),
        "words": sentences(panel),
        "matrix": _figure(matrix_svg(panel)),
        "bank": panel.bank,
    }


def _figure(picture: Picture) -> dict[str, Any]:
    """Return an SVG and the width at which its letters have the size of the page's."""
    return {"svg": Markup(picture.svg), "width": round(picture.width * PIXELS_PER_INCH)}


def _sources(panels: Sequence[Panel]) -> list[dict[str, Any]]:
    """Return where each method's numbers come from, each training run once."""
    rows: dict[str, list[Row]] = {}
    for panel in panels:
        for row in panel.rows:
            rows.setdefault(row.name, []).append(row)
    return [
        {
            "name": name,
            "runs": list(
                dict.fromkeys(
                    (
                        "" if item.seed is None else f"seed {item.seed}",
                        str(item.place),
                        f"{item.model}, {item.protocol}",
                        item.weights[:12],
                    )
                    for row in own
                    for item in row.answers
                )
            ),
        }
        for name, own in rows.items()
    ]

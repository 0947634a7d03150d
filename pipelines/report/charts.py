"""Small charts as inline SVG whose lines and letters take the colour of the page's text."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import rc_context
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

INK = "#010203"
"""Stands for the text colour until the SVG is written, where it becomes `currentColor`."""
COLOURS = ("#2f7ed8", "#e4813b", "#2aa583", "#c2559d", "#8a7bd1", "#b59a1f")

SERIES_GROUPS: tuple[tuple[str, str, re.Pattern[str]], ...] = (
    ("train", "Loss", re.compile(r"^loss")),
    ("validation", "Validation accuracy", re.compile(r"accuracy$")),
    ("train", "Teacher: entropy and KL to uniform", re.compile(r"^teacher_(entropy|kl)$")),
    ("train", "Effective rank of the features", re.compile(r"effective_rank")),
    ("train", "Norm of the centre", re.compile(r"center_norm")),
    ("train", "Learning rate", re.compile(r"^lr$")),
    ("train", "Gradient norm", re.compile(r"^grad_?(ient_)?norm")),
    ("train", "Images per second", re.compile(r"images_per_second")),
)
"""Kind of line, title, names: what is shown together. Other numbers get a chart each."""
HIDDEN = {"epoch", "half_width", "tasks", "accuracy_ci95", "ci95"}

Points = Sequence[tuple[float, float]]


def curves(series: Mapping[str, Mapping[str, Points]]) -> list[tuple[str, str]]:
    """Return (title, SVG) for the logged numbers of one train stage."""
    left = {
        (kind, name): points
        for kind, names in series.items()
        for name, points in names.items()
        if name not in HIDDEN and points
    }
    charts = []
    for kind, title, pattern in SERIES_GROUPS:
        chosen = {
            name: left.pop((k, name)) for k, name in list(left) if _in(k, name, kind, pattern)
        }
        if chosen:
            charts.append((title, line_chart(chosen)))
    for (kind, name), points in left.items():
        title = name.replace("_", " ").capitalize()
        charts.append(
            (title if kind == "train" else f"{title} ({kind})", line_chart({name: points}))
        )
    return charts


def _in(kind: str, name: str, wanted: str, pattern: re.Pattern[str]) -> bool:
    return kind == wanted and pattern.search(name) is not None


def line_chart(series: Mapping[str, Points]) -> str:
    """Return an SVG of one or more lines over steps."""
    figure, axes = blank_figure(3.4, 2.1)
    for number, (name, points) in enumerate(series.items()):
        steps, values = zip(*points, strict=True)
        marker = "o" if len(points) < 20 else None
        colour = COLOURS[number % len(COLOURS)]
        axes.plot(steps, values, color=colour, lw=1.4, marker=marker, ms=3, label=name)
    axes.set_xlabel("step")
    axes.margins(x=0.02)
    if len(series) > 1:
        axes.legend(frameon=False, fontsize=7, labelcolor=INK, loc="best")
    return to_svg(figure, ", ".join(series))


def interval_chart(rows: Sequence[tuple[str, float, float, float | None]]) -> str:
    """Return an SVG of means with intervals: (name, mean, half-width, class half-width) in %."""
    figure, axes = blank_figure(4.6, 0.6 + 0.36 * len(rows))
    places = range(len(rows))
    for place, (_, mean, half, classes) in zip(places, rows, strict=True):
        if classes is not None:
            axes.errorbar(mean, place, xerr=classes, color=COLOURS[0], alpha=0.45, lw=5, fmt="none")
        axes.errorbar(mean, place, xerr=half, color=COLOURS[0], lw=1.6, capsize=3, fmt="o", ms=4)
    axes.set_yticks(list(places), [name for name, *_ in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlabel("accuracy in %; line: over episodes, bar: over classes")
    axes.grid(axis="x", color=INK, alpha=0.12, lw=0.6)
    return to_svg(figure, "accuracies with intervals")


def class_chart(names: Sequence[str], values: Sequence[float]) -> str:
    """Return an SVG of the accuracy of each class in %, hardest first."""
    order = sorted(range(len(values)), key=lambda i: values[i])
    figure, axes = blank_figure(9.6, 2.2)
    axes.bar(range(len(order)), [values[i] for i in order], color=COLOURS[0], width=0.8)
    axes.set_ylabel("accuracy in %")
    axes.set_xlim(-0.7, len(order) - 0.3)
    few = len(order) <= 30
    axes.set_xticks(range(len(order)) if few else [])
    if few:
        shown = _short(names)
        axes.set_xticklabels([shown[i] for i in order], rotation=40, ha="right", fontsize=8)
    else:
        axes.set_xlabel(f"{len(order)} classes, hardest first")
    return to_svg(figure, "accuracy of each class")


def _short(names: Sequence[str]) -> list[str]:
    """Names without the folder they share, at most 24 letters, the end being what differs."""
    last = [name.rpartition("/")[2] for name in names]
    chosen = last if len(set(last)) == len(names) else list(names)
    return [name if len(name) <= 24 else "…" + name[-23:] for name in chosen]


def to_svg(figure: Figure, label: str) -> str:
    """Return the drawing as an `<svg>` element that scales with its column."""
    stream = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": label}):
        empty = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        FigureCanvasSVG(figure).print_svg(stream, metadata=empty)  # type: ignore[no-untyped-call]
    text = stream.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = re.sub(r"font(-family)?: [^;\"]*(DejaVu|sans)[^;\"]*", _font, text)
    text = re.sub(r'<svg ([^>]*?)height="[^"]*" ', r"<svg \1", text, count=1)
    text = re.sub(r'<svg ([^>]*?)width="[^"]*" ', r"<svg \1", text, count=1)
    return text.replace("<svg ", f'<svg role="img" aria-label="{_escaped(label)}" ', 1)


def _font(found: re.Match[str]) -> str:
    """The page's own font, at the size matplotlib wrote."""
    size = re.search(r"([\d.]+)px", found.group(0))
    return f"font: {size.group(1)}px system-ui, sans-serif" if size else "font-family: sans-serif"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")


def blank_figure(width: float, height: float) -> tuple[Figure, Any]:
    """Return a transparent figure with thin axes in the text colour."""
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    axes.tick_params(colors=INK, labelsize=8, width=0.6, length=3)
    axes.xaxis.label.set(color=INK, size=8)
    axes.yaxis.label.set(color=INK, size=8)
    for side, spine in axes.spines.items():
        spine.set(visible=side in ("left", "bottom"), color=INK, linewidth=0.6)
    return figure, axes

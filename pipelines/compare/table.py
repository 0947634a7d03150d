"""A comparison as text: aligned for the terminal, Markdown for a README."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

from pipelines.compare.comparison import Comparison
from pipelines.compare.differences import Difference
from pipelines.compare.panel import Panel, Row
from pipelines.compare.words import cautions, percent, points, sentences, signed, verdict


def text(comparison: Comparison, width: int = 100) -> str:
    """Return the tables for a terminal, then what they say."""
    blocks = []
    for panel in comparison.panels:
        rows = [header(panel), *cells(panel)]
        lines = _aligned(rows)
        said = [_wrapped(sentence, width, "  ", first="- ") for sentence in sentences(panel)]
        blocks.append("\n".join([about(panel), "", *lines, "", *said]))
    notes = [_wrapped(note, width, "  ", first="- ") for note in comparison.notes]
    if notes:
        blocks.append("\n".join(["Notes:", *notes]))
    last = [_wrapped(line, width, "") for line in _last(comparison.panels)]
    return "\n\n\n".join([*blocks, "\n".join(last)])


def markdown(comparison: Comparison) -> str:
    """Return the tables and sentences as Markdown."""
    blocks = []
    for panel in comparison.panels:
        head = header(panel)
        lines = [_piped(head), _piped(["---", *["---:"] * (len(head) - 1)])]
        lines += [_piped(row) for row in cells(panel)]
        said = [f"- {sentence}" for sentence in sentences(panel)]
        blocks.append("\n".join([f"### {about(panel)}", "", *lines, "", *said]))
    if comparison.notes:
        blocks.append("\n".join(["### Notes", "", *(f"- {n}" for n in comparison.notes)]))
    return "\n\n".join([*blocks, " ".join(_last(comparison.panels))]) + "\n"


def _last(panels: Sequence[Panel]) -> list[str]:
    """Return what the columns mean, and cautions."""
    units = " or ".join(dict.fromkeys(panel.bank.unit for panel in panels))
    across = "; ± classes: over other classes" * any(panel.bank.new_classes for panel in panels)
    meaning = (
        f"±: half of a 95 % interval over other {units} of the same classes{across}. Differences "
        f"are paired: both methods answered the same {units}."
    )
    return [meaning, *cautions(panels)]


def about(panel: Panel) -> str:
    """Return what was asked, in one line."""
    return f"{panel.title}: {panel.bank.about(panel.classes, panel.bounded)}"


def header(panel: Panel) -> list[str]:
    """Return the columns' names; columns without any content are left out."""
    return [
        "method",
        "accuracy in %",
        *_if_new_classes(panel, "± classes"),
        *(["runs"] if _has_runs(panel) else []),
        *(["CPU min"] if _has_minutes(panel) else []),
        "difference",
        *_if_new_classes(panel, "± classes"),
        "real?",
    ]


def cells(panel: Panel) -> list[list[str]]:
    """Return the words of each row, in the order of `header`."""
    found = []
    for i, row in enumerate(panel.rows):
        difference = panel.against_reference(i)
        name = "(baseline)" if panel.chosen else "(the best)"
        blank = ["", *_if_new_classes(panel, ""), name]
        last = _difference(difference, panel) if difference else blank
        found.append(
            [
                row.name,
                f"{percent(row.mean.mean)} ± {points(row.mean.half_width)}",
                *_if_new_classes(panel, _classes(row.across.half_width, panel)),
                *([_runs(row)] if _has_runs(panel) else []),
                *([_minutes(row)] if _has_minutes(panel) else []),
                *last,
            ]
        )
    return found


def _difference(difference: Difference, panel: Panel) -> list[str]:
    over = f"{signed(difference.mean)} ± {points(difference.half_width)}"
    across = _if_new_classes(panel, _classes(difference.class_half_width, panel))
    return [over, *across, verdict(difference)]


def _if_new_classes(panel: Panel, cell: str) -> list[str]:
    """Return the cell of a column about other classes, none where there is no such column."""
    return [cell] if panel.bank.new_classes else []


def _has_runs(panel: Panel) -> bool:
    return any(row.runs > 1 for row in panel.rows)


def _has_minutes(panel: Panel) -> bool:
    return any(row.trained and row.cpu_minutes is not None for row in panel.rows)


def _runs(row: Row) -> str:
    if not row.trained:
        return "–"
    return f"{row.runs}, sd {points(row.run_sd)}" if row.runs > 1 else "1"


def _minutes(row: Row) -> str:
    return "–" if not row.trained or row.cpu_minutes is None else f"{row.cpu_minutes:.1f}"


def _classes(half_width: float, panel: Panel) -> str:
    """Return the half-width over classes, "≤" before a bound, a dash where there is none."""
    return (
        "–" if math.isnan(half_width) else f"{'≤' if panel.bounded else '±'} {points(half_width)}"
    )


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return columns, the first and last to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *middle, last in rows:
        numbers = (cell.rjust(w) for cell, w in zip(middle, widths[1:-1], strict=True))
        lines.append("  ".join([first.ljust(widths[0]), *numbers, last]).rstrip())
    return [*lines[:1], "-" * max(map(len, lines)), *lines[1:]]


def _wrapped(sentence: str, width: int, indent: str, first: str = "") -> str:
    return textwrap.fill(
        sentence, width, initial_indent=first, subsequent_indent=indent, break_on_hyphens=False
    )


def _piped(row: Sequence[str]) -> str:
    escaped = (cell.replace("|", "\\|") for cell in row)
    return f"| {' | '.join(escaped)} |"

"""All settings of all trials of one recipe at once: parallel coordinates, lying down.

Each setting is a line of its own, so that dotted names can be read and any number of them fits.
Recipes have different settings and so get a picture each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from matplotlib.patches import PathPatch
from matplotlib.path import Path
from matplotlib.ticker import MaxNLocator

from pipelines.report.charts import INK
from tuning.report.history import colour_of, titles
from tuning.report.paper import (
    GREY,
    PAPER,
    RED,
    Drawing,
    axes_of,
    drawing,
    fade,
    link_of,
    scale_limits,
)
from tuning.report.scale import Scale
from tuning.report.view import RUNNING, StudyView, TrialView

SHOWN = 14
ROW = 0.52
SPREAD = 0.34
"""Lines that share a choice are spread over this part of its room, worst to best."""
GAP = 0.004
"""Between the parts of a line that belong to two choices."""
KEY = (
    "Each line is a trial: its value on top, its settings below. Strong: good, faint: bad, thick: "
    "the best (with several goals, the front). Grey lines, which begin below the value, were "
    "stopped early, red ones were impossible or failed."
)


def parallel(view: StudyView, recipe: str, scales: Sequence[Scale]) -> Drawing | None:
    """Return the picture of one recipe, or None while none of its trials is complete.

    Args:
        view: the study.
        recipe: label of the recipe.
        scales: its settings, in the order to be shown.
    """
    trials = view.of(recipe)
    done = view.ranked([trial for trial in trials if trial.values])
    rows = list(scales)[:SHOWN]
    if not done or not rows:
        return None
    goals = len(view.measures)
    figure, axes = axes_of(10.6, 0.5 + ROW * (len(rows) + goals))
    axes.set_xlim(-0.03, 1.03)
    axes.set_ylim(len(rows) + goals - 0.38, -0.3)
    shifts, strong = _shifts(trials, done), fade(len(trials))
    for trial in trials:
        if not trial.values and trial.outcome != RUNNING:
            colour = GREY if trial.outcome == "pruned" else RED
            places = _places(trial, rows, shifts)
            _draw(axes, trial, places, goals, edgecolor=colour, lw=0.9, alpha=0.45 * strong**0.5)
    spans = [
        scale_limits(m, [trial.values[at] for trial in done]) for at, m in enumerate(view.measures)
    ]
    leaders = view.leaders(recipe)
    for rank, trial in reversed(list(enumerate(done))):
        values = [m.factor * v for m, v in zip(view.measures, trial.values, strict=True)]
        heights = [_within(value, *span) for value, span in zip(values, spans, strict=True)]
        good = 1 - rank / max(len(done) - 1, 1)
        look = {"lw": 0.9 + good, "alpha": 0.25 * strong + 0.5 * strong**0.5 * good**2}
        places = [*heights, *_places(trial, rows, shifts)]
        if trial.number in leaders:
            look = {"lw": 3.0 if goals == 1 else 2.2, "alpha": 1.0, "zorder": 2.5}
            _draw(axes, trial, places, 0, edgecolor=PAPER, lw=6.0, alpha=0.8, zorder=2.4)
        _draw(axes, trial, places, 0, edgecolor=colour_of(view, recipe), **look)
    for number, (low, high) in enumerate(spans):
        ticks = [v for v in MaxNLocator(6).tick_values(low, high) if low <= v <= high]
        _row(axes, number, [(_within(v, low, high), f"{v:g}") for v in ticks])
    for number, scale in enumerate(rows, goals):
        _row(axes, number, scale.ticks(), max(len(scale.choices), 1))
    names = [measure.title for measure in view.measures] + [scale.key for scale in rows]
    axes.set_yticks(range(len(names)), names)
    axes.set_xticks([])
    axes.tick_params(axis="y", length=0, pad=6)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return drawing(figure, f"settings of all trials of {recipe}", titles(view))


def _places(
    trial: TrialView, rows: Sequence[Scale], shifts: Mapping[int, float]
) -> list[float | None]:
    """Return where the trial crosses each line."""
    found: list[float | None] = []
    for scale in rows:
        if scale.key not in trial.settings:
            found.append(None)
            continue
        place = scale.place(trial.settings[scale.key])
        if scale.is_choice:
            place += shifts[trial.number] * SPREAD / len(scale.choices)
        found.append(place)
    return found


def _within(value: float, low: float, high: float) -> float:
    return min(max((value - low) / (high - low), 0.0), 1.0)


def _shifts(trials: Sequence[TrialView], done: Sequence[TrialView]) -> dict[int, float]:
    """Return for each trial a number from -1 to 1: the best to the right, lost ones to the left."""
    order = [trial.number for trial in trials if not trial.values]
    order += [trial.number for trial in reversed(done)]
    return {number: 2 * at / max(len(order) - 1, 1) - 1 for at, number in enumerate(order)}


def _draw(
    axes: Any, trial: TrialView, places: Sequence[float | None], first: int, **look: Any
) -> None:
    """Draw a trial as a smooth line through its places, from row `first` down."""
    spots = [(place, float(first + i)) for i, place in enumerate(places) if place is not None]
    if not spots:
        return
    vertices, codes = [spots[0]], [Path.MOVETO]
    for (x, y), (right, below) in pairwise(spots):
        middle = (y + below) / 2
        vertices += [(x, middle), (right, middle), (right, below)]
        codes += [Path.CURVE4] * 3
    patch = PathPatch(Path(vertices, codes), fill=False, **{"zorder": 2, **look})
    patch.set_url(link_of(trial.number))
    axes.add_patch(patch)


def _row(axes: Any, y: int, ticks: Sequence[tuple[float, str]], parts: int = 1) -> None:
    """Draw the line of one setting, in as many parts as there are choices, with labels below."""
    gap = GAP if parts > 1 else 0.0
    for part in range(parts):
        ends = [part / parts + gap, (part + 1) / parts - gap]
        axes.plot(ends, [y, y], color=INK, lw=0.8, alpha=0.55, zorder=3)
    for place, label in ticks:
        if parts == 1:
            axes.plot([place, place], [y, y + 0.07], color=INK, lw=0.8, alpha=0.55, zorder=3)
        axes.text(
            place, y + 0.12, label, ha="center", va="top", fontsize=7, color=INK, zorder=4,
            bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 0.8, "alpha": 0.85},
        )  # fmt: skip

"""The value against each setting, one small chart a setting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.report.charts import INK
from tuning.report.history import colour_of, titles
from tuning.report.paper import (
    GREY,
    RED,
    Drawing,
    axes_of,
    drawing,
    fade,
    grid,
    points,
    scale_limits,
)
from tuning.report.scale import Scale
from tuning.report.view import StudyView, TrialView

SHOWN = 12
KEY = (
    "Upwards: the value of finished trials; ringed: the best (with several goals, the front). "
    "Below the line, without a value: grey, stopped early; red, impossible or failed."
)
LANE = 0.07
"""Height of each of the two lanes below the values, as a share of the values' height."""
ROOM = 0.6
"""Share of a choice's room that its trials take up."""


def slices(view: StudyView, recipe: str, scales: Sequence[Scale], at: int = 0) -> list[Drawing]:
    """Return a chart per setting of one recipe; nothing while none of its trials is complete.

    Args:
        view: the study.
        recipe: label of the recipe.
        scales: its settings, in the order to be shown.
        at: which goal is shown.
    """
    done = [trial for trial in view.of(recipe) if trial.values]
    return [_chart(view, recipe, scale, at) for scale in list(scales)[:SHOWN]] if done else []


def _chart(view: StudyView, recipe: str, scale: Scale, at: int) -> Drawing:
    figure, axes = axes_of(3.3, 2.3)
    goal = view.measures[at]
    trials = [trial for trial in view.of(recipe) if scale.key in trial.settings]
    done = [trial for trial in trials if trial.values]
    low, high = scale_limits(goal, [trial.values[at] for trial in done])
    lane = LANE * (high - low)
    across = _places(scale, trials)
    colour = colour_of(view, recipe)
    _dots(axes, across, done, [min(max(goal.factor * t.values[at], low), high) for t in done],
          color=colour, s=18 * fade(len(done)) ** 0.3, lw=0, alpha=0.8, zorder=3)  # fmt: skip
    leaders = view.leaders(recipe)
    best = [trial for trial in done if trial.number in leaders]
    _dots(axes, across, best, [goal.factor * t.values[at] for t in best],
          facecolors="none", edgecolors=INK, s=60, lw=1.2, zorder=4)  # fmt: skip
    lost = {"pruned": (GREY, 1), "infeasible": (RED, 2), "failed": (RED, 2)}
    for outcome, (shade, depth) in lost.items():
        own = [trial for trial in trials if trial.outcome == outcome]
        _dots(axes, across, own, [low - (depth - 0.35) * lane] * len(own),
              color=shade, s=34, lw=1.3, marker="|")  # fmt: skip
    axes.axhline(low, color=INK, lw=0.6, alpha=0.5)
    axes.set_ylim(low - 2 * lane, high)
    axes.set_yticks([tick for tick in axes.get_yticks() if low <= tick <= high])
    axes.set_xlim(-0.03, 1.03)
    places, labels = zip(*scale.ticks(), strict=True)
    crowded = sum(map(len, labels)) > 34
    axes.set_xticks(
        places, labels, rotation=20 if crowded else 0, ha="right" if crowded else "center"
    )
    axes.set_xlabel(scale.key)
    for border in range(1, len(scale.choices)):
        axes.axvline(border / len(scale.choices), color=INK, lw=0.6, alpha=0.15)
    grid(axes)
    return drawing(figure, f"{goal.title} against {scale.key}", titles(view))


def _places(scale: Scale, trials: Sequence[TrialView]) -> dict[int, float]:
    """Return where each trial is; those with the same choice side by side, as they were tried."""
    room = ROOM / len(scale.choices) if scale.is_choice else 0.0
    count = max(len(trials) - 1, 1)
    return {
        trial.number: scale.place(trial.settings[scale.key]) + room * (i / count - 0.5)
        for i, trial in enumerate(trials)
    }


def _dots(
    axes: Any,
    across: Mapping[int, float],
    trials: Sequence[TrialView],
    heights: Sequence[float],
    **look: Any,
) -> None:
    numbers = [trial.number for trial in trials]
    points(axes, [across[number] for number in numbers], heights, numbers, **look)

"""The course of a search: each trial in the order it began, and the best so far."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.ticker import MaxNLocator

from pipelines.report.charts import COLOURS, INK
from tuning.outcome import Outcome
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
from tuning.report.view import StudyView, TrialView
from tuning.report.words import Measure
from tuning.words import OUTCOME_WORDS

KEY = (
    "Dots: finished trials; line: the best so far. Crosses: stopped early, at the "
    "last accuracy they had. Rings: still running. Red ticks at the bottom: impossible or failed. "
    "A triangle at the edge stands for a value far outside. Each mark links to its trial below."
)


def colour_of(view: StudyView, recipe: str) -> str:
    """Return the colour of a recipe on the whole page."""
    return COLOURS[view.recipes.index(recipe) % len(COLOURS)] if recipe in view.recipes else GREY


def titles(view: StudyView) -> dict[int, str]:
    """Return a short line about each trial."""
    found = {}
    for trial in [*view.known, *view.trials]:
        parts = [f"trial {trial.number}"]
        if len(view.recipes) > 1:
            parts.append(trial.recipe)
        if trial.values:
            parts += [m.text(v) for m, v in zip(view.measures, trial.values, strict=True)]
        else:
            parts.append(fate(trial))
        found[trial.number] = ", ".join(parts)
    return found


def fate(trial: TrialView) -> str:
    """Return in words how a trial ended, and how far it came."""
    if trial.outcome == "running":
        return f"running, {trial.percent} %"
    words = OUTCOME_WORDS[Outcome(trial.outcome)]
    return f"{words} at {trial.percent} %" if trial.outcome == "pruned" else words


def history(view: StudyView) -> list[Drawing]:
    """Return one chart per goal; nothing before any trial has a value."""
    return [_chart(view, at, goal) for at, goal in enumerate(view.measures) if _drawable(view, at)]


def _drawable(view: StudyView, at: int) -> bool:
    return any(trial.values or (at == 0 and trial.curve) for trial in view.trials)


def _chart(view: StudyView, at: int, goal: Measure) -> Drawing:
    figure, axes = axes_of(10.6, 3.1)
    done = [trial for trial in view.trials if trial.values]
    partial = [t for t in view.trials if at == 0 and t.curve and not t.values]
    shown = [trial.values[at] for trial in [*done, *view.known] if trial.values]
    low, high = scale_limits(goal, [*shown, *(trial.curve[-1][1] for trial in partial)])
    axes.set_ylim(low, high)
    axes.set_xlim(-0.8, max(trial.number for trial in view.trials) + 0.8)
    several = len(view.recipes) > 1
    for recipe in view.recipes:
        own = [trial for trial in done if trial.recipe == recipe]
        colour = colour_of(view, recipe)
        _values(axes, own, [goal.factor * t.values[at] for t in own], colour, recipe)
    _partial(axes, goal, partial)
    _earlier(axes, view, at, goal)
    _failed(axes, view, low)
    _best_so_far(axes, done, at, goal)
    axes.set_xlabel("trial")
    axes.set_ylabel(goal.title)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    grid(axes)
    if several and done:
        axes.legend(frameon=False, fontsize=8, labelcolor=INK, loc="best", handletextpad=0.1)
    return drawing(figure, f"history: {goal.title}", titles(view))


def _values(
    axes: Any, trials: Sequence[TrialView], values: Sequence[float], colour: str, label: str
) -> None:
    """Draw dots, and triangles at the edge for those outside the scale."""
    low, high = axes.get_ylim()
    inside = [i for i, value in enumerate(values) if low <= value <= high]
    points(
        axes,
        [trials[i].number for i in inside],
        [values[i] for i in inside],
        [trials[i].number for i in inside],
        color=colour,
        s=22 * fade(len(values)) ** 0.3,
        lw=0,
        zorder=3,
        label=label,
    )
    for marker, edge, chosen in (
        ("v", low, [i for i, value in enumerate(values) if value < low]),
        ("^", high, [i for i, value in enumerate(values) if value > high]),
    ):
        numbers = [trials[i].number for i in chosen]
        look = {"color": colour, "s": 26, "lw": 0, "marker": marker, "clip_on": False}
        points(axes, numbers, [edge] * len(chosen), numbers, zorder=3, **look)


def _partial(axes: Any, goal: Measure, trials: Sequence[TrialView]) -> None:
    low, high = axes.get_ylim()
    looks: dict[str, dict[str, Any]] = {
        "pruned": {"color": GREY, "marker": "x", "s": 16, "lw": 1.0},
        "running": {"facecolors": "none", "edgecolors": GREY, "s": 24, "lw": 1.2},
    }
    for outcome, look in looks.items():
        own = [trial for trial in trials if trial.outcome == outcome]
        heights = [min(max(goal.factor * trial.curve[-1][1], low), high) for trial in own]
        numbers = [trial.number for trial in own]
        points(axes, numbers, heights, numbers, zorder=2, **look)


def _earlier(axes: Any, view: StudyView, at: int, goal: Measure) -> None:
    """Draw what the sampler knew before, as diamonds."""
    known = [trial for trial in view.known if trial.values]
    numbers = [trial.number for trial in known]
    heights = [goal.factor * trial.values[at] for trial in known]
    look = {"facecolors": "none", "edgecolors": GREY, "marker": "D", "s": 18, "lw": 1.0}
    points(axes, numbers, heights, numbers, zorder=2, **look)


def _failed(axes: Any, view: StudyView, low: float) -> None:
    lost = [t.number for t in view.trials if t.outcome in ("infeasible", "failed")]
    look = {"color": RED, "marker": "|", "s": 60, "lw": 1.6, "clip_on": False}
    points(axes, lost, [low] * len(lost), lost, zorder=4, **look)


def _best_so_far(axes: Any, done: Sequence[TrialView], at: int, goal: Measure) -> None:
    numbers: list[int] = []
    heights: list[float] = []
    for trial in sorted(done, key=lambda trial: trial.number):
        value = goal.factor * trial.values[at]
        if not heights or goal.better(value, heights[-1]):
            numbers.append(trial.number)
            heights.append(value)
    if heights:
        end = axes.get_xlim()[1]
        axes.plot([*numbers, end], [*heights, heights[-1]], color=INK, lw=1.2, alpha=0.8,
                  drawstyle="steps-post", zorder=2)  # fmt: skip

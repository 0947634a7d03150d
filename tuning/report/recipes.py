"""Several recipes in one study: what each came to."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from tuning.report.history import colour_of, titles
from tuning.report.paper import Drawing, axes_of, drawing, grid, points, scale_limits
from tuning.report.view import StudyView, TrialView


@dataclass(frozen=True)
class RecipeRow:
    """One recipe.

    Attributes:
        label: its name.
        trials: how many it got.
        complete: how many came to their end.
        best: its best trial, if any.
        middle: median value of those that came to their end, in words.
        hours: device hours spent on it.
    """

    label: str
    trials: int
    complete: int
    best: TrialView | None
    middle: str
    hours: float


def recipe_rows(view: StudyView) -> list[RecipeRow]:
    """Return the recipes, best first, by the first goal."""
    rows = []
    for label in view.recipes:
        trials = view.of(label)
        done = view.ranked([trial for trial in trials if trial.values])
        rows.append(
            RecipeRow(
                label,
                len(trials),
                len(done),
                done[0] if done else None,
                view.measure.number(median(t.values[0] for t in done)) if done else "–",
                sum(trial.amount("device_seconds") for trial in trials) / 3600,
            )
        )
    order = [trial.recipe for trial in view.ranked([r.best for r in rows if r.best])]
    return sorted(rows, key=lambda r: order.index(r.label) if r.best else len(order))


def strip(view: StudyView, rows: list[RecipeRow]) -> Drawing:
    """Return the values of all complete trials, a line per recipe."""
    figure, axes = axes_of(6.2, 0.7 + 0.34 * len(rows))
    goal = view.measure
    low, high = scale_limits(goal, [trial.values[0] for trial in view.trials if trial.values])
    axes.set_xlim(low, high)
    for place, row in enumerate(rows):
        own = [trial for trial in view.of(row.label) if trial.values]
        values = [min(max(goal.factor * trial.values[0], low), high) for trial in own]
        look = {"color": colour_of(view, row.label), "s": 26, "lw": 0, "alpha": 0.6}
        points(axes, values, [place] * len(own), [t.number for t in own], clip_on=False, **look)
    axes.set_yticks(range(len(rows)), [row.label for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel(goal.title)
    grid(axes, "x")
    return drawing(figure, f"{goal.title} of all complete trials by recipe", titles(view))

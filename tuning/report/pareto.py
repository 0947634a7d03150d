"""Several goals at once: which trials no other trial beats in everything."""

from __future__ import annotations

from itertools import combinations

from matplotlib.lines import Line2D

from pipelines.report.charts import INK
from tuning.report.history import colour_of, titles
from tuning.report.paper import Drawing, axes_of, drawing, grid, points, scale_limits
from tuning.report.view import StudyView, TrialView

KEY = "Full dots: on the front, with their number. Faint dots: another trial beats them."


def pareto(view: StudyView) -> list[Drawing]:
    """Return a chart for each pair of goals; nothing before a trial is complete."""
    if not view.complete or len(view.measures) == 1:
        return []
    return [_chart(view, x, y) for y, x in combinations(range(len(view.measures)), 2)]


def _chart(view: StudyView, x: int, y: int) -> Drawing:
    figure, axes = axes_of(7.2, 4.0)
    across, up = view.measures[x], view.measures[y]
    axes.set_xlim(*scale_limits(across, [trial.values[x] for trial in view.complete]))
    axes.set_ylim(*scale_limits(up, [trial.values[y] for trial in view.complete]))
    front = {trial.number for trial in view.front}
    for recipe in view.recipes:
        own = [trial for trial in view.complete if trial.recipe == recipe]
        for on_front, look in ((False, {"alpha": 0.35, "s": 20}), (True, {"s": 34, "zorder": 3})):
            chosen = [trial for trial in own if (trial.number in front) is on_front]
            points(
                axes,
                [across.factor * trial.values[x] for trial in chosen],
                [up.factor * trial.values[y] for trial in chosen],
                [trial.number for trial in chosen],
                color=colour_of(view, recipe),
                lw=0,
                **look,
            )
    if len(view.measures) == 2:
        _staircase(axes, view, x, y)
    for trial in view.front:
        place = (across.factor * trial.values[x], up.factor * trial.values[y])
        axes.annotate(str(trial.number), place, xytext=(5, 4), textcoords="offset points",
                      fontsize=8, color=INK)  # fmt: skip
    axes.set_xlabel(_directed(across.title, across.maximize))
    axes.set_ylabel(_directed(up.title, up.maximize))
    grid(axes, "both")
    if len(view.recipes) > 1:
        proxies = [
            Line2D([], [], color=colour_of(view, recipe), label=recipe, marker="o", ls="", ms=5)
            for recipe in view.recipes
        ]
        axes.legend(handles=proxies, frameon=False, fontsize=8, labelcolor=INK, loc="best")
    return drawing(figure, f"{up.title} against {across.title}", titles(view))


def _staircase(axes: object, view: StudyView, x: int, y: int) -> None:
    """Join the front by the border of what it dominates."""
    across, up = view.measures[x], view.measures[y]

    def place(trial: TrialView) -> tuple[float, float]:
        return across.factor * trial.values[x], up.factor * trial.values[y]

    spots = sorted(map(place, view.front))
    # with less across better, a point dominates what is to its right
    style = "steps-pre" if across.maximize else "steps-post"
    axes.plot(*zip(*spots, strict=True), color=INK, lw=0.9, alpha=0.6, drawstyle=style)  # type: ignore[attr-defined]


def _directed(title: str, maximize: bool) -> str:
    return f"{title} (more is better)" if maximize else f"{title} (less is better)"

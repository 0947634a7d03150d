"""Learning curves: the accuracy of every trial over its training."""

from __future__ import annotations

from matplotlib.lines import Line2D

from pipelines.report.charts import INK
from tuning.report.history import colour_of, titles
from tuning.report.paper import (
    GREY,
    PAPER,
    Drawing,
    axes_of,
    drawing,
    fade,
    grid,
    link_of,
    scale_limits,
)
from tuning.report.view import StudyView

KEY = (
    "Coloured: finished; grey with a bar: stopped early; dotted: running, failed or "
    "impossible; thick: the best. A trial with a single validation is a dot."
)


def learning_curves(view: StudyView) -> Drawing | None:
    """Return the chart, or None before any trial was validated twice."""
    trials = [trial for trial in view.trials if trial.curve]
    if not any(len(trial.curve) > 1 for trial in trials):
        return None
    strong = fade(len(trials)) ** 0.5
    goal = view.measure
    figure, axes = axes_of(10.6, 3.4)
    best = view.complete[0].number if view.complete else -1
    for trial in trials:
        percents = [percent for percent, _ in trial.curve]
        values = [goal.factor * value for _, value in trial.curve]
        colour = colour_of(view, trial.recipe) if trial.outcome == "complete" else GREY
        look = {"color": colour, "lw": 1.0, "alpha": 0.55 * strong, "zorder": 2}
        if trial.number == best:
            look |= {"lw": 2.6, "alpha": 1.0, "zorder": 4}
            axes.plot(percents, values, color=PAPER, lw=5.5, alpha=0.8, zorder=3)
        elif trial.outcome == "pruned":
            look |= {"marker": "|", "markevery": [len(percents) - 1], "zorder": 1}
        elif trial.outcome != "complete":
            look |= {"linestyle": ":", "lw": 1.3, "zorder": 1}
        if len(percents) == 1:
            look |= {"marker": "o", "ms": 3}
        (line,) = axes.plot(percents, values, **look)
        line.set_url(link_of(trial.number))
    ends = [trial.curve[at][1] for trial in trials for at in (0, -1)]
    axes.set_ylim(*scale_limits(goal, ends))
    axes.set_xlabel("percent of the training")
    axes.set_ylabel(goal.title)
    axes.set_xlim(0, 101)
    grid(axes)
    if len(view.recipes) > 1:
        proxies = [Line2D([], [], color=colour_of(view, r), label=r) for r in view.recipes]
        axes.legend(handles=proxies, frameon=False, fontsize=8, labelcolor=INK, loc="best")
    return drawing(figure, "learning curves of all trials", titles(view))

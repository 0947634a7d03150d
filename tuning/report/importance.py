"""Which settings decide whether a trial is among the best (PED-ANOVA).

Watanabe, Bansal, Hutter (IJCAI 2023): how much the distribution of a setting among the best trials
differs from that among all. Only the order of the trials counts, so those that were stopped early
take part: they come after the finished ones, the later the stop the better.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import optuna
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import TrialState, create_trial

from pipelines.report.charts import INK
from tuning.report.history import colour_of
from tuning.report.paper import Drawing, axes_of, drawing, grid
from tuning.report.view import StudyView, TrialView

FEWEST = 10
"""Trials below which nothing is said."""
AMONG_BEST = 5
"""The best are a tenth of the trials, and at least this many."""
RESAMPLES, LEAST_RESAMPLES, RESAMPLED_TRIALS = 40, 10, 6000
"""How many resamples: fewer of many trials, which need them less and take longer."""
SHOWN = 12
KEY = (
    "Share of each setting in what tells the best trials of a recipe from its others (PED-ANOVA). "
    "Line: where the share lies in four of five resamples of the trials; where lines overlap, the "
    "order means nothing."
)


@dataclass(frozen=True)
class Importance:
    """The share of one setting.

    Attributes:
        key: its dotted name.
        share: 0 to 1; all settings of a recipe sum to 1.
        low: a tenth of the resamples are below.
        high: a tenth of the resamples are above.
    """

    key: str
    share: float
    low: float
    high: float


def importances(view: StudyView, recipe: str) -> list[Importance]:
    """Return the settings of a recipe, most important first; nothing when trials are too few."""
    trials = [t for t in view.of(recipe) if t.values or (t.outcome == "pruned" and t.curve)]
    keys = [key for key in view.keys(trials) if _varies(trials, key)]
    if len(trials) < FEWEST or not keys:
        return []
    if len(keys) == 1:
        return [Importance(keys[0], 1.0, 1.0, 1.0)]
    shares = _shares(view, trials, keys)
    chance = np.random.default_rng(0)
    drawn = []
    resamples = min(RESAMPLES, max(LEAST_RESAMPLES, RESAMPLED_TRIALS // len(trials)))
    for _ in range(resamples):
        sample = [trials[i] for i in chance.integers(len(trials), size=len(trials))]
        drawn.append(_shares(view, sample, keys))
    low, high = np.quantile(np.array(drawn), [0.1, 0.9], axis=0)
    found = [Importance(*row) for row in zip(keys, shares, low, high, strict=True)]
    return sorted(found, key=lambda importance: -importance.share)


def importance_chart(view: StudyView, recipe: str, found: Sequence[Importance]) -> Drawing:
    """Return bars with lines for the settings of one recipe."""
    shown = found[:SHOWN]
    figure, axes = axes_of(4.9, 0.55 + 0.26 * len(shown))
    places = np.arange(len(shown))
    shares = [100 * importance.share for importance in shown]
    axes.barh(places, shares, color=colour_of(view, recipe), alpha=0.75, height=0.62)
    for place, importance in zip(places, shown, strict=True):
        ends = [100 * importance.low, 100 * importance.high]
        axes.plot(ends, [place, place], color=INK, lw=1.1, alpha=0.8)
    axes.set_yticks(places, [importance.key for importance in shown])
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_xlim(0, 102 * max(max(importance.share, importance.high) for importance in shown))
    axes.set_xlabel("share in %")
    axes.tick_params(axis="y", length=0)
    grid(axes, "x")
    return drawing(figure, f"importance of the settings of {recipe}")


def _varies(trials: Sequence[TrialView], key: str) -> bool:
    return len({str(trial.settings.get(key)) for trial in trials}) > 1


def _shares(view: StudyView, trials: Sequence[TrialView], keys: Sequence[str]) -> list[float]:
    """Return the share of each setting."""
    study = _ranked_study(view, trials)
    best = min(max(AMONG_BEST / len(trials), 0.1), 0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # experimental; resamples with few different trials
        evaluator = PedAnovaImportanceEvaluator(target_quantile=best)
        raw = get_param_importances(study, evaluator=evaluator, params=list(keys), normalize=False)
    total = math.fsum(raw.values())
    return [raw[key] / total if total > 0 else 1 / len(keys) for key in keys]


def _ranked_study(view: StudyView, trials: Sequence[TrialView]) -> optuna.Study:
    """Return the trials with values that stand for their order; with several goals, their own."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if len(view.measures) > 1:
        study = optuna.create_study(directions=[goal.direction for goal in view.config.goals])
        values = [list(trial.values) for trial in trials]
    else:
        study = optuna.create_study(direction="minimize")
        sign = -1 if view.measure.maximize else 1
        order = sorted(range(len(trials)), key=lambda i: _place(trials[i], sign))
        values = [[float(order.index(i))] for i in range(len(trials))]
    study.add_trials(
        create_trial(
            state=TrialState.COMPLETE,
            values=own,
            params=dict(trial.settings),
            distributions=dict(trial.ranges),
        )
        for trial, own in zip(trials, values, strict=True)
    )
    return study


def _place(trial: TrialView, sign: int) -> tuple[int, float]:
    """Return what trials are ordered by: finished ones first, then those that came farther."""
    if trial.values:
        return -101, sign * trial.values[0]
    return -trial.percent, sign * trial.curve[-1][1]

"""Which trials of a study are its best: by value, or by the Pareto front of several goals."""

from __future__ import annotations

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from tuning.outcome import own_trials


def ranked(study: optuna.Study) -> list[FrozenTrial]:
    """Return the study's own complete trials, the best first, the earlier of equals.

    With several goals the Pareto front comes first, in it the best in each goal; then those that
    fewest others beat in everything.
    """
    return [trial for trial, _ in _with_beaten(study)]


def choose(study: optuna.Study, count: int) -> list[FrozenTrial]:
    """Return the finalists: the `count` best, or of several goals so many of the Pareto front."""
    front = len(study.directions) > 1
    found = [trial for trial, beaten in _with_beaten(study) if not (front and beaten)]
    return [trial for trial in found if trial.user_attrs.get("stages")][:count]


def _with_beaten(study: optuna.Study) -> list[tuple[FrozenTrial, int]]:
    """Return the trials of `ranked`, and by how many others each is beaten in everything."""
    complete = [trial for trial in own_trials(study) if trial.state == TrialState.COMPLETE]
    if not complete:
        return []
    signs = [-1.0 if way == StudyDirection.MAXIMIZE else 1.0 for way in study.directions]
    costs = np.array([trial.values for trial in complete]) * signs  # (trials, goals), low is good
    beaten = _beaten_by(costs)
    tops = {int(np.lexsort((beaten, column))[0]) for column in costs.T}
    order = sorted(range(len(complete)), key=lambda i: (beaten[i], i not in tops, *costs[i], i))
    return [(complete[i], int(beaten[i])) for i in order]


def _beaten_by(costs: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return for each trial how many others are nowhere worse and somewhere better, (trials,)."""
    one, other = costs[:, None], costs[None, :]
    beaten = (other <= one).all(-1) & (other < one).any(-1)  # (trials, trials)
    count: NDArray[np.int64] = beaten.sum(1)
    return count

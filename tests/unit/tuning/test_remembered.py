"""What samplers remember: everything of a short study, the best and the latest of a long one."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from statistics import median
from typing import Any

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial

from fsl.config import build
from fsl.errors import ConfigError
from tuning.remembered import BEST, LIMIT, remembered
from tuning.samplers import FeasibleTpe, ShortGp, TpeConfig

SPACE = {"x": FloatDistribution(0.0, 1.0), "y": FloatDistribution(0.0, 1.0)}


def study_of(trials: int, sampler: Any) -> optuna.Study:
    """A study in which trial i has the value of its place in a fixed shuffle."""
    study = optuna.create_study(sampler=sampler, direction="maximize")
    for number in range(trials):
        value = (number * 7919) % trials / trials
        params = {"x": value, "y": 1 - value}
        study.add_trial(create_trial(params=params, distributions=SPACE, value=value))
    return study


def tpe(kind: Callable[..., Any]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return kind(multivariate=True, group=True, constant_liar=True, seed=3)


def proposal(study: optuna.Study) -> dict[str, Any]:
    trial = study.ask()
    return {name: trial.suggest_float(name, 0.0, 1.0) for name in SPACE}


def test_the_best_the_running_and_the_latest_are_kept_in_order() -> None:
    study = study_of(3 * LIMIT, optuna.samplers.RandomSampler(seed=0))
    running = study.ask()
    for _ in range(LIMIT):
        study.add_trial(create_trial(params={}, distributions={}, value=-1.0))
    trials = study.get_trials(deepcopy=False)
    kept = remembered(trials, ["MAXIMIZE"])
    numbers = [trial.number for trial in kept]
    assert len(kept) == LIMIT
    assert numbers == sorted(numbers)
    assert running.number in numbers
    by_value = sorted(trials, key=lambda t: t.value if t.value is not None else -9, reverse=True)
    assert {trial.number for trial in by_value[:BEST]} <= set(numbers)
    assert set(range(len(trials) - (LIMIT - BEST - 1), len(trials))) <= set(numbers)


def test_each_of_several_goals_has_its_best() -> None:
    study = optuna.create_study(directions=["maximize", "minimize"])
    for number in range(2 * LIMIT):
        values = [(number * 7919) % 500, (number * 104729) % 499]
        study.add_trial(create_trial(params={}, distributions={}, values=values))
    trials = study.get_trials(deepcopy=False)
    kept = {trial.number for trial in remembered(trials, ["MAXIMIZE", "MINIMIZE"])}
    assert max(trials, key=lambda trial: trial.values[0]).number in kept
    assert min(trials, key=lambda trial: trial.values[1]).number in kept
    assert len(kept) == LIMIT


@pytest.mark.parametrize("trials", [20, LIMIT - 1])
def test_a_short_study_is_sampled_as_by_optuna(trials: int) -> None:
    ours = proposal(study_of(trials, tpe(FeasibleTpe)))
    assert ours == proposal(study_of(trials, tpe(optuna.samplers.TPESampler)))


def test_a_long_study_is_sampled_near_its_best() -> None:
    study = study_of(4 * LIMIT, tpe(FeasibleTpe))
    assert len(study.trials) == 4 * LIMIT
    found = [proposal(study)["x"] for _ in range(20)]
    assert median(found) > 0.8


@pytest.mark.parametrize("kind", ["tpe", "gp"])
def test_a_suggestion_takes_no_longer_in_a_longer_study(kind: str) -> None:
    def seconds(trials: int) -> float:
        sampler = tpe(FeasibleTpe) if kind == "tpe" else ShortGp(seed=0, n_startup_trials=5)
        study = study_of(trials, sampler)
        taken = []
        for _ in range(3):
            began = time.process_time()
            proposal(study)
            taken.append(time.process_time() - began)
        return min(taken)

    seconds(30)  # imports
    assert seconds(4 * LIMIT) < 2.5 * seconds(LIMIT)


def test_the_study_itself_keeps_every_trial() -> None:
    study = study_of(2 * LIMIT, tpe(FeasibleTpe))
    study.tell(study.ask(), 0.5)
    assert len(study.get_trials(states=[TrialState.COMPLETE])) == 2 * LIMIT + 1


def test_trials_that_tell_nothing_take_no_place() -> None:
    study = study_of(LIMIT + 50, optuna.samplers.RandomSampler(seed=0))
    for _ in range(LIMIT):
        study.add_trial(create_trial(params={}, distributions={}, state=TrialState.FAIL))
    kept = remembered(study.get_trials(deepcopy=False), ["MAXIMIZE"])
    assert len(kept) == LIMIT
    assert {trial.state for trial in kept} == {TrialState.COMPLETE}


def test_a_random_start_is_never_longer_than_what_is_remembered() -> None:
    with pytest.raises(ConfigError, match="startup_trials"):
        build(TpeConfig, {"startup_trials": BEST + 1})

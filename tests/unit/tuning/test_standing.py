"""Where a sweep stands: figures from fixed studies."""

from __future__ import annotations

import pytest
from optuna.trial import TrialState

from tests.unit.tuning.example_study import (
    empty_study,
    example_config,
    example_study,
    two_goal_study,
    two_goals,
)
from tuning.standing import RunningTrial, standing

NOW = 1_800_000_000.0


def running(**since: float) -> dict[int, RunningTrial]:
    """Return trials at work: `_38=60` began a minute ago."""
    return {
        int(name[1:]): RunningTrial(int(name[1:]), 50, 0.5, NOW - seconds)
        for name, seconds in since.items()
    }


def test_trials_of_earlier_studies_and_repeats_are_not_counted() -> None:
    study = example_study()
    now = standing(example_config(), study, running(_38=60, _39=60), NOW)
    assert now.known == 1
    assert now.counts["running"] == 2
    assert sum(now.counts.values()) == 38 == len(now.trials)
    assert now.budget[0].used == 38
    assert now.budget[0].of == 60


def test_the_best_is_the_best_complete_trial_of_this_study() -> None:
    study = example_study()
    now = standing(example_config(), study, {}, NOW)
    values = [t.value for t in study.trials if t.state == TrialState.COMPLETE and t.number != 0]
    assert [trial.value for trial in now.best] == [max(v for v in values if v is not None)]


def test_each_goal_has_its_best() -> None:
    goals = [goal.model_dump() for goal in two_goals()]
    config = example_config(goals=goals, pruner={"name": "none"})
    now = standing(config, two_goal_study(), {}, NOW)
    accurate, quick = now.best
    assert accurate.values[0] > quick.values[0]
    assert accurate.values[1] > quick.values[1]


def test_stages_run_and_found_done_are_counted_over_all_trials() -> None:
    now = standing(example_config(), example_study(), {}, NOW)
    assert now.ran == sum(len(trial.user_attrs["ran"]) for trial in now.trials)
    assert now.reused > now.ran > len(now.trials)  # the shards once, and one stage each


def test_begun_trials_without_a_place_are_waiting() -> None:
    now = standing(example_config(), example_study(), running(_38=60), NOW)
    assert now.waiting == 1


def test_no_time_is_foretold_before_a_trial_ended() -> None:
    assert standing(example_config(), empty_study(), {}, NOW).left is None


def test_the_time_left_is_that_of_the_trials_to_come_side_by_side() -> None:
    config = example_config(budget={"trials": 48})
    study = example_study()
    alone = standing(config, study, running(_38=0), NOW).left
    both = standing(config, study, running(_38=0, _39=0), NOW).left
    assert alone is not None
    assert both is not None
    assert both == pytest.approx(alone * 12 / 22, rel=0.02)  # 10 to come


def test_the_scarcest_budget_decides_how_long_it_takes() -> None:
    study = example_study()
    trials = standing(example_config(budget={"trials": 1000}), study, {}, NOW).left
    budget = {"trials": 1000, "device_hours": 2.0}
    hours = standing(example_config(budget=budget), study, {}, NOW).left
    assert trials is not None
    assert hours is not None
    assert hours < trials / 10


def test_a_used_up_budget_leaves_the_trials_that_still_run() -> None:
    config = example_config(budget={"trials": 38})
    now = standing(config, example_study(), running(_38=10_000), NOW)
    assert now.left == pytest.approx(10_000)  # half of it in 10,000 s
    assert standing(config, example_study(), {}, NOW).left == 0

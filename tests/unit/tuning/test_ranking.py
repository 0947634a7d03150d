"""The best trials of a study."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from tests.unit.tuning.example_study import empty_study, example_study, two_goal_study
from tuning.ranking import choose, ranked

Way = Literal["minimize", "maximize"]


def study_of(*values: Sequence[float], directions: Sequence[Way] = ("maximize",)) -> optuna.Study:
    """Return a study whose complete trials have these values."""
    study = optuna.create_study(directions=list(directions))
    for value in values:
        add(study, value)
    return study


def add(study: optuna.Study, value: Sequence[float], **attributes: Any) -> None:
    attributes = {"stages": {"train": "train-0123456789ab"}, **attributes}
    study.add_trial(
        create_trial(state=TrialState.COMPLETE, values=list(value), user_attrs=attributes)
    )


def numbers(trials: Sequence[optuna.trial.FrozenTrial]) -> list[int]:
    return [trial.number for trial in trials]


def test_the_best_value_comes_first_and_the_earlier_of_equals() -> None:
    assert numbers(ranked(study_of([0.5], [0.9], [0.7], [0.9]))) == [1, 3, 2, 0]
    assert numbers(ranked(study_of([5], [1], [3], directions=["minimize"]))) == [1, 2, 0]


def test_only_complete_trials_of_this_study_are_ranked() -> None:
    study = example_study()
    found = ranked(study)
    assert {trial.state for trial in found} == {TrialState.COMPLETE}
    assert 0 not in numbers(found)  # from an earlier study
    values = [trial.value or 0 for trial in found]
    assert values == sorted(values, reverse=True)
    assert ranked(empty_study()) == []


def test_trials_without_stages_are_no_finalists() -> None:
    study = study_of([0.5], [0.6])
    add(study, [0.9], stages={})
    assert numbers(choose(study, 2)) == [1, 0]
    assert choose(study, 0) == []


def test_with_several_goals_the_finalists_are_on_the_pareto_front() -> None:
    values = ([0.9, 9.0], [0.7, 4.0], [0.6, 5.0], [0.5, 1.0], [0.8, 4.5])
    study = study_of(*values, directions=["maximize", "minimize"])
    assert numbers(choose(study, 9)) == [0, 3, 4, 1]  # the best in each goal first; not 2
    assert numbers(choose(study, 2)) == [0, 3]
    assert numbers(ranked(study)) == [0, 3, 4, 1, 2]


@pytest.mark.parametrize("count", [3, 50])
def test_the_front_is_that_of_optuna(count: int) -> None:
    study = two_goal_study()
    own = [trial.number for trial in study.best_trials if trial.number != 0]
    assert set(numbers(choose(study, count))) <= set(own)
    assert len(choose(study, 50)) == len(own)

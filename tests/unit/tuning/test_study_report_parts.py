"""Parts of the report: importance, the front, scales, places, words."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import TrialState, create_trial

from data_shards.location import Location
from tests.unit.tuning.example_study import example_config, two_goals
from tests.unit.tuning.test_study_report import Page
from tuning.config import GoalConfig
from tuning.report import importance, pareto
from tuning.report.finals import named
from tuning.report.page import render
from tuning.report.paper import limits
from tuning.report.scale import scale_of
from tuning.report.view import StudyView
from tuning.report.words import counted, listed, measure


def small_study(
    values: list[float | None],
    domains: Mapping[str, BaseDistribution],
    seed: int = 0,
) -> optuna.Study:
    """One recipe, trials with these values (None: stopped early) and settings at random."""
    study = optuna.create_study(direction="maximize")
    chance = random.Random(seed)
    for value in values:
        params: dict[str, Any] = {}
        for name, domain in domains.items():
            if isinstance(domain, CategoricalDistribution):
                params[name] = chance.choice(domain.choices)
            elif isinstance(domain, IntDistribution):
                params[name] = chance.randrange(domain.low, domain.high + 1, domain.step)
            else:
                assert isinstance(domain, FloatDistribution)
                params[name] = chance.uniform(domain.low, domain.high)
        study.add_trial(
            create_trial(
                state=TrialState.PRUNED if value is None else TrialState.COMPLETE,
                value=value,
                params=params,
                distributions=dict(domains),
                intermediate_values={25: 0.3 if value is None else value},
                user_attrs={"recipe": "x", "outcome": "pruned" if value is None else "complete"},
            )
        )
    return study


def one_recipe(**changes: Any) -> Any:
    return example_config(recipes={"x": {"recipe": "x.yaml"}}, **changes)


def test_a_setting_that_decides_is_the_most_important() -> None:
    domains = {f"method.s{i}": FloatDistribution(0, 1) for i in range(4)}
    study = small_study([0.0] * 60, domains)
    rebuilt = optuna.create_study(direction="maximize")
    for trial in study.get_trials():
        trial.values = [0.8 - abs(trial.params["method.s2"] - 0.5)]
        rebuilt.add_trial(trial)
    found = importance.importances(StudyView(one_recipe(), rebuilt), "x")
    assert found[0].key == "method.s2"
    assert found[0].low > max(other.share for other in found[1:])
    assert sum(entry.share for entry in found) == pytest.approx(1)


def test_importance_is_silent_about_few_trials_and_settings_that_never_varied() -> None:
    domains = {"a": FloatDistribution(0, 1), "b": CategoricalDistribution(["one"])}
    few = StudyView(one_recipe(), small_study([0.5] * (importance.FEWEST - 1), domains))
    assert importance.importances(few, "x") == []
    more = StudyView(one_recipe(), small_study([0.5, 0.6] * importance.FEWEST, domains))
    assert [entry.key for entry in importance.importances(more, "x")] == ["a"]


def test_trials_that_were_stopped_early_rank_behind_all_finished_ones() -> None:
    study = small_study([0.2, None, 0.1, None], {"a": FloatDistribution(0, 1)})
    view = StudyView(one_recipe(), study)
    places = [importance._place(trial, -1) for trial in view.trials]
    assert sorted(range(4), key=places.__getitem__)[:2] == [0, 2]


def test_three_goals_have_a_chart_for_each_pair() -> None:
    study = optuna.create_study(directions=["maximize", "minimize", "minimize"])
    for i in range(6):
        study.add_trial(
            create_trial(values=[0.1 * i, 5.0 - i, 1.0 + i], user_attrs={"outcome": "complete"})
        )
    metrics = ("val_accuracy", "cpu_minutes", "step_seconds")
    goals = [GoalConfig.model_validate({"metric": metric}) for metric in metrics]
    view = StudyView(one_recipe(goals=goals, pruner={"name": "none"}), study)
    assert len(pareto.pareto(view)) == 3
    assert {trial.number for trial in view.front} == set(range(6))


def test_one_recipe_has_no_table_of_recipes_and_odd_values_do_no_harm(tmp_path: Path) -> None:
    domains: dict[str, BaseDistribution] = {
        "optim.lr": FloatDistribution(1e-5, 1e-1, log=True),
        "data.batch_size": IntDistribution(8, 512, log=True),
        "method.layers": IntDistribution(2, 2),
        "method.<odd> & name": CategoricalDistribution([None, 1, 0.5, "[1, 2]", True]),
    }
    study = small_study([0.81, 0.8, 0.02, None, 0.79, 0.8] * 3, domains)
    html = render(Location.parse(tmp_path), one_recipe(), study)
    assert "<odd>" not in html
    page = Page(html)
    assert "recipes" not in page.sections
    assert page.drawings["slices"] == 3  # not the one that cannot vary
    assert "null" in page.sections["trials"]


def test_a_run_that_learned_nothing_does_not_flatten_the_scale() -> None:
    low, high = limits([80.0, 81.0, 82.0, 83.0, 20.0], maximize=True)
    assert 78 < low < 80
    assert 83 < high < 85
    low, high = limits([3.0, 3.1, 3.2, 90.0], maximize=False)
    assert high < 4
    low, high = limits([5.0], maximize=True)
    assert low < 5 < high
    assert limits([], maximize=True) == (0.0, 1.0)


def test_differences_of_a_tenth_of_a_percent_do_not_fill_a_chart() -> None:
    assert limits([72.4, 72.7], maximize=True, least=2.0) == pytest.approx((71.55, 73.55))


def test_places_and_ticks_of_settings() -> None:
    rate = scale_of("optim.lr", FloatDistribution(3e-4, 1e-2, log=True))
    assert rate.place(3e-4) == 0
    assert rate.place(1e-2) == pytest.approx(1)
    assert [label for _, label in rate.ticks()] == ["0.0003", "0.001", "0.003", "0.01"]
    ways = scale_of("episodes.ways", IntDistribution(20, 60, step=10))
    assert [label for _, label in ways.ticks()] == ["20", "30", "40", "50", "60"]
    many = scale_of("views", IntDistribution(0, 12))
    assert [label for _, label in many.ticks()] == ["0", "3", "6", "9", "12"]
    sizes = scale_of("data.batch_size", CategoricalDistribution([64, 32, 128]))
    assert [label for _, label in sizes.ticks()] == ["32", "64", "128"]
    single = scale_of("x", FloatDistribution(0.5, 0.5))
    assert single.place(0.5) == 0.5


def test_numbers_have_sensible_digits() -> None:
    accuracy, seconds = (measure(goal) for goal in two_goals())
    assert accuracy.text(0.87468) == "87.5 %"
    assert seconds.text(0.123456) == "123 ms"
    assert seconds.text(2.3456) == "2346 ms"
    assert accuracy.better(0.9, 0.8)
    assert seconds.better(0.1, 0.2)
    assert (counted(1, "trial"), counted(2, "trial")) == ("1 trial", "2 trials")
    assert listed(["a", "b", "c"]) == "a, b and c"


def test_trials_in_sentences_are_called_as_on_the_page() -> None:
    sentence = "Best: trial_0007 with 80 %. trial_0012 cannot be told from it."
    assert named(sentence) == "Best: trial 7 with 80 %. Trial 12 cannot be told from it."

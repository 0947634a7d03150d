"""Samplers and pruners: made anew for each trial, they still know all that the study knows."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from fsl.config import build
from fsl.search_space import Choice, Domain, IntRange, Uniform
from tuning.config import StudyConfig
from tuning.journal import open_journal
from tuning.pruners import build_pruner
from tuning.ranges import distribution, suggest_one
from tuning.samplers import build_sampler

SPACE: dict[str, Domain] = {"x": Uniform(-1, 1), "n": IntRange(1, 8), "c": Choice("a", "b")}
SAMPLERS: list[dict[str, Any]] = [
    {"name": "tpe", "startup_trials": 3},
    {"name": "random"},
    {"name": "qmc"},
    {"name": "qmc", "sequence": "halton"},
    {"name": "gp", "startup_trials": 3},
    {"name": "nsga2", "population": 3},
]


@pytest.fixture(autouse=True)
def _quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def config_of(**settings: Any) -> StudyConfig:
    return build(StudyConfig, {"recipe": "x.yaml", **settings})


def search(
    config: StudyConfig,
    study: optuna.Study,
    trials: int,
    objective: Callable[[dict[str, Any]], float],
    space: dict[str, Domain] = SPACE,
) -> list[dict[str, Any]]:
    """Run trials as a sweep does: a new sampler for each."""
    for _ in range(trials):
        study.sampler = build_sampler(config, len(study.get_trials(deepcopy=False)))
        trial = study.ask()
        for name, domain in space.items():
            suggest_one(trial, name, domain)
        study.tell(trial, objective(trial.params))
    return [trial.params for trial in study.get_trials(deepcopy=False)]


def bowl(params: dict[str, Any]) -> float:
    return float(-((params["x"] - 0.5) ** 2) - (params["n"] - 3) ** 2 / 50 - (params["c"] == "b"))


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda s: "-".join(map(str, s.values())))
def test_a_search_that_was_interrupted_proposes_the_same(
    sampler: dict[str, Any], tmp_path: Path
) -> None:
    config = config_of(sampler=sampler)
    whole = search(config, optuna.create_study(direction="maximize"), 8, bowl)
    path = tmp_path / "study.journal"
    for _ in range(4):
        cut = search(config, open_journal(path, config), 2, bowl)
    assert cut == whole
    assert len({tuple(params.items()) for params in whole}) == 8  # no point twice


def test_another_seed_proposes_other_settings() -> None:
    one, two = (
        search(config_of(seed=seed, finalists={"count": 0}), optuna.create_study(), 3, bowl)
        for seed in (1, 2)
    )
    assert one != two


@pytest.mark.parametrize(("name", "part"), [("tpe", 10), ("gp", 4)])
def test_a_sampler_that_is_made_anew_learns(name: str, part: int) -> None:
    config = config_of(sampler={"name": name, "startup_trials": part})
    study = optuna.create_study(direction="maximize")
    values = [bowl(params) for params in search(config, study, 3 * part, bowl)]
    assert sum(values[-part:]) > sum(values[:part]) + 0.2 * part


def test_nsga2_goes_from_generation_to_generation() -> None:
    config = config_of(
        sampler={"name": "nsga2", "population": 4}, goals=[{}, {"metric": "step_seconds"}]
    )
    study = optuna.create_study(directions=["maximize", "minimize"])
    for _ in range(13):
        study.sampler = build_sampler(config, len(study.trials))
        trial = study.ask()
        suggest_one(trial, "x", SPACE["x"])
        study.tell(trial, [trial.params["x"], trial.params["x"] ** 2])
    generations = [t.system_attrs["NSGAIISampler:generation"] for t in study.trials]
    assert generations == [0] * 4 + [1] * 4 + [2] * 4 + [3]


def test_the_points_of_a_sequence_fill_the_space() -> None:
    config = config_of(sampler={"name": "qmc"})
    space: dict[str, Domain] = {"x": Uniform(0, 1), "y": Uniform(0, 1)}
    params = search(config, optuna.create_study(), 17, lambda _: 0.0, space)[1:]
    for name in space:  # one in each sixteenth
        assert sorted(int(p[name] * 16) for p in params) == list(range(16))


def test_tpe_avoids_settings_that_could_not_be_trained() -> None:
    config = config_of(sampler={"name": "tpe", "startup_trials": 5})
    study = optuna.create_study(direction="maximize")
    for number in range(40):
        study.sampler = build_sampler(config, number)
        trial = study.ask()
        suggest_one(trial, "x", SPACE["x"])
        infeasible = trial.params["x"] > 0  # the values themselves say nothing
        trial.set_user_attr("infeasible", [float(infeasible)])
        trial.report(0.9, 50)
        study.tell(trial, None if infeasible else 0.5, state=TrialState.PRUNED if infeasible
                   else TrialState.COMPLETE)  # fmt: skip
    late = [trial.params["x"] > 0 for trial in study.trials[20:]]
    assert sum(late) <= 6
    constraints = [trial.constraints for trial in study.trials]
    assert {"infeasible": 1.0} in constraints
    assert {} in constraints


def test_tpe_searches_recipes_with_different_settings() -> None:
    config = config_of(sampler={"name": "tpe", "startup_trials": 10})
    study = optuna.create_study(direction="maximize")
    for number in range(60):
        study.sampler = build_sampler(config, number)
        trial = study.ask()
        recipe = trial.suggest_categorical("recipe", ["a", "b"])
        suggest_one(trial, f"{recipe}.x", SPACE["x"])
        value = -abs(trial.params[f"{recipe}.x"] - 0.5) - (recipe == "a")
        study.tell(trial, value)
    late = study.trials[40:]
    assert sum(trial.params["recipe"] == "b" for trial in late) >= 14
    assert study.best_value > -0.1


PRUNERS: list[tuple[dict[str, Any], type[optuna.pruners.BasePruner]]] = [
    ({"name": "none"}, optuna.pruners.NopPruner),
    ({"name": "asha"}, optuna.pruners.SuccessiveHalvingPruner),
    ({"name": "hyperband"}, optuna.pruners.HyperbandPruner),
    ({"name": "median"}, optuna.pruners.MedianPruner),
]


@pytest.mark.parametrize(("pruner", "kind"), PRUNERS, ids=lambda v: str(v)[:20])
def test_each_pruner_can_be_named(
    pruner: dict[str, Any], kind: type[optuna.pruners.BasePruner]
) -> None:
    assert isinstance(build_pruner(config_of(pruner=pruner)), kind)


@pytest.mark.parametrize(
    ("pruner", "stopped"),
    [
        ({"name": "none"}, 0),
        ({"name": "asha", "min_percent": 25, "factor": 3}, 6),
        ({"name": "median", "min_percent": 25, "startup_trials": 3}, 6),
    ],
)
def test_a_pruner_that_is_made_anew_stops_what_is_behind(
    pruner: dict[str, Any], stopped: int, tmp_path: Path
) -> None:
    config = config_of(pruner=pruner, sampler={"name": "random"})
    path = tmp_path / "study.journal"
    pruned: dict[int, int] = {}
    for number in range(9):  # each trial is worse than those before it
        study = open_journal(path, config)
        study.sampler, study.pruner = build_sampler(config, number), build_pruner(config)
        trial = study.ask()
        for percent in (10, 25, 50, 75, 90):
            trial.report((100 - number) * percent / 100, percent)
            if trial.should_prune():
                pruned[number] = percent
                study.tell(trial, state=TrialState.PRUNED)
                break
        else:
            study.tell(trial, 100 - number)
    assert len(pruned) == stopped or (pruner["name"] == "asha" and len(pruned) >= stopped)
    assert all(percent >= 25 for percent in pruned.values())


def filled(path: Path, config: StudyConfig, space: dict[str, Domain], trials: int) -> optuna.Study:
    """Return a study in a journal with that many complete trials."""
    study = open_journal(path, config)
    random = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    distributions = {name: distribution(domain) for name, domain in space.items()}
    for number in range(trials):
        params = random.ask(distributions).params
        study.add_trial(
            create_trial(params=params, distributions=distributions, value=float(number % 97))
        )
    return study


def test_a_suggestion_takes_as_long_at_trial_1000_as_at_trial_50(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.fsync", lambda _: None)  # waiting for the disk does not grow
    config = config_of(sampler={"name": "tpe"})
    space: dict[str, Domain] = {f"x{i}": Uniform(1e-3, 1.0, log=True) for i in range(20)}
    seconds = {}
    for trials in (50, 1000):
        study = filled(tmp_path / f"{trials}.journal", config, space, trials)
        took = []
        for _ in range(5):
            begun = time.process_time()
            search(config, study, 1, lambda _: 0.5, space)
            took.append(time.process_time() - begun)
        seconds[trials] = min(took)
    assert seconds[1000] < 5 * seconds[50]
    assert seconds[1000] < 0.3

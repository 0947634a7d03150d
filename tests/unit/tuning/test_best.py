"""The best settings as a recipe: it runs as it is, and finds what its trial trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from pipelines.commands import load
from pipelines.runner import plan
from tests.toy_study import write_study
from tuning.best import best_trial, write_best
from tuning.config import StudyConfig, load_study
from tuning.space import Space, build_space


def study_of(
    config: StudyConfig, space: Space, values: Sequence[Sequence[float] | None]
) -> optuna.Study:
    """Return a study with a trial for each entry; None is pruned."""
    study = optuna.create_study(
        directions=[goal.direction for goal in config.goals],
        sampler=optuna.samplers.RandomSampler(seed=1),
    )
    for value in values:
        trial = study.ask()
        space.suggest(trial)
        state = TrialState.PRUNED if value is None else TrialState.COMPLETE
        study.tell(trial, value, state=state)
    return study


def toy(folder: Path, **changes: Any) -> tuple[StudyConfig, Space]:
    config = load_study(write_study(folder, **changes))
    return config, build_space(config)


def test_the_best_recipe_runs_as_it_is_and_finds_the_stages_of_its_trial(tmp_path: Path) -> None:
    config, space = toy(tmp_path)
    study = study_of(config, space, [[0.5], [0.8], None, [0.7]])
    place = write_best(space, config, study)
    assert place is not None
    assert place.local is not None
    params = study.trials[1].params
    recipe: Any = load(place.local, [f"run_dir={config.root / 'stages'}"])
    assert recipe.stages["second"].optim.lr == params["optim.lr"]
    assert recipe.stages["second"].method.temperature == params["method.temperature"]
    assert "evaluate" in recipe.stages
    trial = plan(space.trial_recipe(params))
    again = plan(recipe)
    assert {label: str(stage.path) for label, stage in trial.items()}.items() <= {
        label: str(stage.path) for label, stage in again.items()
    }.items()


def test_its_head_says_where_it_comes_from(tmp_path: Path) -> None:
    config, space = toy(tmp_path, name="toys")
    study = study_of(config, space, [[0.5], [0.8], None])
    place = write_best(space, config, study)
    assert place is not None
    text = place.read_text()
    head = text.split("\n\n")[0]
    assert all(line.startswith("#") for line in head.splitlines())
    assert "Best of the study 'toys': trial 1, val_accuracy 0.8." in head
    assert "3 trials, 2 of them complete" in head
    assert f"stages.second.optim.lr            {study.trials[1].params['optim.lr']}" in head
    assert "expect less on new tasks; finalists.md" in head


def test_without_a_complete_trial_there_is_no_best(tmp_path: Path) -> None:
    config, space = toy(tmp_path)
    assert write_best(space, config, study_of(config, space, [None])) is None
    assert not (tmp_path / "study").exists()


def test_trials_of_other_studies_do_not_count(tmp_path: Path) -> None:
    config, space = toy(tmp_path)
    study = study_of(config, space, [[0.9], [0.8]])
    copied = study.trials[0]
    copied.user_attrs["source"] = "elsewhere#3"
    other = study_of(config, space, [[0.5]])
    other.add_trial(copied)
    best = best_trial(config, other)
    assert best is not None
    assert best.value == 0.5


def test_with_several_goals_the_first_decides_and_then_the_others(tmp_path: Path) -> None:
    config, space = toy(tmp_path, goals=[{}, {"metric": "step_seconds"}])
    study = study_of(config, space, [[0.5, 0.1], [0.8, 3.0], [0.8, 2.0], [0.7, 0.2]])
    best = best_trial(config, study)
    assert best is not None
    assert best.number == 2
    place = write_best(space, config, study)
    assert place is not None
    assert "trial 2, val_accuracy 0.8, step_seconds 2." in place.read_text()

"""Whole studies with real Ray: results, memory of stages, restarts, populations, bad studies."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from optuna.trial import TrialState

from data_shards.location import Location
from pipelines.cli import main
from pipelines.runner import PipelineConfig, run_pipeline
from tests.ray_cluster import local_cluster
from tests.toy_study import RECIPE, write_study
from tuning.config import load_study
from tuning.outcome import own_trials
from tuning.space import build_space
from tuning.store import read_study

pytestmark = pytest.mark.ray


def tuned(study: Path, *overrides: str) -> list[Any]:
    """Run `fewshot tune` and return the study's own trials."""
    assert main(["tune", str(study), *overrides]) == 0
    _, record = read_study(Location.parse(study.parent / "study"))
    return own_trials(record)


@pytest.mark.timeout(600)
def test_a_study_shares_stages_goes_on_and_hands_back_a_recipe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = write_study(tmp_path, budget={"trials": 2})
    first = tuned(study)
    assert [trial.state for trial in first] == [TrialState.COMPLETE] * 2
    printed = capsys.readouterr().out
    for name in ("report.html", "best.yaml"):
        assert str(tmp_path / "study" / name) in printed
        assert (tmp_path / "study" / name).is_file()
    assert "trial_0000" in printed  # the finalists' comparison

    both = tuned(study, "budget.trials=3")
    assert [trial.params for trial in both[:2]] == [trial.params for trial in first]
    ran = [label for trial in both for label in trial.user_attrs["ran"]]
    assert (ran.count("shards"), ran.count("first"), ran.count("second")) == (1, 1, 3)

    rows = pq.read_table(tmp_path / "study" / "trials.parquet").to_pylist()
    assert [row["number"] for row in rows] == [0, 1, 2]
    best = yaml.safe_load((tmp_path / "study" / "best.yaml").read_text())
    winner = max(both, key=lambda trial: trial.value)
    chosen = best["stages"]["second"]["method"]["temperature"]
    assert chosen == winner.params["method.temperature"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_shared_stages_change_no_result(tmp_path: Path) -> None:
    study = write_study(tmp_path, budget={"trials": 3}, finalists={"count": 0})
    trials = tuned(study)
    space = build_space(load_study(study))
    for trial in trials:
        recipe = space.trial_recipe(trial.params)
        alone = recipe.model_copy(update={"run_dir": str(tmp_path / f"alone-{trial.number}")})
        result = run_pipeline(PipelineConfig.model_validate(alone.model_dump(mode="json")))
        assert result["second"].metrics["val_accuracy"] == trial.value


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_study_in_a_bucket_goes_on_from_there(tmp_path: Path, s3_root: str) -> None:
    study = write_study(tmp_path, study_dir=s3_root, budget={"trials": 1}, finalists={"count": 0})
    root = Location.parse(s3_root)
    for trials in (1, 2):
        assert main(["tune", str(study), f"budget.trials={trials}"]) == 0
        _, record = read_study(root)
        assert [trial.state for trial in own_trials(record)] == [TrialState.COMPLETE] * trials
    assert (root / "report.html").exists()
    assert (root / "best.yaml").exists()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_nested_study_prunes_and_gives_its_workers_back(tmp_path: Path) -> None:
    study = write_study(
        tmp_path,
        budget={"trials": 4},
        pruner={"name": "asha", "min_percent": 25, "factor": 2},
        finalists={"count": 0},
        trials={"launcher": "ray"},
    )
    trials = tuned(study)
    assert len(trials) == 4
    assert {trial.state for trial in trials} <= {TrialState.COMPLETE, TrialState.PRUNED}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_population_exchanges_weights_and_ends_with_one_trial_per_member(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = write_study(
        tmp_path,
        finalists="-",
        sampler="-",
        pruner="-",
        population={"interval_epochs": 1, "quantile": 0.5, "resample": 0.0},
        budget={"trials": 4},
    )
    with local_cluster(cpus=4):  # all members train at once
        trials = tuned(study)
    assert len(trials) == 4
    assert all(list(trial.intermediate_values)[-1] == 100 for trial in trials)
    histories = [
        [json.loads(line) for line in path.read_text().splitlines()]
        for path in (tmp_path / "study" / "population").glob("*/history.jsonl")
    ]
    changed = [h for h in histories if len({json.dumps(line["params"]) for line in h}) > 1]
    assert changed  # somebody took over another's settings
    assert "best model:" in capsys.readouterr().out


def test_a_study_that_cannot_fit_says_so_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = write_study(tmp_path, trials={"cpus": 4000})
    assert main(["tune", str(study)]) == 2
    message = capsys.readouterr().err
    assert "one trial needs 4000 CPU" in message
    assert "trials.cpus" in message


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_fault_that_all_trials_share_ends_the_sweep(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = write_study(tmp_path, budget={"trials": 30}, finalists={"count": 0})
    recipe = copy.deepcopy(RECIPE)
    recipe["stages"]["second"]["episodes"]["ways"] = 400  # more than there are classes
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    assert main(["tune", str(study)]) == 2
    assert "400" in capsys.readouterr().err

"""A trial's pipeline in a thread: it reports, waits for the verdict, and ends when told to."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from fsl.errors import ConfigError, NonFiniteError, OutOfMemoryError, StageError, StorageError
from tests.toy_study import RECIPE
from tuning.outcome import Outcome, TrialJob, TrialNews
from tuning.work import PipelineWork, judged


def job(root: Path, **changes: Any) -> TrialJob:
    """Return a trial of the toy recipe without its evaluate stage; `changes` are of `second`."""
    recipe = copy.deepcopy(RECIPE)
    del recipe["stages"]["evaluate"]
    for key, value in changes.items():
        section, _, name = key.partition("__")
        recipe["stages"]["second"][section][name] = value
    recipe["run_dir"] = str(root)
    return TrialJob(3, recipe, "second", ["val_accuracy"], devices=2)


def everything(work: PipelineWork) -> list[TrialNews]:
    """Return all reports, the end last."""
    news = [work.next()]
    while news[-1].outcome is None:
        news.append(work.next())
    return news


def test_a_trial_reports_each_validation_of_its_objective_and_then_its_goals(
    tmp_path: Path,
) -> None:
    news = everything(PipelineWork(job(tmp_path)))
    judged_news = [item for item in news if item.value is not None]
    assert [item.percent for item in judged_news] == [25, 50, 75, 100]
    assert [item.epochs for item in judged_news] == [1, 2, 3, 4]
    end = news[-1]
    assert end.outcome is Outcome.COMPLETE
    assert end.values == [max(item.value or 0 for item in judged_news)]
    assert list(end.ran) == ["shards", "first", "second"]
    assert end.device_seconds == pytest.approx(2 * end.seconds)
    assert TrialNews.from_json(end.to_json()).to_json() == end.to_json()


def test_a_trial_reuses_the_stages_that_another_has_run(tmp_path: Path) -> None:
    everything(PipelineWork(job(tmp_path)))
    end = everything(PipelineWork(job(tmp_path, optim__lr=0.02)))[-1]
    assert list(end.reused) == ["shards", "first"]
    assert list(end.ran) == ["second"]


def test_a_trial_that_is_run_again_ends_the_same_without_training(tmp_path: Path) -> None:
    first = everything(PipelineWork(job(tmp_path)))[-1]
    again = everything(PipelineWork(job(tmp_path)))
    assert len(again) == 1
    assert again[0].values == first.values
    assert again[0].curve == first.curve
    assert list(first.curve) == ["25", "50", "75", "100"]
    assert list(again[0].ran) == []


def test_a_stopped_trial_ends_at_its_validation_and_goes_on_from_there_later(
    tmp_path: Path,
) -> None:
    whole = everything(PipelineWork(job(tmp_path / "whole")))[-1]
    work = PipelineWork(job(tmp_path / "cut"))
    news = work.next()
    while news.value is None:
        news = work.next()
    assert news.percent == 25
    work.stop()
    rest = everything(PipelineWork(job(tmp_path / "cut")))
    assert [item.percent for item in rest if item.value is not None] == [50, 75, 100]
    assert rest[-1].values == whole.values


def test_settings_that_the_data_refuse_end_the_trial_with_the_reason(tmp_path: Path) -> None:
    end = everything(PipelineWork(job(tmp_path, episodes__ways=400)))[-1]
    assert end.outcome in (Outcome.FAILED, Outcome.INFEASIBLE)
    assert "400" in end.reason


@pytest.mark.parametrize(
    ("cause", "outcome"),
    [
        (NonFiniteError("loss is nan at step 3"), Outcome.INFEASIBLE),
        (OutOfMemoryError("the GPU has 8 GB"), Outcome.INFEASIBLE),
        (ConfigError("ways exceeds classes"), Outcome.INFEASIBLE),
        (StageError("disk is full"), Outcome.FAILED),
        (StorageError("the bucket does not answer"), Outcome.FAILED),
    ],
)
def test_what_made_a_stage_fail_decides_whether_the_settings_were_impossible(
    cause: Exception, outcome: Outcome
) -> None:
    with pytest.raises(StageError) as caught:
        raise StageError(f"stage 'second': {cause}") from cause
    assert judged(caught.value)[0] is outcome


def test_a_bug_fails_the_trial_and_keeps_the_end_of_its_traceback() -> None:
    with pytest.raises(KeyError) as caught:
        _ = {}["missing"]  # type: ignore[var-annotated]
    outcome, reason = judged(caught.value)
    assert outcome is Outcome.FAILED
    assert "KeyError: 'missing'" in reason


def test_storage_that_fails_while_a_recipe_is_checked_is_no_fault_of_the_settings() -> None:
    with pytest.raises(ConfigError) as caught:
        raise ConfigError("stages.first: the bucket does not answer") from StorageError("timeout")
    assert judged(caught.value)[0] is Outcome.FAILED

"""Watching a training run: reports at validations, an early end, and going on from there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from data_shards.manifest import ShardSet
from fsl.config import build
from fsl.errors import NonFiniteError, OutOfMemoryError, StageError
from pipelines.checkpoint import find_checkpoints
from pipelines.model import load_model
from pipelines.runner import PipelineConfig, StageEvent, plan, run_pipeline
from pipelines.watch import Report, TrainingStopped, Watcher, current_watcher, watching
from tests.toy_training import Toy, toy_config, toy_shards, weights


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return toy_shards(tmp_path_factory.mktemp("watched") / "shards")


@pytest.fixture
def recipe(shards: ShardSet, tmp_path: Path) -> Callable[..., PipelineConfig]:
    """Return a function (run directory, settings) -> three epochs of six steps."""

    def make(run: str = "run", **changes: Any) -> PipelineConfig:
        train = toy_config(cluster__launcher="local", **changes).model_dump(mode="json")
        stages = {
            "shards": {"kind": "use_shards", "path": str(shards.root)},
            "pretrain": {**train, "needs": ["shards"]},
        }
        return build(PipelineConfig, {"run_dir": str(tmp_path / run), "stages": stages})

    return make


def keeping(reports: list[Report]) -> Watcher:
    """Return a watcher that keeps what it is told, and lets the training go on."""

    def watch(report: Report) -> bool:
        reports.append(report)
        return True

    return watch


def trained(config: PipelineConfig) -> Mapping[str, Tensor]:
    """Return the weights at the end of a run's training."""
    return weights(load_model(plan(config)["pretrain"].path, "last").method)


def test_every_validation_is_reported_with_its_numbers(recipe: Any) -> None:
    reports: list[Report] = []
    with watching(keeping(reports)):
        results = run_pipeline(recipe())
    assert [(report.step, report.epoch) for report in reports] == [(6, 1), (12, 2), (18, 3)]
    assert {report.label for report in reports} == {"pretrain"}
    assert {report.total_steps for report in reports} == {18}
    best = max(report.metrics["val_accuracy"] for report in reports)
    assert best == results["pretrain"].metrics["val_accuracy"]
    assert {"val_half_width", "loss", "images_per_second"} <= set(reports[0].metrics)
    assert "collapsed" not in reports[-1].metrics


def test_a_stopped_training_goes_on_to_the_same_weights(recipe: Any) -> None:
    events: list[str] = []

    def hear(event: StageEvent) -> None:
        events.append(f"{event.stage.label} {event.state}")

    stopped = recipe("stopped")
    with (
        pytest.raises(TrainingStopped, match="'pretrain' was stopped at step 12 of 18"),
        watching(lambda report: report.step < 12),
    ):
        run_pipeline(stopped, hear)
    assert events[-2:] == ["pretrain started", "pretrain stopped"]
    assert plan(stopped)["pretrain"].state == "continue"
    assert list(find_checkpoints(plan(stopped)["pretrain"].path))[-1] == "step-00000012"

    later: list[Report] = []
    with watching(keeping(later)):
        run_pipeline(stopped)
    assert [report.step for report in later] == [18]
    through = recipe("through")
    run_pipeline(through)
    expected = trained(through)
    assert all(torch.equal(value, expected[name]) for name, value in trained(stopped).items())


def test_the_end_of_the_last_step_can_be_refused_and_is_then_found_done(recipe: Any) -> None:
    config = recipe(optim__epochs=1, optim__warmup_epochs=0)
    with pytest.raises(TrainingStopped), watching(lambda report: False):
        run_pipeline(config)
    assert run_pipeline(config)["pretrain"].metrics["steps"] == 6


def test_what_a_watcher_raises_comes_out_as_it_is(recipe: Any) -> None:
    class Collapsed(Exception):
        pass

    def watch(report: Report) -> bool:
        raise Collapsed

    config = recipe()
    with pytest.raises(Collapsed), watching(watch):
        run_pipeline(config)
    assert list(find_checkpoints(plan(config)["pretrain"].path))[-1] == "step-00000006"


def test_a_watcher_ends_with_its_block_also_when_that_fails() -> None:
    watch = keeping([])

    def fail() -> None:
        with watching(watch):
            assert current_watcher() is watch
            raise StageError("anything")

    with pytest.raises(StageError):
        fail()
    assert current_watcher() is None


def test_a_method_that_calls_itself_collapsed_for_long_is_reported_so(
    recipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Toy, "diagnose", lambda self, metrics: "flat")
    monkeypatch.setattr("pipelines.trainer.WARN_STEPS", 0)
    reports: list[Report] = []
    with watching(keeping(reports)):
        run_pipeline(recipe(log_every=1))
    assert [report.metrics.get("collapsed") for report in reports] == [None, 1.0, 1.0]


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({"method__break_at": 5}, NonFiniteError),
        ({"method__classes": 10**14}, OutOfMemoryError),  # 6 petabytes of weights
    ],
)
def test_the_reason_of_a_failure_can_be_read_from_its_cause(
    recipe: Any, settings: dict[str, Any], kind: type[Exception]
) -> None:
    with pytest.raises(StageError, match="stage 'pretrain'") as caught:
        run_pipeline(recipe(**settings))
    assert type(caught.value.__cause__) is kind

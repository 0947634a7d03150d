"""Training in the driver's own process."""

from pathlib import Path

import pytest
import torch

from data_shards.location import Location
from data_shards.manifest import ShardSet
from fsl.errors import ConfigError, StageError
from pipelines.local_trainer import run_here
from pipelines.stage import StageResult
from pipelines.stages.train import TrainStage
from pipelines.watch import Report, TrainingStopped, watching
from tests.toy_training import episodic_config, toy_config, toy_shards, toy_spec


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return toy_shards(tmp_path_factory.mktemp("local") / "shards")


def test_a_stage_trains_without_ray_and_again_does_nothing(
    shards: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = TrainStage(toy_config(cluster__launcher="local"))
    inputs = {"shards": StageResult("shards", "write_shards", "0" * 64, shards.root, {})}
    out = Location.parse(tmp_path / "train-0000")
    threads = torch.get_num_threads()
    metrics = stage.run(inputs, out)
    assert metrics["steps"] == 18
    assert 0 < metrics["val_accuracy"] <= 1
    assert metrics["step_seconds"] == pytest.approx(24 / metrics["images_per_second"])
    assert torch.get_num_threads() == threads
    monkeypatch.setattr("pipelines.trainer.Trainer.fit", lambda self: pytest.fail("trained again"))
    assert stage.run(inputs, out) == metrics


def test_a_run_in_a_bucket_goes_on_where_it_was_stopped(
    shards: ShardSet, tmp_path: Path, s3_root: str
) -> None:
    config = toy_config(cluster__launcher="local", data__cache="decoded")
    inputs = {"shards": StageResult("shards", "write_shards", "0" * 64, shards.root, {})}
    here, there = Location.parse(tmp_path / "train-0000"), Location.parse(s3_root) / "train-0000"
    whole = TrainStage(config).run(inputs, here)
    with pytest.raises(TrainingStopped), watching(lambda report: report.epoch < 2):
        TrainStage(config).run(inputs, there)
    reports: list[Report] = []
    with watching(lambda report: not reports.append(report)):  # type: ignore[func-returns-value]
        numbers = TrainStage(config).run(inputs, there)
    assert [report.epoch for report in reports] == [3]
    assert numbers["val_accuracy"] == whole["val_accuracy"]
    assert numbers["loss"] == whole["loss"]


def test_a_run_warns_of_classes_that_it_never_draws(
    shards: ShardSet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = episodic_config(
        data__select={"long_tail": {"ratio": 6}}, optim__epochs=1, cluster__launcher="local"
    )
    inputs = {"shards": StageResult("shards", "write_shards", "0" * 64, shards.root, {})}
    TrainStage(config).run(inputs, Location.parse(tmp_path / "train-0000"))
    assert caplog.text.count("images and are never drawn; lower episodes.shots") == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused_in_one_line(shards: ShardSet, tmp_path: Path) -> None:
    spec = toy_spec(toy_config(cluster__launcher="local", cluster__gpu=True), shards, tmp_path)
    with pytest.raises(StageError, match=r"cluster\.gpu: true, but this machine has no usable GPU"):
        run_here(spec, 18)


def test_several_workers_need_ray() -> None:
    with pytest.raises(ConfigError, match="workers: 2, but launcher: local is one"):
        toy_config(cluster__launcher="local", cluster__workers=2)

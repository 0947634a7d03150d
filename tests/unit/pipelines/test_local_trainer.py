"""Training in the driver's own process."""

from pathlib import Path

import pytest
import torch

from data_shards.location import Location
from data_shards.manifest import ShardSet
from fsl.errors import ConfigError, StageError
from pipelines.checkpoint import find_checkpoints
from pipelines.local_trainer import run_here
from pipelines.stage import StageResult
from pipelines.stages.train import TrainStage
from tests.toy_training import toy_config, toy_shards, toy_spec


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


def test_a_bucket_is_refused(shards: ShardSet, tmp_path: Path) -> None:
    spec = toy_spec(toy_config(), shards, tmp_path / "out")
    object.__setattr__(spec, "out", Location.parse("s3://bucket/run?region=us-east-1"))
    with pytest.raises(StageError, match="not in s3://bucket/run"):
        run_here(spec, 18)
    assert not find_checkpoints(Location.parse(tmp_path / "out"))


def test_several_workers_need_ray() -> None:
    with pytest.raises(ConfigError, match="workers: 2, but launcher: local is one"):
        toy_config(cluster__launcher="local", cluster__workers=2)

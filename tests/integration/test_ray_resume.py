"""Where a run on Ray goes on: at the newest whole checkpoint, whoever wrote it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from data_shards.manifest import ShardSet
from pipelines.checkpoint import DIRECTORY, find_checkpoints, write_pointers
from pipelines.local_trainer import run_here
from pipelines.metric_log import read_metrics
from pipelines.model import load_model
from pipelines.ray_trainer import SNAPSHOT, run_training
from pipelines.session import LocalSession
from pipelines.stages.train import plan_steps
from pipelines.trainer import Trainer, TrainSpec
from pipelines.watch import TrainingStopped, watching
from tests.ray_cluster import local_cluster
from tests.toy_training import (
    Interrupted,
    StopsAtFour,
    toy_config,
    toy_shards,
    toy_spec,
    weights,
)

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("default"),  # Ray itself uses what Ray has deprecated
]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return toy_shards(tmp_path_factory.mktemp("shards"))


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    with local_cluster():
        yield


def assert_as_undisturbed(spec: TrainSpec, shards: ShardSet, place: Path) -> None:
    """The final weights are, bit for bit, those of a run that nobody interrupted."""
    plain = toy_spec(spec.config, shards, place)
    trainer = Trainer(plain, LocalSession(plain.out))
    trainer.fit()
    write_pointers(spec.out)
    trained = weights(load_model(spec.out, "last").method)
    assert all(torch.equal(value, trained[key]) for key, value in weights(trainer.method).items())


def test_ray_goes_on_where_a_local_run_stopped_whatever_the_snapshot_says(
    shards: ShardSet, tmp_path: Path
) -> None:
    config = toy_config()
    spec = toy_spec(config, shards, tmp_path / "out")
    with pytest.raises(Interrupted):
        Trainer(spec, StopsAtFour(spec.out)).fit()
    before = read_metrics(spec.out)
    (spec.out / DIRECTORY / SNAPSHOT).write_text('{"checkpoint_results": [{"che')
    run_training(spec, plan_steps(config, shards))
    assert read_metrics(spec.out)[: len(before)] == before  # the steps were not taken again
    assert_as_undisturbed(spec, shards, tmp_path / "plain")


def test_ray_goes_on_after_a_local_run_that_removed_checkpoints_of_ray(
    shards: ShardSet, tmp_path: Path
) -> None:
    config = toy_config(cluster__workers=1, checkpoint__keep=1, validation__every_epochs=1)
    total = plan_steps(config, shards)
    with watching(lambda report: report.epoch < 1):
        spec = toy_spec(config, shards, tmp_path / "out")
        with pytest.raises(TrainingStopped):
            run_training(spec, total)
    with watching(lambda report: report.epoch < 2), pytest.raises(TrainingStopped):
        run_here(spec, total)
    for name in list(find_checkpoints(spec.out))[:-1]:  # as a user short of space does
        (spec.out / DIRECTORY / name).delete()
    run_training(spec, total)
    assert len(find_checkpoints(spec.out)) <= 2  # the best one and the last
    assert_as_undisturbed(spec, shards, tmp_path / "plain")

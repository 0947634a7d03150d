"""Two connected workers train what one trains, also where one of them has nothing in a step."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from data_shards.manifest import ShardSet
from fsl.distributed import rank, world_size
from pipelines.session import LocalSession
from pipelines.trainer import Trainer, TrainSpec
from tests.toy_training import (
    assert_near,
    episodic_config,
    toy_config,
    toy_shards,
    toy_spec,
    weights,
)
from tests.unit.fsl.test_distributed import forks, in_two_processes

SGD = {
    "optim__optimizer": "sgd",
    "optim__lr": 0.02,
    "optim__epochs": 1,
    "validation__every_epochs": 0,
}
INCOMPLETE = toy_config(
    **SGD,
    backbone__drop_path=0.0,  # its draws depend on the worker
    method={"name": "simclr", "head": {"hidden": 16, "output": 8}},
    data={"batch_size": 13, "incomplete": "keep"},  # 144 images: the last batch has one
)
EPISODIC_NORM = episodic_config(
    **SGD,
    backbone={"name": "resnet12", "widths": [4, 4, 8, 8], "norm": "episodic"},
    data={"micro_batch": 1},
    episodes__per_step=3,  # one worker has two tasks, the other has one
)
CONFIGS = {"incomplete batch": INCOMPLETE, "episodic norm": EPISODIC_NORM}


def trained(spec: TrainSpec) -> Mapping[str, Tensor]:
    session = LocalSession(spec.out, rank=rank(), world_size=world_size())
    trainer = Trainer(spec, session)
    trainer.fit()
    return {k: v for k, v in weights(trainer.method).items() if "num_batches" not in k}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return toy_shards(tmp_path_factory.mktemp("shards"))


@forks
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_two_workers_end_with_the_weights_of_one(
    config: Any, shards: ShardSet, tmp_path: Path
) -> None:
    expected = trained(toy_spec(config, shards, tmp_path / "one"))
    spec = toy_spec(config, shards, tmp_path / "two")
    for found in in_two_processes(partial(trained, spec), tmp_path):
        assert_near(found, expected)

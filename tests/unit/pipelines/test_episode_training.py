"""Training from episodes: what a rank gets, settings that fit, and bit-equal resuming."""

import json
from pathlib import Path

import pytest
import torch

from data_shards.class_tree import TREE_NAME
from data_shards.location import Location
from data_shards.manifest import ShardSet
from fsl.errors import ConfigError
from pipelines.batch_plan import BatchPlan
from pipelines.loader import EpisodeSteps, TraceEntry, batches
from pipelines.session import LocalSession
from pipelines.stages.train import run_digest
from pipelines.train_checks import check_data
from pipelines.train_config import TrainConfig
from pipelines.trainer import Trainer
from pipelines.training_data import build_data_set, build_plan
from tests.toy_training import (
    EPISODES,
    Interrupted,
    StopsAtFour,
    episodic_config,
    toy_config,
    toy_shards,
    toy_spec,
    weights,
)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return toy_shards(tmp_path_factory.mktemp("episodes") / "shards")


def traced(shards: ShardSet, config: TrainConfig, rank: int, world: int) -> list[TraceEntry]:
    plan = build_plan(config, shards, world)
    data_set = build_data_set(config, shards, plan, None, rank)
    assert isinstance(data_set, EpisodeSteps)
    data_set.trace = True
    return [entry for item in batches(data_set, range(2, 5), config.data) for entry in item.trace]


@pytest.mark.parametrize(("world", "micro"), [(1, 1), (1, 3), (2, None), (4, None)])
def test_ranks_and_micro_batches_see_the_same_tasks(
    shards: ShardSet, world: int, micro: int | None
) -> None:
    expected = sorted(traced(shards, episodic_config(), 0, 1))
    config = episodic_config(data__micro_batch=micro)
    entries = [entry for rank in range(world) for entry in traced(shards, config, rank, world)]
    assert sorted(entries) == expected
    assert len({entry.digest for entry in entries}) == 12  # three steps of four tasks


def test_loader_processes_see_the_same_tasks(shards: ShardSet) -> None:
    assert traced(shards, episodic_config(data__loader_workers=1), 0, 1) == traced(
        shards, episodic_config(), 0, 1
    )


def test_uneven_shares_weigh_as_one_mean_over_tasks(shards: ShardSet) -> None:
    plan = build_plan(episodic_config(), shards, 3)
    weights_of = [plan.part(0, rank, 0) for rank in range(3)]
    assert sum(len(part.positions) for part in weights_of) == 4
    assert sum(part.weight / 3 for part in weights_of) == pytest.approx(1)


def test_an_interrupted_run_ends_with_the_same_weights(shards: ShardSet, tmp_path: Path) -> None:
    config = episodic_config()
    whole = Trainer(toy_spec(config, shards, tmp_path / "whole"), _session(tmp_path / "whole"))
    whole.fit()
    spec = toy_spec(config, shards, tmp_path / "cut")
    with pytest.raises(Interrupted):
        Trainer(spec, StopsAtFour(spec.out)).fit()
    resumed = Trainer(spec, LocalSession(spec.out))
    assert resumed.start == 4
    resumed.fit()
    for name, value in weights(whole.method).items():
        assert torch.equal(value, resumed.method.state_dict()[name]), name


def test_another_class_tree_makes_another_run(shards: ShardSet) -> None:
    drawn = {"name": "variable", "min_ways": 2, "max_ways": 3, "per_epoch": 8}
    trees = []
    for classes in ([0, 1], [1, 2]):
        names = [sorted(shards.class_names["base"])[number] for number in classes]
        tree = {"nodes": [{"name": "node", "classes": names}]}
        (shards.root / TREE_NAME).write_text(json.dumps(tree))
        configs = [episodic_config(episodes={**drawn, "class_tree": used}) for used in (0, 1)]
        trees.append([run_digest(config, shards, None) for config in configs])
    (shards.root / TREE_NAME).delete()
    assert trees[0][0] == trees[1][0]
    assert trees[0][1] != trees[1][1]


def _session(out: Path) -> LocalSession:
    return LocalSession(Location.parse(out))


def test_several_splits_and_their_validation(tiny_shards: ShardSet, tmp_path: Path) -> None:
    config = episodic_config(
        data__split=["base", "val"], validation__split="novel", optim__epochs=1
    )
    check_data(config, tiny_shards)
    spec = toy_spec(config, tiny_shards, tmp_path / "pools")
    numbers = Trainer(spec, LocalSession(spec.out)).fit()
    assert 0 < numbers["val_accuracy"] <= 1
    assert numbers["images_per_second"] > 0


def test_settings_that_do_not_fit_the_method_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"data.batch_size: method 'protonet' learns from episod"):
        episodic_config(data__batch_size=32)
    with pytest.raises(ConfigError, match="'protonet' learns from episodes; say which"):
        episodic_config(episodes=None)
    with pytest.raises(ConfigError, match="'toy' does not learn from episodes; remove"):
        toy_config(episodes=EPISODES)
    with pytest.raises(ConfigError, match="only methods that learn from episodes take several"):
        toy_config(data__split=["base", "val"])


def test_more_workers_than_tasks_of_a_step_are_refused() -> None:
    config = episodic_config()
    assert config.episodes is not None
    with pytest.raises(ConfigError, match=r"episodes.per_step: 4 tasks cannot be shared by 5"):
        BatchPlan.of_tasks(config.episodes, None, 5, alone=False)

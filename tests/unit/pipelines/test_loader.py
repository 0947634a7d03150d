"""Batches: what an image becomes depends on seed, epoch and position, and on nothing else."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from data_shards.manifest import ShardSet
from fsl.augment import LabelledBatcher, SingleViewConfig
from fsl.errors import ConfigError, ShardError
from fsl.images import ImageSpec
from fsl.types import MultiViewBatch
from pipelines.batch_plan import BatchPlan
from pipelines.image_store import ImageStore
from pipelines.loader import ImageSteps, TraceEntry, batches, image_digests
from pipelines.train_config import DataConfig, OrderConfig
from pipelines.training_data import build_order
from tests.toy_training import IMAGES, toy_shards

SPEC = ImageSpec.model_validate(IMAGES)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return toy_shards(tmp_path_factory.mktemp("shards"))


def data_set(shards: ShardSet, rank: int = 0, world: int = 1, **data: object) -> ImageSteps:
    config = DataConfig.model_validate({"batch_size": 20, **data})
    split = shards.split("base")
    order = build_order(config.order, split, seed=3)
    plan = BatchPlan.of(config, len(order), world)
    store = ImageStore(split, "grey", keep=config.cache == "decoded")
    batcher = LabelledBatcher(SPEC, SingleViewConfig())
    return ImageSteps(store, order, plan, batcher, seed=3, rank=rank, trace=True)


def trace(shards: ShardSet, world: int, steps: range, **data: object) -> list[list[TraceEntry]]:
    """The trace of each step, over all ranks."""
    sets = [data_set(shards, rank, world, **data) for rank in range(world)]
    per_step = sets[0].plan.micro_batches
    return [
        [entry for own in sets for m in range(per_step) for entry in own[step * per_step + m].trace]
        for step in steps
    ]


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("micro_batch", [None, 3])
def test_every_world_size_makes_the_same_images_at_each_step(
    shards: ShardSet, world: int, micro_batch: int | None
) -> None:
    steps = range(5, 10)  # over the end of an epoch of 7 steps
    expected = trace(shards, 1, steps)
    assert trace(shards, world, steps, micro_batch=micro_batch) == expected
    assert [len(step) for step in expected] == [20] * 5
    assert {entry.epoch for step in expected for entry in step} == {0, 1}


def test_the_same_image_looks_different_in_another_epoch(shards: ShardSet) -> None:
    first, second = (
        {entry.key: entry.digest for step in trace(shards, 1, steps) for entry in step}
        for steps in (range(7), range(7, 14))
    )
    both = first.keys() & second.keys()
    assert len(both) > 100
    assert all(first[key] != second[key] for key in both)


def test_an_epoch_shows_each_image_at_most_once(shards: ShardSet) -> None:
    keys = [entry.key for step in trace(shards, 2, range(7)) for entry in step]
    assert len(keys) == len(set(keys)) == 140


def test_a_loader_begun_later_goes_on_as_one_that_ran_through(shards: ShardSet) -> None:
    config = DataConfig(batch_size=20)
    through = [item.trace for item in batches(data_set(shards), range(9), config)]
    resumed = [item.trace for item in batches(data_set(shards), range(4, 9), config)]
    assert resumed == through[4:]


def test_images_kept_in_memory_equal_those_decoded_each_time(shards: ShardSet) -> None:
    kept = data_set(shards, cache="decoded")
    assert kept[2].trace == data_set(shards)[2].trace
    copy = pickle.loads(pickle.dumps(data_set(shards)))
    assert copy[2].trace == kept[2].trace


def test_classes_stand_together_in_a_class_balanced_order(shards: ShardSet) -> None:
    order = OrderConfig(name="class_balanced", images_per_class=4)
    labels = data_set(shards, order=order)[0].batch.labels.reshape(-1, 4)
    assert torch.equal(labels, labels[:, :1].expand(-1, 4))


@pytest.mark.parametrize("world", [1, 2, 3, 5])
@pytest.mark.parametrize("micro_batch", [None, 2, 3])
def test_weights_turn_the_mean_over_ranks_into_the_mean_over_the_batch(
    world: int, micro_batch: int | None
) -> None:
    config = DataConfig(batch_size=17, incomplete="keep", micro_batch=micro_batch)
    plan = BatchPlan.of(config, 17 * 2 + 4, world)
    losses = torch.randn(plan.positions, dtype=torch.float64)
    assert plan.steps_per_epoch == 3
    for step, size in enumerate((17, 17, 4)):
        ranks = []
        for rank in range(world):
            parts = [plan.part(step, rank, micro) for micro in range(plan.micro_batches)]
            assert all(0 < len(part.positions) <= (micro_batch or 17) for part in parts)
            ranks.append(sum(part.weight * losses[part.positions].mean() for part in parts))
        expected = losses[17 * step : 17 * step + size].mean()
        torch.testing.assert_close(torch.stack(ranks).mean(), expected)


def test_even_parts_weigh_exactly_one() -> None:
    plan = BatchPlan.of(DataConfig(batch_size=64), 640, 4)
    assert [plan.part(3, rank, 0).weight for rank in range(4)] == [1.0] * 4


def test_an_incomplete_batch_is_dropped_unless_kept() -> None:
    dropped = BatchPlan.of(DataConfig(batch_size=10), 25, 1)
    kept = BatchPlan.of(DataConfig(batch_size=10, incomplete="keep"), 25, 1)
    assert (dropped.steps_per_epoch, kept.steps_per_epoch) == (2, 3)
    assert dropped.part(2, 0, 0).epoch == 1
    assert np.array_equal(kept.part(2, 0, 0).positions, np.arange(20, 25))


def test_a_batch_larger_than_the_split_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"batch_size: 64 images.* split 'base' has 25; lower it"):
        BatchPlan.of(DataConfig(batch_size=64), 25, 1)


def test_more_workers_than_images_are_refused() -> None:
    with pytest.raises(ConfigError, match="2 images cannot be shared by 3 workers"):
        BatchPlan.of(DataConfig(batch_size=2), 25, 3)


def test_a_digest_covers_each_view_and_mask_of_its_image_only() -> None:
    def batch() -> MultiViewBatch:
        views = torch.arange(4 * 3, dtype=torch.float32).reshape(4, 3, 1, 1)
        masks = torch.zeros(4, 2, 2, dtype=torch.bool)
        return MultiViewBatch(views, torch.empty(0), masks, torch.tensor([0, 1]), 2)

    changed = batch()
    changed.masks[3, 0, 1] = True  # view 1 of image 1
    before, after = image_digests(batch(), 2), image_digests(changed, 2)
    assert before[0] == after[0]
    assert before[1] != after[1]


def test_a_damaged_image_is_named(shards: ShardSet, tmp_path: Path) -> None:
    own = toy_shards(tmp_path / "own")
    tar = own.split("base").shard_files[0].local
    assert tar is not None
    content = bytearray(tar.read_bytes())
    offset = int(own.split("base").offsets[0])
    content[offset : offset + 8] = b"\0" * 8
    tar.write_bytes(bytes(content))
    damaged = data_set(own)
    with pytest.raises(ShardError, match=r"base-000000\.tar: sample"):
        list(batches(damaged, range(7), DataConfig()))

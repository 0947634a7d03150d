"""How a class is turned follows from the run's seed and the epoch, or task, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from data_shards.manifest import ShardSet
from fsl.augment import LabelledBatcher, SingleViewConfig
from fsl.augment.episode_batcher import EpisodicBatcher
from fsl.batchers import EpisodeLayout
from fsl.images import ImageSpec
from pipelines.batch_plan import BatchPlan
from pipelines.image_store import ImageStore
from pipelines.loader import ImageSteps
from pipelines.train_config import DataConfig
from pipelines.training_data import build_order
from tests.toy_training import IMAGES, toy_shards

SPEC = ImageSpec.model_validate(IMAGES)
WHOLE = {
    "scale": (1.0, 1.0),
    "aspect": (1.0, 1.0),
    "flip": 0.0,
    "jitter": {"probability": 0.0},
    "grayscale": 0.0,
}
TURNED = SingleViewConfig.model_validate({**WHOLE, "quarter_turns": True})
STRAIGHT = SingleViewConfig.model_validate(WHOLE)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return toy_shards(tmp_path_factory.mktemp("shards"))


def turns_of(turned: Tensor, straight: Tensor) -> list[int]:
    """The quarter turns of each image."""
    found = []
    for one, other in zip(turned, straight, strict=True):
        fits = [k for k in range(4) if torch.allclose(torch.rot90(other, k, (1, 2)), one)]
        assert len(fits) == 1
        found += fits
    return found


def epoch_turns(
    shards: ShardSet, seed: int, epoch: int, world: int = 1, **data: object
) -> dict[int, int]:
    """The turn of each class, which all its images of an epoch share."""
    split = shards.split("base")
    config = DataConfig.model_validate({"batch_size": 48, **data})
    order = build_order(config.order, split, seed=seed)
    plan = BatchPlan.of(config, len(order), world)
    pairs = set()
    for rank in range(world):
        turned, straight = (
            ImageSteps(
                ImageStore(split, "grey"),
                order,
                plan,
                LabelledBatcher(SPEC, view),
                seed=seed,
                rank=rank,
            )
            for view in (TURNED, STRAIGHT)
        )
        items = plan.steps_per_epoch * plan.micro_batches
        for item in range(epoch * items, (epoch + 1) * items):
            batch = turned[item].batch
            turns = turns_of(batch.images, straight[item].batch.images)
            pairs |= set(zip(batch.labels.tolist(), turns, strict=True))
    assert len(pairs) == len(split.class_names)
    return dict(pairs)


def test_runs_of_other_seeds_and_epochs_turn_classes_otherwise(shards: ShardSet) -> None:
    drawn = [epoch_turns(shards, seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert len({tuple(sorted(turns.items())) for turns in drawn}) == 4


def test_workers_and_micro_batches_do_not_change_how_a_class_is_turned(shards: ShardSet) -> None:
    expected = epoch_turns(shards, 5, 2)
    assert epoch_turns(shards, 5, 2, world=2, micro_batch=5) == expected


def task_turns(first_seed: int, task: int = 0) -> list[int]:
    """The turns of the four classes of a task of eight images, whose seeds follow the first."""
    generator = torch.Generator().manual_seed(1)
    shape = (1, 16, 16)
    images = [torch.randint(0, 256, shape, generator=generator).byte() for _ in range(8)]
    labels = torch.arange(4)[None]  # (1, 4)
    seeds = list(range(first_seed, first_seed + 8))
    made = [
        EpisodicBatcher(SPEC, view)(
            images, [0, 1, 2, 3] * 2, seeds, EpisodeLayout(np.array([task]), labels, labels, 4)
        )
        for view in (TURNED, STRAIGHT)
    ]
    support = turns_of(made[0].support_images[0], made[1].support_images[0])
    assert turns_of(made[0].query_images[0], made[1].query_images[0]) == support
    return support


def test_a_task_of_another_run_turns_its_classes_otherwise() -> None:
    assert len({tuple(task_turns(100 * seed)) for seed in range(4)}) > 1

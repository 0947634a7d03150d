"""The same images at every step and the same result, however the work is divided."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from data_shards.location import Location
from data_shards.manifest import ShardSet
from fsl.augment import MultiCropBatcher
from fsl.config import build
from fsl.images import ImageSpec
from fsl.method import METHODS
from pipelines.batch_plan import BatchPlan
from pipelines.checkpoint import write_pointers
from pipelines.image_store import ImageStore
from pipelines.loader import ImageSteps, TraceEntry, batches
from pipelines.metric_log import read_metrics
from pipelines.model import load_model
from pipelines.train_config import DataConfig
from pipelines.training_data import build_order
from tests import train_script
from tests.toy_training import IMAGES, assert_near, toy_shards, weights

STEPS = range(4, 9)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return toy_shards(tmp_path_factory.mktemp("shards"))


def smkd_set(shards: ShardSet, rank: int, world: int, data: DataConfig) -> ImageSteps:
    """Crops and block masks of SMKD's first stage."""
    images = ImageSpec.model_validate(IMAGES)
    method = METHODS.get("masked_distillation")
    settings = {"crops": {"global_size": 16, "local_size": 8, "local_views": 2}}
    batcher = method.batcher(build(method.Config, settings), images, lambda size: (size // 4,) * 2)
    assert isinstance(batcher, MultiCropBatcher)
    split = shards.split("base")
    order = build_order(data.order, split, 5)
    plan = BatchPlan.of(data, len(order), world)
    return ImageSteps(
        ImageStore(split, "grey"), order, plan, batcher, seed=5, rank=rank, trace=True
    )


def trace(shards: ShardSet, world: int, workers: int, steps: range) -> list[set[TraceEntry]]:
    """What each step sees, over all ranks, from real loaders."""
    data = DataConfig(batch_size=20, loader_workers=workers)
    ranks = [batches(smkd_set(shards, rank, world, data), steps, data) for rank in range(world)]
    return [{entry for rank in ranks for entry in next(rank).trace} for _ in steps]


@pytest.mark.parametrize(
    ("world", "workers"),
    [
        (2, 0),
        (3, 0),
        pytest.param(1, 1, marks=pytest.mark.slow),
        (1, 2),
        pytest.param(2, 1, marks=pytest.mark.slow),
    ],
)
def test_keys_crops_and_masks_are_those_of_one_process(
    shards: ShardSet, world: int, workers: int
) -> None:
    expected = trace(shards, 1, 0, STEPS)
    assert [len(step) for step in expected] == [20] * len(STEPS)
    assert trace(shards, world, workers, STEPS) == expected


@pytest.mark.parametrize("killed", [5, 7])
def test_a_run_killed_at_any_step_goes_on_with_the_same_images(
    shards: ShardSet, killed: int
) -> None:
    through = trace(shards, 1, 0, STEPS)
    again = trace(shards, 1, 0, range(4, killed)) + trace(shards, 3, 0, range(killed, 9))
    assert again == through


PLAIN = ["method.noise=0", "backbone.drop_path=0", "validation.every_epochs=0"]
PLAIN += ["log_every=1", "checkpoint.keep=9"]


@pytest.mark.slow
def test_two_gloo_ranks_with_accumulation_train_like_one_process(
    shards: ShardSet, tmp_path: Path
) -> None:
    root, one, two, other = shards.root, tmp_path / "one", tmp_path / "two", tmp_path / "other"
    train_script.main("local", str(root), str(one), PLAIN)
    for out in (two, other):
        if out is other:  # the first 8 of 18 steps in one process, the rest in two
            shutil.copytree(one, other)
            for name in ("step-00000012", "step-00000016", "step-00000018"):
                shutil.rmtree(other / "checkpoints" / name, ignore_errors=True)
        ranks = [
            train_script.start(
                "gloo", root, out, *PLAIN, "data.micro_batch=5", RANK=str(rank), WORLD_SIZE="2"
            )
            for rank in range(2)
        ]
        train_script.end(*ranks, timeout=150)
        assert [rank.returncode for rank in ranks] == [0, 0]
    places = [Location.parse(place) for place in (one, two, other)]
    for place in places:
        write_pointers(place)
    expected = weights(load_model(places[0], "last").method)
    losses = [line["loss"] for line in read_metrics(places[0])]
    assert len(losses) == 18
    for place in places[1:]:
        assert_near(weights(load_model(place, "last").method), expected)
        assert [line["loss"] for line in read_metrics(place)] == pytest.approx(losses, rel=1e-3)

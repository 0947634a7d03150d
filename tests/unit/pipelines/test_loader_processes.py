"""What a user can mend leaves a real loader process as one line, wherever images are read."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext

import numpy as np
import pytest
import torch

from data_shards.manifest import Split
from fsl.augment import LabelledBatcher, SingleViewConfig
from fsl.errors import ShardError
from fsl.images import ImageSpec
from pipelines.batch_plan import BatchPlan
from pipelines.features import Part, prepared_batches
from pipelines.image_store import ImageStore
from pipelines.loader import ImageSteps, batches
from pipelines.train_config import DataConfig
from pipelines.training_data import build_order
from pipelines.validation import SharedImages
from tests.toy_training import IMAGES, toy_shards

SPEC = ImageSpec.model_validate(IMAGES)


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    """Its first image is damaged."""
    damaged = toy_shards(tmp_path_factory.mktemp("damaged")).split("base")
    tar = damaged.shard_files[0].local
    assert tar is not None
    content = bytearray(tar.read_bytes())
    offset = int(damaged.offsets[0])
    content[offset : offset + 8] = b"\0" * 8
    tar.write_bytes(bytes(content))
    return damaged


def train(split: Split) -> Iterable[object]:
    config = DataConfig(batch_size=20, loader_workers=1)
    order = build_order(config.order, split, seed=3)
    plan = BatchPlan.of(config, len(order), 1)
    batcher = LabelledBatcher(SPEC, SingleViewConfig())
    store = ImageStore(split, "grey")
    data_set = ImageSteps(store, order, plan, batcher, seed=3, rank=0)
    return batches(data_set, range(7), config)


def validate(split: Split) -> Iterable[object]:
    shared = SharedImages(split, np.arange(40), SPEC, batch_size=20, loader_workers=1)
    return shared.encoded(lambda images: images, torch.device("cpu"), nullcontext())


def extract(split: Split) -> Iterable[object]:
    return prepared_batches(Part.whole(split), SPEC, 20, 1)


@pytest.mark.parametrize("read", [train, validate, extract])
def test_a_damaged_image_is_one_line_from_a_loader_process(
    read: Callable[[Split], Iterable[object]], split: Split
) -> None:
    with pytest.raises(ShardError, match=r"base-000000\.tar: sample") as caught:
        list(read(split))
    assert "\n" not in str(caught.value)
    assert "worker process" not in str(caught.value)

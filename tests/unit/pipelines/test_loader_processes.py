"""What a user can mend leaves a real loader process as one line, wherever images are read."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from data_shards.manifest import Split
from fsl.augment import LabelledBatcher, SingleViewConfig
from fsl.errors import ShardError, StorageError
from fsl.images import ImageSpec
from pipelines.batch_plan import BatchPlan
from pipelines.features import Part, prepared_batches
from pipelines.image_store import ImageStore
from pipelines.loader import ImageSteps, batches
from pipelines.loader_processes import in_order
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


class Dying(Dataset[Tensor]):
    """Numbers; the process that makes the third of them dies as at the kernel's hands."""

    def __getitem__(self, number: int) -> Tensor:
        if number == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.tensor(number)


class Failing(Dataset[Tensor]):
    """Items that fail for a reason of their own."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __getitem__(self, number: int) -> Tensor:
        raise self.error


def test_a_loader_process_that_dies_is_one_line() -> None:
    message = r"^a loader process died .*lower loader_workers, prefetch.*/dev/shm"
    with pytest.raises(StorageError, match=message) as caught:
        list(in_order(Dying(), range(6), 1))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("error", [RuntimeError("a bug"), EOFError("a bug")], ids=repr)
@pytest.mark.parametrize("processes", [0, 1])
def test_a_fault_of_the_items_is_no_death(error: Exception, processes: int) -> None:
    with pytest.raises(type(error), match="a bug"):
        list(in_order(Failing(error), range(2), processes))


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

"""Batches of one training process, exact whatever the world size, loader workers or kill point.

One item of the data set is one part of a step (see `batch_plan`), ready for the network. Items
keep their order for any number of loader processes, so resuming is starting at another item.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from data_shards.episode_sampler import EpisodeSampler
from data_shards.order import Order, class_seed, sample_seeds
from fsl.batchers import Batcher, EpisodeBatcher, EpisodeLayout
from fsl.types import Episode
from pipelines.batch_plan import BatchPlan
from pipelines.image_store import ImageStore, Store
from pipelines.loader_processes import in_order
from pipelines.train_config import DataConfig


class TraceEntry(NamedTuple):
    """What was made of one image: enough to compare two runs exactly."""

    epoch: int
    position: int
    key: str
    digest: str


@dataclass(frozen=True)
class LocalBatch:
    """One item: a batch for the network and its weight."""

    batch: Any
    images: int
    weight: float
    trace: tuple[TraceEntry, ...] = ()

    def pin_memory(self) -> LocalBatch:
        """Return it in page-locked memory (called by the DataLoader)."""
        tensors = {
            field.name: value.pin_memory()
            for field in fields(self.batch)
            if isinstance(value := getattr(self.batch, field.name), Tensor)
        }
        return replace(self, batch=replace(self.batch, **tensors))


class StepDataset(Dataset[LocalBatch]):
    """Item i is micro-batch i % M of step i // M, for one rank."""

    plan: BatchPlan


class ImageSteps(StepDataset):
    """Batches of images in an order."""

    def __init__(
        self,
        store: ImageStore,
        order: Order,
        plan: BatchPlan,
        batcher: Batcher,
        *,
        seed: int,
        rank: int,
        trace: bool = False,
    ) -> None:
        self.store, self.order, self.plan = store, order, plan
        self.batcher, self.seed, self.rank, self.trace = batcher, seed, rank, trace

    def __getitem__(self, item: int) -> LocalBatch:
        """Return one micro-batch."""
        step, micro = divmod(item, self.plan.micro_batches)
        epoch, positions, weight = self.plan.part(step, self.rank, micro)
        rows = self.order.rows(epoch, positions)
        images = self.store.images(rows)
        labels = self.store.split.labels[rows].tolist()
        seeds = sample_seeds(self.seed, epoch, positions).tolist()
        batch = self.batcher(images, labels, seeds, epoch, class_seed(self.seed, epoch))
        trace: tuple[TraceEntry, ...] = ()
        if self.trace and weight > 0:
            trace = tuple(
                TraceEntry(epoch, position, self.store.split.key(row), image_digest)
                for position, row, image_digest in zip(
                    positions.tolist(), rows.tolist(), image_digests(batch, len(rows)), strict=True
                )
            )
        return LocalBatch(batch, len(rows), weight, trace)


class EpisodeSteps(StepDataset):
    """Batches of tasks; task number n of the run is position n of an endless order.

    Args:
        store: images of all pools of the sampler.
        sampler: which images make a task.
        plan: division of an epoch's tasks.
        batcher: images -> tasks.
        rank: this process.
        trace: also return digests of what was made.
    """

    def __init__(
        self,
        store: Store,
        sampler: EpisodeSampler,
        plan: BatchPlan,
        batcher: EpisodeBatcher,
        *,
        rank: int,
        trace: bool = False,
    ) -> None:
        self.store, self.sampler, self.plan = store, sampler, plan
        self.batcher, self.rank, self.trace = batcher, rank, trace

    def __getitem__(self, item: int) -> LocalBatch:
        """Return one micro-batch."""
        step, micro = divmod(item, self.plan.micro_batches)
        epoch, positions, weight = self.plan.part(step, self.rank, micro)
        tasks = self.sampler.rows(epoch * self.plan.positions + positions)
        rows = np.concatenate([tasks.support, tasks.query], 1)  # (T, S + Q)
        layout = EpisodeLayout(
            tasks.numbers,
            torch.from_numpy(tasks.support_labels),
            torch.from_numpy(tasks.query_labels),
            tasks.ways,
        )
        flat = rows.ravel()
        seeds = self.sampler.seeds(tasks.numbers, rows.shape[1]).ravel().tolist()
        labels = self.sampler.labels[flat].tolist()
        batch = self.batcher(self.store.images(flat), labels, seeds, layout)
        trace: tuple[TraceEntry, ...] = ()
        if self.trace and weight > 0:
            trace = tuple(
                TraceEntry(epoch, position, f"task {number}", digest)
                for position, number, digest in zip(
                    positions.tolist(), tasks.numbers.tolist(), task_digests(batch), strict=True
                )
            )
        return LocalBatch(batch, len(flat), weight, trace)


def task_digests(batch: Episode) -> list[str]:
    """Return a digest per task of everything in it."""
    hashes = [hashlib.sha256() for _ in batch.support_labels]
    for field in fields(batch):
        value = getattr(batch, field.name)
        for index, digest in enumerate(hashes):
            part = value[index].numpy() if isinstance(value, Tensor) else np.int64(value)
            digest.update(part.tobytes())
    return [digest.hexdigest()[:16] for digest in hashes]


def image_digests(batch: Any, images: int) -> list[str]:
    """Return a digest per image of everything a batch holds of it: crops, masks, label.

    Tensors are view-major, (views * images, ...).
    """
    hashes = [hashlib.sha256() for _ in range(images)]
    for field in fields(batch):
        value = getattr(batch, field.name)
        if isinstance(value, Tensor) and value.numel():
            views = value.reshape(-1, images, *value.shape[1:])
            for index, digest in enumerate(hashes):
                digest.update(views[:, index].contiguous().numpy().tobytes())
    return [digest.hexdigest()[:16] for digest in hashes]


def batches(
    data_set: StepDataset,
    steps: Sequence[int],
    data: DataConfig,
    pin_memory: bool = False,
) -> Iterator[LocalBatch]:
    """Return the micro-batches of consecutive `steps`, in order."""
    per_step = data_set.plan.micro_batches
    return in_order(
        data_set,
        range(steps[0] * per_step, (steps[-1] + 1) * per_step),
        data.loader_workers,
        prefetch=data.prefetch,
        pin_memory=pin_memory,
    )

"""Batches of one training process, exact whatever the world size, loader workers or kill point.

Global step s of an epoch takes the positions [s*B, (s+1)*B) of the epoch's order; they are cut
into R*M consecutive parts for R ranks with M micro-batches each. One item of the data set is one
such part, ready for the network. A DataLoader keeps the order of items for any number of
processes, so resuming is starting at another item.

Letters: B global batch size, R ranks, M micro-batches per rank and step.
"""

from __future__ import annotations

import hashlib
import multiprocessing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from data_shards.decode import decode_image
from data_shards.manifest import Split
from data_shards.order import ClassBalancedOrder, Order, ShuffledOrder, sample_seeds
from data_shards.reader import Reader
from fsl.batchers import Batcher
from fsl.errors import ConfigError
from pipelines.train_config import DataConfig, OrderConfig


def build_order(config: OrderConfig, split: Split, seed: int) -> Order:
    """Return the order that `config` describes."""
    if config.images_per_class is not None:
        return ClassBalancedOrder(split.labels, config.images_per_class, seed)
    return ShuffledOrder(split.shard_sizes, seed, config.shuffle_block)


class Part(NamedTuple):
    """What one rank takes in one micro-batch."""

    epoch: int
    positions: NDArray[np.int64]  # (n,) within the epoch
    weight: float
    """Factor of the mean loss over the part: the mean over ranks of the weighted losses, summed
    over micro-batches, is then the mean over the global batch, also when parts are uneven."""


@dataclass(frozen=True)
class BatchPlan:
    """Division of an epoch into steps, ranks and micro-batches."""

    positions: int
    batch_size: int
    keep_incomplete: bool
    world_size: int
    micro_batches: int

    @classmethod
    def of(cls, data: DataConfig, positions: int, world_size: int) -> BatchPlan:
        """Return the plan of an epoch of `positions`; refuses what cannot be divided."""
        if data.batch_size > positions and data.incomplete == "drop":
            raise ConfigError(
                f"data.batch_size: {data.batch_size} images, but an epoch of split {data.split!r} "
                f"has {positions}; lower it, or set data.incomplete to keep"
            )
        if data.batch_size < world_size:
            raise ConfigError(
                f"data.batch_size: {data.batch_size} images cannot be shared by {world_size} "
                "workers; raise it, or lower cluster.workers"
            )
        share = -(-data.batch_size // world_size)
        micro_batches = -(-data.batch_size // (world_size * min(data.micro_batch or share, share)))
        keep = data.incomplete == "keep"
        return cls(positions, data.batch_size, keep, world_size, micro_batches)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of an epoch."""
        whole = self.positions // self.batch_size
        return whole + (self.keep_incomplete and self.positions % self.batch_size > 0)

    def part(self, step: int, rank: int, micro: int) -> Part:
        """Return what `rank` takes in micro-batch `micro` of the run's step `step`."""
        epoch, local = divmod(step, self.steps_per_epoch)
        first = local * self.batch_size
        size = min(self.batch_size, self.positions - first)
        parts = self.world_size * self.micro_batches
        index = rank * self.micro_batches + micro
        start, stop = index * size // parts, (index + 1) * size // parts
        if start == stop:  # fewer images than parts: repeat one at no weight, all ranks must step
            return Part(epoch, np.array([first + min(start, size - 1)]), 0.0)
        weight = (stop - start) * self.world_size / size
        return Part(epoch, np.arange(first + start, first + stop), weight)


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


class ImageStore:
    """Decoded images of a split by row, read from the shards or kept in memory."""

    def __init__(self, split: Split, mode: str, keep: bool = False) -> None:
        self.split, self.mode = split, mode
        self.reader = Reader(split)
        self.pixels: Tensor | None = None  # all images, one after the other
        if keep:
            self._fill()

    def images(self, rows: NDArray[np.int64]) -> list[Tensor]:
        """Return the images of `rows`, each (C, H, W) uint8."""
        if self.pixels is None:
            return self._decode(rows)
        return [self._kept(int(row)) for row in rows]

    def _decode(self, rows: NDArray[np.int64]) -> list[Tensor]:
        payloads = self.reader.read(rows)
        return [
            decode_image(payload, self.mode, self.reader.where(int(row)))  # type: ignore[arg-type]
            for payload, row in zip(payloads, rows, strict=True)
        ]

    def _fill(self) -> None:
        """Decode everything once; torch shares the memory with loader processes."""
        images = self._decode(np.arange(len(self.split)))
        self.shapes = [tuple(image.shape) for image in images]
        self.starts = np.cumsum([0, *(image.numel() for image in images)])
        pixels = torch.cat([image.flatten() for image in images])
        self.pixels = pixels.share_memory_()  # type: ignore[no-untyped-call]

    def _kept(self, row: int) -> Tensor:
        assert self.pixels is not None
        return self.pixels[self.starts[row] : self.starts[row + 1]].view(self.shapes[row])


class StepDataset(Dataset[LocalBatch]):
    """Item i is micro-batch i % M of step i // M, for one rank."""

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
        batch = self.batcher(images, labels, seeds, epoch)
        trace: tuple[TraceEntry, ...] = ()
        if self.trace and weight > 0:
            trace = tuple(
                TraceEntry(epoch, position, self.store.split.key(row), image_digest)
                for position, row, image_digest in zip(
                    positions.tolist(), rows.tolist(), image_digests(batch, len(rows)), strict=True
                )
            )
        return LocalBatch(batch, len(rows), weight, trace)


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
    workers, per_step = data.loader_workers, data_set.plan.micro_batches
    if workers:
        share_imports()
    loader: DataLoader[LocalBatch] = DataLoader(
        data_set,
        batch_size=None,
        sampler=range(steps[0] * per_step, (steps[-1] + 1) * per_step),
        num_workers=workers,
        collate_fn=_as_it_is,  # type: ignore[arg-type]
        pin_memory=pin_memory,
        # fork would copy the training process's threads and locks in whatever state they are
        multiprocessing_context="forkserver" if workers else None,
        prefetch_factor=data.prefetch if workers else None,
    )
    return iter(loader)


def share_imports() -> None:
    """Let the server that forks loader processes import this module once for all of them."""
    multiprocessing.get_context("forkserver").set_forkserver_preload([__name__])


def _as_it_is(item: LocalBatch) -> LocalBatch:
    return item

"""Division of an epoch's images, or tasks, into steps, ranks and micro-batches.

Global step s of an epoch takes the positions [s*B, (s+1)*B) of the epoch; they are cut into R*M
consecutive parts for R ranks with M micro-batches each.

Letters: B global batch size, R ranks, M micro-batches per rank and step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_shards.episode_designs import EpisodeDesign
from fsl.errors import ConfigError
from pipelines.train_config import DataConfig


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
        micro_batches = _micro_batches(data.batch_size, world_size, data.micro_batch)
        keep = data.incomplete == "keep"
        return cls(positions, data.batch_size, keep, world_size, micro_batches)

    @classmethod
    def of_tasks(
        cls, design: EpisodeDesign, micro_batch: int | None, world_size: int, alone: bool
    ) -> BatchPlan:
        """Return the plan of an epoch of tasks, which stand where images do otherwise.

        Args:
            design: tasks per step and per epoch.
            micro_batch: most tasks at once.
            world_size: number of workers.
            alone: whether tasks differ in shape, so that each is a micro-batch of its own.
        """
        if design.per_step < world_size:
            raise ConfigError(
                f"episodes.per_step: {design.per_step} tasks cannot be shared by {world_size} "
                "workers; raise it, or lower cluster.workers"
            )
        most = 1 if alone else micro_batch
        micro_batches = _micro_batches(design.per_step, world_size, most)
        return cls(design.per_epoch, design.per_step, False, world_size, micro_batches)

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


def _micro_batches(size: int, world_size: int, most: int | None) -> int:
    """Return how many micro-batches each of `world_size` ranks makes of its share."""
    share = -(-size // world_size)
    return -(-size // (world_size * min(most or share, share)))

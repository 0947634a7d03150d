"""The order of a training run: which sample stands at global position p of epoch e.

Orders are pure functions of (seed, epoch, position). So world size, loader workers and any kill
point leave the samples of every global step unchanged, and (epoch, step) is all that resuming
needs. Rank r of R takes the r-th slice of each step's positions (`rank_slice`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from data_shards.permutation import I64, U64, hash_key, hash_with, permute
from fsl.errors import ConfigError

SHARDS, SAMPLES, GROUPS, SEEDS, CLASSES = range(1, 6)  # keep the permutations of one seed apart


class Order(Protocol):
    """What a loader needs of an order."""

    def __len__(self) -> int:
        """Return the positions of an epoch."""

    def rows(self, epoch: int, positions: NDArray[np.integer]) -> I64:
        """Return the row of the split that stands at each position."""


@dataclass(frozen=True)
class _Layout:
    """The shards of one epoch in visiting order, and the blocks they form."""

    first_rows: I64  # (S,) first row of the split in each visited shard
    starts: I64  # (S + 1,) where each visited shard begins in the epoch
    block_starts: I64  # (blocks + 1,)
    block_keys: U64  # (blocks,)


class ShuffledOrder:
    """Every sample once per epoch: shards permuted, samples permuted within blocks of shards.

    Memory is O(shards). With `shuffle_block` None the permutation is exact over all samples; a
    small block keeps reads of an object store near each other.

    Args:
        shard_sizes: samples of each shard of the split, in row order.
        seed: names the order.
        shuffle_block: shards per block, or None for all in one.
    """

    def __init__(
        self, shard_sizes: NDArray[np.integer], seed: int, shuffle_block: int | None = None
    ) -> None:
        if shuffle_block is not None and shuffle_block < 1:
            raise ConfigError(f"shuffle_block: {shuffle_block} shards; use 1 or more, or null")
        self.shard_sizes = np.asarray(shard_sizes, np.int64)
        self.seed = seed
        self.block = min(shuffle_block or len(self.shard_sizes), max(1, len(self.shard_sizes)))
        self._length = int(self.shard_sizes.sum())
        if self._length == 0:
            raise ConfigError("order: the split has no samples; write it again")
        self._epoch = -1
        self._layout: _Layout | None = None

    def __len__(self) -> int:
        return self._length

    def rows(self, epoch: int, positions: NDArray[np.integer]) -> I64:
        """Return the row of the split that stands at each position of the epoch, (n,)."""
        positions = _checked(positions, len(self))
        layout = self._of(epoch)
        block = np.searchsorted(layout.block_starts, positions, "right") - 1
        start = layout.block_starts[block]
        sizes = layout.block_starts[block + 1] - start
        visited = start + permute(positions - start, sizes, layout.block_keys[block])
        shard = np.searchsorted(layout.starts, visited, "right") - 1
        return layout.first_rows[shard] + visited - layout.starts[shard]

    def _of(self, epoch: int) -> _Layout:
        if self._layout is None or epoch != self._epoch:
            self._layout, self._epoch = self._make(epoch), epoch
        return self._layout

    def _make(self, epoch: int) -> _Layout:
        count = len(self.shard_sizes)
        first_rows = np.cumsum(self.shard_sizes) - self.shard_sizes
        shards = np.arange(count)
        if self.block < count:  # within a single block the order of shards cannot be told
            shards = permute(shards, count, hash_key(self.seed, epoch, SHARDS))
        starts = np.concatenate([[0], np.cumsum(self.shard_sizes[shards])])
        bounds = np.append(np.arange(0, count, self.block), count)
        keys = hash_with(hash_key(self.seed, epoch, SAMPLES), np.arange(len(bounds) - 1))
        return _Layout(first_rows[shards], starts, starts[bounds], keys)


class ClassBalancedOrder:
    """Groups of `images_per_class` different images of one class, the groups in random order.

    Each class is permuted per epoch and cut into groups; what does not fill a group is left out
    of that epoch (another remainder in the next). Position p is image p % m of group p // m, so a
    batch that is a multiple of m holds m images of each of its classes.

    Args:
        labels: class of each row of the split, (N,).
        images_per_class: size m of a group.
        seed: names the order.
    """

    def __init__(self, labels: NDArray[np.integer], images_per_class: int, seed: int) -> None:
        if images_per_class < 1:
            raise ConfigError(f"images_per_class: {images_per_class}; use 1 or more")
        self.images_per_class, self.seed = images_per_class, seed
        self.counts = np.bincount(labels).astype(np.int64)
        small = np.flatnonzero((self.counts > 0) & (self.counts < images_per_class))
        if small.size:
            raise ConfigError(
                f"images_per_class: {images_per_class}, but class {small[0]} has "
                f"{self.counts[small[0]]} images ({small.size} classes are too small); use at most "
                f"{self.counts[small].min()}, or leave those classes out"
            )
        if not len(labels):
            raise ConfigError("order: the split has no samples; write it again")
        self._by_class = np.argsort(labels, kind="stable").astype(np.int64)
        self._starts = np.cumsum(self.counts) - self.counts
        self._group_ends = np.cumsum(self.counts // images_per_class)

    def __len__(self) -> int:
        return int(self._group_ends[-1]) * self.images_per_class

    def rows(self, epoch: int, positions: NDArray[np.integer]) -> I64:
        """Return the row of the split that stands at each position of the epoch, (n,)."""
        positions = _checked(positions, len(self))
        groups = int(self._group_ends[-1])
        size = self.images_per_class
        group = permute(positions // size, groups, hash_key(self.seed, epoch, GROUPS))
        label = np.searchsorted(self._group_ends, group, "right")
        counts = self.counts[label]
        within = group - (self._group_ends[label] - counts // size)
        keys = hash_with(hash_key(self.seed, epoch, SAMPLES), label)
        chosen = permute(within * size + positions % size, counts, keys)
        rows: I64 = self._by_class[self._starts[label] + chosen]
        return rows


def sample_seeds(seed: int, epoch: int, positions: NDArray[np.integer]) -> U64:
    """Return a seed below 2**63 for the augmentation and mask at each position, (n,) uint64."""
    hashed = hash_with(hash_key(seed, epoch, SEEDS), np.asarray(positions))
    return hashed >> np.uint64(1)


def class_seed(seed: int, epoch: int) -> int:
    """Return a seed below 2**63 for what is drawn once per class and epoch."""
    return hash_key(seed, epoch, CLASSES) >> 1


def rank_slice(step: int, batch_size: int, rank: int, world_size: int) -> I64:
    """Return the positions of one rank in a global step: a contiguous slice of the step's.

    Slices of all ranks cover the step's `batch_size` positions once, sizes differ by at most one.
    """
    if not 0 <= rank < world_size:
        raise ValueError(f"rank {rank} of {world_size}")
    first = step * batch_size
    start, stop = (first + r * batch_size // world_size for r in (rank, rank + 1))
    return np.arange(start, stop, dtype=np.int64)


def _checked(positions: NDArray[np.integer], length: int) -> I64:
    checked: I64 = np.asarray(positions).astype(np.int64)
    if checked.size and not (checked.min() >= 0 and checked.max() < length):
        raise IndexError(f"positions {checked.min()}..{checked.max()} of {length} per epoch")
    return checked

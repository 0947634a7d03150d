"""Training tasks by number, from one split or from several pools that a task never mixes.

Letters in shapes: T tasks, S support images, Q queries, N images of all pools together.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from data_shards.episode_designs import EpisodeDesign, EpisodeRows
from data_shards.labelled_rows import LabelledRows
from data_shards.permutation import I64, U64, hash_key, hash_with, mix

POOLS, IMAGE_SEEDS = 22, 23  # keep the hashes apart


class EpisodeSampler:
    """Tasks as row numbers into the pools, one after the other.

    With several pools (base and validation classes, for a final training) each task comes from one
    of them, chosen in proportion to their numbers of classes.

    Args:
        pools: splits that tasks are drawn from.
        design: shape of the tasks.
        seed: names the sequence of tasks.

    Attributes:
        labels: (N,) class of each row; classes of a later pool have higher numbers.
        starts: first row of each pool.
    """

    def __init__(self, pools: Sequence[LabelledRows], design: EpisodeDesign, seed: int) -> None:
        self.pools, self.design, self.seed = pools, design, seed
        for pool in pools:
            design.check(pool)
        self.starts = np.cumsum([0, *(len(pool) for pool in pools)])[:-1]
        classes = np.array([len(pool.class_names) for pool in pools])
        self._shares = np.cumsum(classes) / classes.sum()
        first = np.cumsum(classes) - classes
        self.labels: I64 = np.concatenate(
            [pool.labels.astype(np.int64) + c for pool, c in zip(pools, first, strict=True)]
        )

    def rows(self, numbers: NDArray[np.int64]) -> EpisodeRows:
        """Return the tasks with these numbers, (T,); one at a time where their shapes vary."""
        pool = self._pool_of(numbers)
        if (pool == pool[0]).all():
            return self._of_pool(int(pool[0]), numbers)
        parts = [self._of_pool(int(p), numbers[pool == p]) for p in np.unique(pool)]
        order = np.argsort(np.argsort(pool, kind="stable"), kind="stable")
        columns = (
            np.concatenate([part[field] for part in parts])[order] for field in (0, 2, 3, 4, 5)
        )
        number, support, support_labels, query, query_labels = columns
        return EpisodeRows(number, parts[0].ways, support, support_labels, query, query_labels)

    def seeds(self, numbers: NDArray[np.int64], images: int) -> U64:
        """Return a seed below 2**63 for each image of each task, (T, images)."""
        keys = hash_with(hash_key(self.seed, IMAGE_SEEDS), numbers)  # (T,)
        places = mix(np.arange(1, images + 1, dtype=np.uint64))
        return mix(keys[:, None] ^ places) >> np.uint64(1)

    def _pool_of(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        bits = hash_with(hash_key(self.seed, POOLS), numbers)
        uniform = (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
        return np.searchsorted(self._shares, uniform, "right").astype(np.int64)

    def _of_pool(self, pool: int, numbers: NDArray[np.int64]) -> EpisodeRows:
        rows = self.design.rows(self.pools[pool], numbers, self.seed)
        start = self.starts[pool]
        return rows._replace(support=rows.support + start, query=rows.query + start)

"""Which classes and images a task consists of: hashes under (seed, task), the smallest are taken.

Used for the sealed tasks of evaluations and for training tasks. Nothing loops over tasks.

Letters in shapes: E tasks, W ways, C classes, N images of the split.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from data_shards.labelled_rows import LabelledRows
from data_shards.permutation import U64, hash_key, hash_with, mix
from fsl.errors import ConfigError

I32 = NDArray[np.int32]
CHUNK = 4 << 20  # hashes at a time
CLASSES, IMAGES = 11, 12  # keep the hashes of classes and images apart


def classes_large_enough(
    split: LabelledRows, ways: int, shots: int, queries: int | None, tasks: int
) -> I32:
    """Return the classes with images for shots and queries, at least `ways` of them."""
    where = f"episodes of split {split.name!r}"
    for name, value in (("ways", ways), ("shots", shots), ("queries", queries), ("tasks", tasks)):
        if value is not None and value < 1:
            raise ConfigError(f"{where}: {name}: {value}; use 1 or more")
    counts = split.class_rows().counts
    needed = shots + (queries or 1)
    large = np.flatnonzero(counts >= needed).astype(np.int32)
    if ways > len(large):
        each = "1 query at least" if queries is None else f"{queries} queries"
        raise ConfigError(
            f"{where}: ways: {ways}, but of its {len(counts)} classes {len(large)} have the "
            f"{needed} images for {shots} shots and {each}; use fewer ways, shots or queries"
        )
    return large


def draw_classes(count: int, ways: int, numbers: NDArray[np.int64], seed: int) -> I32:
    """Return the classes of each episode, (E, W), in random order."""
    found = np.empty((len(numbers), ways), np.int32)
    step = max(1, CHUNK // count)
    every = mix(np.arange(1, count + 1, dtype=np.uint64))  # (C,)
    for start in range(0, len(numbers), step):
        keys = hash_with(hash_key(seed, CLASSES), numbers[start : start + step])  # (e,)
        found[start : start + step] = _smallest(mix(keys[:, None] ^ every), ways)  # (e, W)
    return found


def draw_rows(
    split: LabelledRows, classes: I32, numbers: NDArray[np.int64], seed: int, *, wanted: int
) -> I32:
    """Return `wanted` different rows of each way, (E, W, wanted), in random order."""
    grouped = split.class_rows()
    largest = int(grouped.counts.max())
    found = np.empty((*classes.shape, wanted), np.int32)
    step = max(1, CHUNK // (classes.shape[1] * largest))
    slot = np.arange(largest)
    for start in range(0, len(numbers), step):
        label = classes[start : start + step]  # (e, W)
        inside = slot < grouped.counts[label][..., None]  # (e, W, largest)
        rows = grouped.rows[np.where(inside, grouped.starts[label][..., None] + slot, 0)]
        keys = hash_with(hash_key(seed, IMAGES), numbers[start : start + step])  # (e,)
        ranks = mix(keys[:, None, None] ^ mix((rows + 1).astype(np.uint64)))
        ranks[~inside] = np.iinfo(np.uint64).max  # smaller classes end before the largest
        chosen = _smallest(ranks, wanted)
        found[start : start + step] = np.take_along_axis(rows, chosen, -1)  # (e, W, wanted)
    return found


def _smallest(ranks: U64, count: int) -> NDArray[np.int64]:
    """Return the positions of the `count` smallest of the last axis, smallest first."""
    if count >= ranks.shape[-1]:
        return np.argsort(ranks, -1, kind="stable")
    nearest = np.argpartition(ranks, count, -1)[..., :count]
    order = np.argsort(np.take_along_axis(ranks, nearest, -1), -1, kind="stable")
    return np.take_along_axis(nearest, order, -1)

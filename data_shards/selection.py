"""Parts of a split: rows with certain fields, a long tail of classes, images set aside.

A part is a function of the settings and of the labels; nothing is copied. It looks like a split,
so orders, readers and episodes work on it as they are.

Letters in shapes: N rows of the split, n rows of the part, C classes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from data_shards.location import Location
from data_shards.manifest import ShardSet, Split
from data_shards.permutation import hash_key, hash_with
from fsl.config import Section
from fsl.errors import ConfigError, did_you_mean
from fsl.long_tail import imbalanced_counts, select_images

ASIDE = 11  # keeps the draws of one seed apart from those of orders


class LongTailConfig(Section):
    """Fewer and fewer images from class to class, as in CIFAR-10-LT (Cui et al., CVPR 2019)."""

    kind: Literal["exp", "step"] = "exp"
    """`exp`: counts fall by a constant factor. `step`: the second half of the classes is rare."""
    ratio: Annotated[float, Field(ge=1, le=10_000)] = 100.0
    """Images of the largest class over images of the smallest."""
    largest: Annotated[int, Field(ge=1)] | None = None
    """Images of the largest class; null: as many as the smallest class of the split has."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Which images stay; the same for all seeds of training unless it is changed."""
    published: bool = False
    """Draw the images of the published CIFAR-LT sets (with seed 0), one class after the other from
    one generator: takes all training images of a pickled CIFAR archive. Else the images of a
    smaller `ratio` contain those of a larger."""


class SelectionConfig(Section):
    """Which rows of the split are used; all three conditions hold together."""

    where: dict[str, list[str]] = {}  # noqa: RUF012 - pydantic copies it
    """Fields of the shard set -> values that are kept, e.g. domain: [photo, sketch]."""
    set_aside: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of each class that is not trained on; `validation.kind: classes` asks these images."""
    set_aside_seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Which images are set aside."""
    long_tail: LongTailConfig | None = None
    """Leave out images of most classes, after setting aside."""


class SubSplit(Split):
    """Some rows of a split, in their order. Classes keep their numbers, also empty ones.

    Args:
        split: the whole.
        rows: ascending rows of it, (n,).
    """

    def __init__(self, split: Split, rows: NDArray[np.integer]) -> None:
        super().__init__(split.shard_set, split.name)
        self.whole = split
        self.rows = np.asarray(rows, np.int64)
        self.shard_sizes = np.bincount(split.shards[self.rows], minlength=len(self.files))

    def __reduce__(self) -> tuple[Any, ...]:
        shard_set = self.shard_set
        return _open, (shard_set.root, self.name, shard_set.digest, self.rows)

    def key(self, row: int) -> str:
        """Return the key of one sample."""
        return self.whole.key(int(self.rows[row]))

    def extra(self, name: str) -> list[str]:
        """Return an additional column, (n,)."""
        column = np.array(self.whole.extra(name), dtype=object)
        return [str(value) for value in column[self.rows]]

    @cached_property
    def image_sizes(self) -> NDArray[np.int16]:
        """Width and height in pixels, (n, 2)."""
        return self.whole.image_sizes[self.rows]

    @cached_property
    def keys(self) -> Any:
        """Sample keys, (n,)."""
        return self.whole.keys.take(self.rows)

    @cached_property
    def extensions(self) -> list[str]:
        """File extension of each image, (n,)."""
        return [self.whole.extensions[row] for row in self.rows]

    @cached_property
    def _numbers(self) -> dict[str, NDArray[Any]]:
        numbers = {name: values[self.rows] for name, values in self.whole._numbers.items()}
        for values in numbers.values():
            values.setflags(write=False)
        return numbers


def _open(root: Location, name: str, digest: str, rows: NDArray[np.int64]) -> SubSplit:
    whole = Split.__reduce__(ShardSet.open(root).split(name))
    return SubSplit(whole[0](root, name, digest), rows)


def training_part(split: Split, config: SelectionConfig) -> Split:
    """Return the rows to train on: those wanted, not set aside, of the long tail.

    Raises:
        ConfigError: an unknown field or value, or no row is left.
    """
    wanted = _wanted(split, config)
    aside = _aside(split, config, wanted)
    rows = np.flatnonzero(wanted & ~aside)
    if config.long_tail is not None:
        rows = _tail(split, config.long_tail, rows)
    return _part(split, rows, "leaves no image to train on")


def set_aside_part(split: Split, config: SelectionConfig) -> Split:
    """Return the rows that are wanted and set aside."""
    if not config.set_aside:
        raise ConfigError("data.select.set_aside: 0 sets no image aside; say a share, e.g. 0.1")
    aside = _aside(split, config, _wanted(split, config))
    return _part(split, np.flatnonzero(aside), "sets no image aside: classes are too small")


def rows_where(split: Split, where: dict[str, list[str]]) -> Split:
    """Return the rows whose fields have the values."""
    wanted = _wanted(split, SelectionConfig(where=where))
    return _part(split, np.flatnonzero(wanted), "keeps no image")


def _part(split: Split, rows: NDArray[np.int64], fault: str) -> Split:
    if not len(rows):
        raise ConfigError(f"select: {fault}, of {len(split)} in split {split.name!r}")
    return split if len(rows) == len(split) else SubSplit(split, rows)


def _wanted(split: Split, config: SelectionConfig) -> NDArray[np.bool_]:
    """Return whether each row has the wanted fields, (N,)."""
    wanted = np.ones(len(split), dtype=bool)
    for name, values in config.where.items():
        column = split.extra(name)
        _known(name, values, sorted(set(column)))
        wanted &= np.isin(np.array(column, dtype=object), values)
    return wanted


def _known(name: str, values: Sequence[str], known: Sequence[str]) -> None:
    for value in values:
        if value not in known:
            raise ConfigError(
                f"where.{name}: no image has {value!r}{did_you_mean(value, known)}; there are: "
                f"{', '.join(known)}"
            )


def _aside(split: Split, config: SelectionConfig, wanted: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return whether each row is set aside, (N,): the same share of every class."""
    aside = np.zeros(len(split), dtype=bool)
    rows = np.flatnonzero(wanted)
    places, counts = _places(split, rows, hash_key(config.set_aside_seed, ASIDE))
    labels = split.labels[rows]
    aside[rows] = places < np.round(counts * config.set_aside).astype(np.int64)[labels]
    return aside


def _tail(split: Split, config: LongTailConfig, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the rows of a long tail: class 0 is the largest."""
    labels = split.labels[rows]
    have = np.bincount(labels, minlength=len(split.class_names))
    largest = config.largest or int(have.min())
    wanted = imbalanced_counts(largest, len(have), config.ratio, config.kind)
    if config.published:
        rows = _as_in_the_archive(split, rows)
        labels = split.labels[rows]
    return np.sort(rows[select_images(labels, wanted, config.seed, published=config.published)])


def _as_in_the_archive(split: Split, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return rows in the order of the images in a pickled CIFAR archive, all of which are needed.

    Raises:
        ConfigError: the images are of another source, or some are left out.
    """
    known = "origin" in split.shard_set.extra_names
    origins = split.extra("origin") if known else []
    numbers = [re.fullmatch(r"train/(\d{5})", origins[row]) for row in rows if known]
    order = np.array([int(found[1]) if found else -1 for found in numbers], np.int64)
    if not known or not np.array_equal(np.sort(order), np.arange(len(order))):
        raise ConfigError(
            f"data.select.long_tail.published: split {split.name!r} does not give all training "
            "images of a pickled CIFAR archive, from which the published sets were drawn; write "
            "shards of it without per_class, and use neither where nor set_aside; or set "
            "published: false"
        )
    return rows[np.argsort(order)]


def _places(
    split: Split, rows: NDArray[np.int64], key: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return each row's place in a random order of its class (n,), and class sizes (C,).

    Which of two rows comes first depends on their numbers in the split alone.
    """
    labels = split.labels[rows]
    drawn = hash_with(key, rows)
    order = np.lexsort((drawn, labels))
    counts = np.bincount(labels, minlength=len(split.class_names)).astype(np.int64)
    starts = np.cumsum(counts) - counts
    places = np.empty(len(rows), np.int64)
    places[order] = np.arange(len(rows)) - starts[labels[order]]
    return places, counts

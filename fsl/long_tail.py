"""Long-tailed training sets, and accuracies of frequent and rare classes.

CIFAR-LT (Cao et al., NeurIPS 2019) leaves class i of K with n_max * ratio^(-i/(K-1)) of its
images. Accuracies are split by the number of training images (Liu et al., CVPR 2019).

Letters in shapes: K classes, M images of the whole set, S selected images, Q tested images.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fsl.errors import ConfigError

Ints: TypeAlias = NDArray[np.int64]
Bools: TypeAlias = NDArray[np.bool_]
MANY_ABOVE = 100
FEW_BELOW = 20
WORD = 1 << 64


def imbalanced_counts(
    largest: int, classes: int, ratio: float, kind: Literal["exp", "step"] = "exp"
) -> Ints:
    """Return the number of training images of every class, (K,), never increasing.

    Args:
        largest: images of the first class.
        classes: K, at least 2.
        ratio: how many times the images of the last class the first one has, at least 1.
        kind: `exp` falls geometrically from class to class; `step` leaves the first half of the
            classes whole (of an odd number the smaller half) and divides the others by the ratio.
    """
    if classes < 2 or ratio < 1 or largest < ratio:
        raise ConfigError(
            f"{classes} classes of at most {largest} images with ratio {ratio:g}: at least 2 "
            "classes are needed, and a ratio from 1 to the images of the largest class"
        )
    number = np.arange(classes)
    falls = number / (classes - 1) if kind == "exp" else (number >= classes // 2).astype(float)
    # A rounding error below a whole number must not cost an image.
    return np.floor(largest * float(ratio) ** -falls * (1 + 1e-12)).astype(np.int64)


def select_images(
    labels: ArrayLike, counts: ArrayLike, seed: int = 0, *, published: bool = False
) -> Ints:
    """Return the indices of the images to keep, (S,): class after class, in the order drawn.

    Which images of a class are kept is a function of (seed, class) and of how many it has; fewer
    are the first of more, so sets of larger ratios are parts of those of smaller ones.

    Args:
        labels: (M,) class numbers from 0.
        counts: (K,) how many to keep of each class.
        seed: any integer; with `published` from 0 to 2^32 - 1.
        published: draw as published CIFAR-LT sets were (with seed 0): the classes one after the
            other from one generator, so that a class depends on those before it.

    Raises:
        ConfigError: a class has fewer images than should be kept.
    """
    wanted = np.asarray(counts, dtype=np.int64)
    numbers = np.asarray(labels, dtype=np.int64)
    have = np.bincount(numbers, minlength=len(wanted))
    if len(short := np.flatnonzero(have[: len(wanted)] < wanted)):
        raise ConfigError(
            f"class {short[0]} has {have[short[0]]} images, {wanted[short[0]]} should be kept; "
            "lower the largest count"
        )
    by_class = np.split(np.argsort(numbers, kind="stable"), np.cumsum(have)[:-1])
    shuffle = _published_order(seed) if published else _keyed_order(seed)
    drawn = [
        shuffle(number, members)[:count]
        for number, (members, count) in enumerate(zip(by_class, wanted.tolist(), strict=False))
    ]
    return np.concatenate(drawn).astype(np.int64)


def _keyed_order(seed: int) -> Callable[[int, Ints], Ints]:
    def shuffle(number: int, members: Ints) -> Ints:
        # Raw numbers of a bit generator are the same in every version of NumPy.
        key = np.array([seed % WORD, number], dtype=np.uint64)
        drawn = np.random.Philox(key=key).random_raw(len(members))
        return members[np.argsort(drawn, kind="stable")]

    return shuffle


def _published_order(seed: int) -> Callable[[int, Ints], Ints]:
    generator = np.random.RandomState(seed)

    def shuffle(number: int, members: Ints) -> Ints:
        del number  # the generator goes on from class to class
        return generator.permutation(members)

    return shuffle


class ShotGroups(NamedTuple):
    """Which classes have many, a medium number of, and few training images."""

    many: Bools  # (K,) more than 100
    medium: Bools  # (K,) 20 to 100
    few: Bools  # (K,) fewer than 20


def shot_groups(train_counts: ArrayLike) -> ShotGroups:
    """Return the three groups of classes, from their training images (K,)."""
    counts = np.asarray(train_counts)
    many, few = counts > MANY_ABOVE, counts < FEW_BELOW
    return ShotGroups(many, ~many & ~few, few)


class GroupedAccuracy(NamedTuple):
    """Accuracies in [0, 1]; a group without tested classes has 0, as in published tables."""

    overall: float  # of all images
    many: float  # mean over classes, as are the next two
    medium: float
    few: float


def grouped_accuracy(
    predictions: ArrayLike, labels: ArrayLike, train_counts: ArrayLike
) -> GroupedAccuracy:
    """Return the accuracy of all images, and the mean class accuracy of each group.

    Classes without test images belong to no mean.

    Args:
        predictions: (Q,) class numbers.
        labels: (Q,) class numbers.
        train_counts: (K,) training images of every class.
    """
    truth = np.asarray(labels, dtype=np.int64)
    correct = np.asarray(predictions) == truth
    groups = shot_groups(train_counts)
    tested = np.bincount(truth, minlength=len(groups.many))  # (K,)
    hits = np.bincount(truth, weights=correct, minlength=len(groups.many))
    accuracies = hits / np.maximum(tested, 1)
    means = [_mean(accuracies[group & (tested > 0)]) for group in groups]
    return GroupedAccuracy(_mean(correct), *means)


def _mean(values: NDArray[np.float64] | Bools) -> float:
    return float(values.mean()) if len(values) else 0.0

"""Which differences are real: paired intervals, and intervals over classes.

Two models scored on the same episodes are compared episode by episode: most of the spread of
accuracies comes from the episodes and cancels. The usual interval asks what other episodes of the
same few classes would give; `class_interval` asks what other classes would give, which is what
"novel classes" promises and is ten to fifty times wider with 20 classes. `fsl.comparisons` does it
for a table of several methods.

Letters: E episodes, W ways, C classes that occur, R resamples.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from fsl.errors import ConfigError
from fsl.metrics import mean_ci95
from fsl.student import student_t

__all__ = [
    "ClassCI",
    "PairedDifference",
    "class_accuracies",
    "class_bootstrap",
    "class_interval",
    "paired_difference",
    "student_t",
]
EVERYWHERE = "a class is in every episode"
RESAMPLES_AT_ONCE = 50


class ClassCI(NamedTuple):
    """A mean in [0, 1] with the half-width of its 95 % interval over `classes` classes.

    The half-width is NaN when it cannot be told: some class is in every episode. `at_most` says
    that all are, and that it was then bounded from the classes' own accuracies.
    """

    mean: float
    half_width: float
    classes: int
    at_most: bool = False

    def __str__(self) -> str:
        if math.isnan(self.half_width):
            return f"{100 * self.mean:.2f} % (no interval: {EVERYWHERE})"
        most = "at most " if self.at_most else ""
        width = f"{most}{100 * self.half_width:.2f}"
        return f"{100 * self.mean:.2f} ± {width} % ({self.classes} classes)"


class PairedDifference(NamedTuple):
    """Mean of B - A over the same episodes, with the half-width of its 95 % interval.

    The interval is Student's, which is wider than the usual one with few episodes.
    """

    mean: float
    half_width: float
    tasks: int

    @property
    def real(self) -> bool:
        """Whether the interval excludes zero."""
        return abs(self.mean) > self.half_width

    def words(self, a: str, b: str, unit: str = "episodes", real: bool | None = None) -> str:
        """One sentence: which is better by how much, or that nobody can tell.

        Args:
            a: name of the first.
            b: name of the second.
            unit: what was paired.
            real: whether it is called real; None: if the interval excludes zero.
        """
        size = f"{100 * abs(self.mean):.2f} ± {100 * self.half_width:.2f} points"
        pairs = f"(paired over {self.tasks} {unit})"
        if not (self.real if real is None else real):
            sign = "−" if self.mean < 0 else ""
            return f"no real difference between {a} and {b}: {sign}{size} {pairs}"
        better, worse = (b, a) if self.mean > 0 else (a, b)
        return f"{better} is better than {worse} by {size} {pairs}"


def paired_difference(a: Tensor, b: Tensor) -> PairedDifference:
    """Compare per-episode accuracies (E,) of two models on the same episodes."""
    if a.shape != b.shape:
        raise ConfigError(
            f"a paired comparison needs the same episodes: got {a.numel()} and {b.numel()}"
        )
    mean, half_width, tasks = mean_ci95(b.double() - a.double())
    return PairedDifference(mean, half_width / 1.96 * student_t(tasks - 1), tasks)


def class_interval(values: Tensor, classes: Tensor, way_values: Tensor | None = None) -> ClassCI:
    """Mean with a 95 % interval over the choice of classes and of episodes.

    A jackknife over classes. An episode's accuracy depends on all its classes (each is also a wrong
    answer for the others), so class c counts by how the mean changes when episodes with c are
    left out. What the finite number of episodes adds to the spread of those changes is
    subtracted, and the interval over episodes added once: never narrower than `mean_ci95`.

    Args:
        values: (E,) accuracy, or difference of accuracies, of each episode.
        classes: (E, W) class numbers of each episode; a class occurs once in an episode.
        way_values: (E, W) the same for the queries of each way. When no episode leaves a class
            out, the interval is taken from the spread of the classes' own values, doubled: a class
            also counts as a wrong answer for the others, under symmetric confusions as much again.
            That is too wide if hard classes confuse nobody, too narrow if a few attract all.
    """
    values = values.double()
    episodes, ways = classes.shape
    _, which = torch.unique(classes, return_inverse=True)  # (E, W) numbers 0..C-1
    count = int(which.max()) + 1
    overall = mean_ci95(values)
    if count <= ways and way_values is not None and count > 1:
        spread = float(class_accuracies(way_values, which, count).std())
        half_width = 2 * student_t(count - 1) * spread / math.sqrt(count)
        return ClassCI(overall.mean, max(half_width, overall.half_width), count, at_most=True)
    inside, whole = _part(values, which, count), _whole(values)
    outside = Part(*(total - part for total, part in zip(whole, inside, strict=True)))
    if not bool(outside.size.all()):
        return ClassCI(overall.mean, math.nan, count)
    influence = (count - 1) * (overall.mean - outside.mean)  # (C,) jackknife pseudo-deviations
    # The influence is also share * (mean inside - mean outside); the two are over different
    # episodes, so the variances of their means add.
    share = (count - 1) * inside.size / episodes
    errors = inside.error(whole.variance) + outside.error(whole.variance)
    noise = (share.square() * errors).mean() / count
    between = max(0.0, float(influence.var(unbiased=True) / count - noise))
    error = math.sqrt(between + (overall.half_width / 1.96) ** 2)
    return ClassCI(overall.mean, student_t(count - 1) * error, count)


class Part(NamedTuple):
    """Count, sum and sum of squares of the values of some episodes, for each class (C,)."""

    size: Tensor
    total: Tensor
    squares: Tensor

    @property
    def mean(self) -> Tensor:
        """Mean of the values."""
        return self.total / self.size

    @property
    def variance(self) -> Tensor:
        """Variance of the values; NaN of a single one."""
        return (self.squares / self.size - self.mean.square()) * self.size / (self.size - 1)

    def error(self, general: Tensor) -> Tensor:
        """Variance of the mean; `general` is that of the values where there is a single one."""
        return torch.where(self.size < 2, general, self.variance) / self.size


def _part(values: Tensor, which: Tensor, count: int) -> Part:
    """The episodes with each class; `which` (E, W) numbers the classes from 0."""
    zeros = torch.zeros(count, dtype=torch.float64, device=values.device)
    repeated = values.repeat_interleave(which.shape[1])
    columns = torch.ones_like(repeated), repeated, repeated.square()
    return Part(*(zeros.scatter_add(0, which.flatten(), column) for column in columns))


def _whole(values: Tensor) -> Part:
    return Part(torch.tensor(float(values.numel())), values.sum(), values.square().sum())


def class_bootstrap(
    values: Tensor, classes: Tensor, resamples: int, generator: torch.Generator
) -> ClassCI:
    """The interval of `class_interval` by a two-level bootstrap: classes, then episodes.

    An episode counts as often as the product of how often its classes were drawn, times how often
    it was drawn itself. It is here to check the other: slow, and too wide with many ways, because
    most products are zero and few episodes are left to average over.

    Args:
        values: (E,).
        classes: (E, W).
        resamples: R.
        generator: of the draws.
    """
    values = values.double()
    _, which = torch.unique(classes, return_inverse=True)
    count, episodes = int(which.max()) + 1, len(values)
    means = []
    for start in range(0, resamples, RESAMPLES_AT_ONCE):
        size = min(RESAMPLES_AT_ONCE, resamples - start)
        times = _drawn(size, count, generator)[:, which].prod(-1)  # (R, E)
        times *= _drawn(size, episodes, generator)
        means.append((times @ values) / times.sum(-1))
    drawn = torch.cat(means)  # (R,) NaN where no episode is left
    spread = float(drawn[~drawn.isnan()].std())
    return ClassCI(float(values.mean()), student_t(count - 1) * spread, count)


def _drawn(rows: int, count: int, generator: torch.Generator) -> Tensor:
    """How often each of `count` things occurs among as many draws, (rows, count)."""
    picks = torch.randint(count, (rows, count), generator=generator)
    zeros = torch.zeros(rows, count, dtype=torch.float64)
    return zeros.scatter_add(1, picks, torch.ones(rows, count, dtype=torch.float64))


def class_accuracies(way_accuracies: Tensor, classes: Tensor, count: int) -> Tensor:
    """Mean accuracy on the queries of each class, (E, W) twice -> (count,); NaN if never asked."""
    sums = torch.zeros(count, dtype=torch.float64).scatter_add(
        0, classes.flatten().long(), way_accuracies.flatten().double()
    )
    asked = torch.bincount(classes.flatten().long(), minlength=count)
    return sums / asked

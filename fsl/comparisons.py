"""Every pair of several methods on the same episodes, corrected for how many pairs there are.

With m pairs a difference that is none looks real in one of 20/m tables. Holm's step-down
adjustment (1979) keeps the chance of any such error in the whole table at 5 %.

Letters: E episodes, W ways, m pairs.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from fsl.errors import ConfigError
from fsl.metrics import mean_ci95
from fsl.statistics import EVERYWHERE, class_interval
from fsl.student import student_p, student_t

LEVEL = 0.05


class Comparison(NamedTuple):
    """Two methods on the same episodes; `mean` is that of b less that of a.

    Attributes:
        a: name of the first method.
        b: name of the second.
        mean: mean difference.
        half_width: of the 95 % interval of this difference alone.
        joint_half_width: of intervals that hold for all pairs of the table at once (Bonferroni).
        p: two-sided p value of Student's t, for this pair alone.
        adjusted: p value after Holm's adjustment.
        over: what the interval is over: "2000 episodes" or "20 classes".
    """

    a: str
    b: str
    mean: float
    half_width: float
    joint_half_width: float
    p: float
    adjusted: float
    over: str

    @property
    def real(self) -> bool:
        """Whether the table, as a whole wrong once in 20 times, calls this difference real."""
        return self.adjusted < LEVEL

    def words(self) -> str:
        """One sentence: which is better by how much, or that nobody can tell."""
        size = f"{100 * abs(self.mean):.2f} ± {100 * self.half_width:.2f} points"
        proof = f"over {self.over}, adjusted p {_p_text(self.adjusted)}"
        if math.isnan(self.adjusted):
            return f"{self.a} and {self.b}: {EVERYWHERE}, so nothing can be told"
        if not self.real:
            sign = "−" if self.mean < 0 else ""
            return f"no real difference between {self.a} and {self.b}: {sign}{size} ({proof})"
        better, worse = (self.b, self.a) if self.mean > 0 else (self.a, self.b)
        return f"{better} is better than {worse} by {size} ({proof})"


class Estimate(NamedTuple):
    """A difference before the number of pairs is considered.

    Attributes:
        mean: of the difference.
        half_width: of its 95 % interval, Student's t; NaN where it cannot be told.
        freedom: degrees of freedom of the interval.
        over: what the interval is over: "2000 episodes" or "20 classes".
        at_most: whether it is a bound, see `fsl.statistics.class_interval`.
    """

    mean: float
    half_width: float
    freedom: int
    over: str
    at_most: bool = False

    @property
    def error(self) -> float:
        """Standard error of the mean."""
        return self.half_width / student_t(self.freedom)

    @property
    def p(self) -> float:
        """Two-sided p value."""
        if math.isnan(self.half_width):
            return math.nan
        if self.half_width == 0:
            return 1.0 if self.mean == 0 else 0.0
        return student_p(self.mean / self.error, self.freedom)


def pairwise(
    table: Mapping[str, Tensor],
    classes: Tensor | None = None,
    way_table: Mapping[str, Tensor] | None = None,
) -> list[Comparison]:
    """Compare every method with every later one.

    Args:
        table: name -> (E,) accuracy of each episode, the same episodes for all.
        classes: (E, W) classes of the episodes; with them the question is whether a difference
            would hold on other classes, without them whether on other episodes of these classes.
        way_table: name -> (E, W) accuracy of each way, as `class_interval` uses it.

    Returns:
        m comparisons in the order of the table: (1, 2), (1, 3), ..., (2, 3), ...
    """
    if len(table) < 2:
        raise ConfigError(f"a comparison needs at least two methods, got {', '.join(table)!r}")
    sizes = {name: len(values) for name, values in table.items()}
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise ConfigError(f"a paired comparison needs the same episodes; they have: {listed}")
    pairs = list(itertools.combinations(table, 2))
    less = [table[b].double() - table[a].double() for a, b in pairs]
    if classes is None:
        estimates = [over_episodes(difference) for difference in less]
    else:
        ways = [None if way_table is None else way_table[b] - way_table[a] for a, b in pairs]
        estimates = [over_classes(*one, classes) for one in zip(less, ways, strict=True)]
    adjusted = holm([estimate.p for estimate in estimates])
    return [
        Comparison(
            a,
            b,
            estimate.mean,
            estimate.half_width,
            estimate.error * student_t(estimate.freedom, 1 - LEVEL / len(pairs)),
            estimate.p,
            p,
            estimate.over,
        )
        for (a, b), estimate, p in zip(pairs, estimates, adjusted, strict=True)
    ]


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p values, in the given order; NaN stays NaN and counts as a comparison."""
    order = sorted(
        range(len(p_values)), key=lambda i: math.inf if math.isnan(p_values[i]) else p_values[i]
    )
    adjusted, largest = list(p_values), 0.0
    for rank, index in enumerate(order):
        if not math.isnan(p_values[index]):
            largest = max(largest, min(1.0, (len(order) - rank) * p_values[index]))
            adjusted[index] = largest
    return adjusted


def judged(estimates: Sequence[Estimate]) -> list[bool]:
    """Return which differences are real when all are judged together (Holm)."""
    return [p < LEVEL for p in holm([estimate.p for estimate in estimates])]


def over_episodes(difference: Tensor) -> Estimate:
    """Estimate a difference (E,) over other episodes of the same classes."""
    mean, half_width, tasks = mean_ci95(difference)
    exact = half_width / 1.96 * student_t(tasks - 1)
    return Estimate(mean, exact, tasks - 1, f"{tasks} episodes")


def over_classes(difference: Tensor, ways: Tensor | None, classes: Tensor) -> Estimate:
    """Estimate a difference over other classes.

    Args:
        difference: (E,).
        ways: (E, W) the difference on the queries of each way, as `class_interval` uses it.
        classes: (E, W) classes of the episodes.
    """
    found = class_interval(difference, classes, ways)
    freedom = max(1, found.classes - 1)
    over = f"{found.classes} classes"
    return Estimate(found.mean, found.half_width, freedom, over, found.at_most)


def _p_text(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"

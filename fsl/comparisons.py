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
from fsl.statistics import class_interval
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
            return f"{self.a} and {self.b}: each episode has all classes, nothing can be told"
        if not self.real:
            sign = "−" if self.mean < 0 else ""
            return f"no real difference between {self.a} and {self.b}: {sign}{size} ({proof})"
        better, worse = (self.b, self.a) if self.mean > 0 else (self.a, self.b)
        return f"{better} is better than {worse} by {size} ({proof})"


class _Estimate(NamedTuple):
    """A difference before the number of pairs is considered."""

    mean: float
    half_width: float
    freedom: int
    over: str

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
    estimates = [_estimate(a, b, table, classes, way_table) for a, b in pairs]
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


def _estimate(
    a: str,
    b: str,
    table: Mapping[str, Tensor],
    classes: Tensor | None,
    way_table: Mapping[str, Tensor] | None,
) -> _Estimate:
    difference = table[b].double() - table[a].double()
    if classes is None:
        mean, half_width, tasks = mean_ci95(difference)
        exact = half_width / 1.96 * student_t(tasks - 1)
        return _Estimate(mean, exact, tasks - 1, f"{tasks} episodes")
    ways = None if way_table is None else way_table[b].double() - way_table[a].double()
    found = class_interval(difference, classes, ways)
    freedom = max(1, found.classes - 1)
    return _Estimate(found.mean, found.half_width, freedom, f"{found.classes} classes")


def _p_text(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"

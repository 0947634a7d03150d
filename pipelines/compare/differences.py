"""The differences between methods on the same episodes, each judged for how many there are.

Letters: E episodes, W ways, M methods.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from statistics import variance

from torch import Tensor

from fsl.comparisons import LEVEL, Comparison, pairwise
from fsl.student import student_t


@dataclass(frozen=True)
class Difference:
    """Accuracy of one method minus that of another on the same episodes.

    Half-widths are of 95 % intervals of this difference alone; NaN where they cannot be told.
    p-values are adjusted (Holm) for the number of pairs in the table.

    Attributes:
        mean: the difference.
        half_width: over other episodes of the same classes.
        p: chance of such a difference between equal methods, over episodes.
        class_half_width: over other classes.
        class_p: the same over classes.
        run_half_width: over other training runs; NaN unless each has several.
    """

    mean: float
    half_width: float
    p: float
    class_half_width: float
    class_p: float
    run_half_width: float

    @property
    def real(self) -> bool:
        """Whether other episodes of these classes would show it too."""
        return self.p < LEVEL

    @property
    def real_across_classes(self) -> bool | None:
        """Whether other classes would show it too; None when that cannot be told."""
        return None if math.isnan(self.class_p) else self.real and self.class_p < LEVEL

    @property
    def real_across_runs(self) -> bool | None:
        """Whether other seeds would show it too; None when one of the two has one run."""
        return None if math.isnan(self.run_half_width) else abs(self.mean) > self.run_half_width

    def __neg__(self) -> Difference:
        return replace(self, mean=-self.mean)


def all_differences(
    values: Sequence[Tensor],
    ways: Sequence[Tensor],
    run_means: Sequence[Sequence[float]],
    classes: Tensor | None,
) -> Mapping[tuple[int, int], Difference]:
    """Compare each method with each other one; (i, j) -> i minus j, both ways round.

    Args:
        values: M times (E,), accuracy of each episode.
        ways: M times (E, W), accuracy on the queries of each class.
        run_means: M times the accuracies of the training runs.
        classes: (E, W) class numbers; None where no other classes are meant.
    """
    numbers = range(len(values))
    table = {str(i): values[i] for i in numbers}
    over_episodes = pairwise(table)
    over_classes: Sequence[Comparison | None] = [None] * len(over_episodes)
    if classes is not None:
        over_classes = pairwise(table, classes, {str(i): ways[i] for i in numbers})
    found: dict[tuple[int, int], Difference] = {}
    pairs = combinations(numbers, 2)
    for (i, j), one, other in zip(pairs, over_episodes, over_classes, strict=True):
        found[i, j] = Difference(
            mean=-one.mean,  # theirs is the second less the first
            half_width=one.half_width,
            p=one.adjusted,
            class_half_width=other.half_width if other else math.nan,
            class_p=other.adjusted if other else math.nan,
            run_half_width=run_half_width(run_means[i], run_means[j]),
        )
        found[j, i] = -found[i, j]
    return found


def run_half_width(a: Sequence[float], b: Sequence[float]) -> float:
    """Return the 95 % half-width over training runs of the difference of two means.

    Student's with the pooled variance; NaN unless both have several runs.
    """
    if len(a) < 2 or len(b) < 2:
        return math.nan
    freedom = len(a) + len(b) - 2
    pooled = ((len(a) - 1) * variance(a) + (len(b) - 1) * variance(b)) / freedom
    return student_t(freedom) * math.sqrt(pooled * (1 / len(a) + 1 / len(b)))

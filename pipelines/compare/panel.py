"""One table: methods that answered the same sealed bank, and every difference between two of them.

Letters: E episodes, W ways, M methods.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean, stdev

import torch
from torch import Tensor

from fsl.errors import StageError
from fsl.metrics import MeanCI, mean_ci95
from fsl.statistics import ClassCI, class_interval
from pipelines.compare.answers import Answers
from pipelines.compare.asked import Asked
from pipelines.compare.differences import Difference, all_differences


@dataclass(frozen=True)
class Row:
    """A method on one bank.

    Attributes:
        name: short and unique among all that are compared.
        answers: those of each training run (seed).
    """

    name: str
    answers: Sequence[Answers]

    @cached_property
    def values(self) -> Tensor:
        """Accuracy of each episode, the mean over the training runs, (E,) float64."""
        return self._over_runs(lambda item: item.accuracies)

    @cached_property
    def ways(self) -> Tensor:
        """Accuracy on the queries of each way, the mean over the training runs, (E, W) float64."""
        return self._over_runs(lambda item: item.way_accuracies)

    @cached_property
    def mean(self) -> MeanCI:
        """Accuracy with the interval over episodes."""
        return mean_ci95(self.values)

    @cached_property
    def across(self) -> ClassCI:
        """Accuracy with the interval over classes; it is NaN where no other classes are meant."""
        classes = self.answers[0].classes
        if not self.answers[0].bank.new_classes:
            return ClassCI(self.mean.mean, math.nan, len(torch.unique(classes)))
        return class_interval(self.values, classes, self.ways)

    @cached_property
    def by_run(self) -> list[list[Answers]]:
        """The answers of each training run; several with one seed are one run."""
        found: dict[object, list[Answers]] = {}
        for item in self.answers:
            found.setdefault(item.weights if item.seed is None else item.seed, []).append(item)
        return list(found.values())

    def _over_runs(self, what: Callable[[Answers], Tensor]) -> Tensor:
        """Return the mean over training runs, each the mean over its answers."""
        runs = [torch.stack([what(item) for item in run]).mean(0) for run in self.by_run]
        return torch.stack(runs).mean(0)

    @cached_property
    def run_means(self) -> list[float]:
        """Accuracy of each training run; of several with one seed, their mean."""
        return [fmean(float(item.accuracies.mean()) for item in run) for run in self.by_run]

    @property
    def runs(self) -> int:
        """Number of training runs, those with one seed counted once."""
        return len(self.run_means)

    @property
    def shares_training(self) -> bool:
        """Whether its runs start from one and the same earlier training."""
        return self.runs > 1 and bool(frozenset.intersection(*(a.before for a in self.answers)))

    @property
    def trained(self) -> bool:
        """Whether it was trained: a baseline is the same at every seed."""
        return self.answers[0].trained

    @property
    def run_sd(self) -> float:
        """Standard deviation of the accuracy over training runs; NaN for one."""
        return stdev(self.run_means) if self.runs > 1 else math.nan

    @property
    def cpu_minutes(self) -> float | None:
        """Mean training time over the runs, None when one did not record it."""
        spent = [[item.cpu_minutes for item in run] for run in self.by_run]
        known = [[value for value in run if value is not None] for run in spent]
        return fmean(map(fmean, known)) if known == spent else None


@dataclass(frozen=True)
class Panel:
    """Methods on one bank, the most accurate first.

    Attributes:
        title: ways and shots, and what else tells its bank from those of other tables.
        bank: the episodes, or images.
        rows: one per method.
        differences: (i, j) -> row i minus row j, both ways round.
        reference: number of the row that the others are held against.
        chosen: whether that row was named as the baseline; else it is the best.
    """

    title: str
    bank: Asked
    rows: Sequence[Row]
    differences: Mapping[tuple[int, int], Difference]
    reference: int
    chosen: bool

    @property
    def comparisons(self) -> int:
        """Number of pairs."""
        return len(self.rows) * (len(self.rows) - 1) // 2

    @property
    def classes(self) -> int:
        """Number of classes that occur."""
        return self.rows[0].across.classes

    @property
    def bounded(self) -> bool:
        """Whether intervals over classes are bounds: every episode has all classes."""
        return self.rows[0].across.at_most

    def against_reference(self, number: int) -> Difference | None:
        """Return row `number` minus the reference, None for the reference itself."""
        return self.differences.get((number, self.reference))

    @property
    def leaders(self) -> list[int]:
        """The best row and those that cannot be told from it over episodes."""
        others = range(1, len(self.rows))
        return [0, *(i for i in others if not self.differences[0, i].real)]


def panel(title: str, bank: Asked, rows: Sequence[Row], baseline: str | None) -> Panel:
    """Return the table of at least two methods.

    Raises:
        StageError: two methods were not asked the same classes: a table was changed.
    """
    first = rows[0].answers[0]
    for item in (item for row in rows for item in row.answers):
        if not torch.equal(item.classes, first.classes):
            raise StageError(
                f"{item.place} and {first.place}: both name {bank.source}, but their "
                "tables have other classes: one was changed; delete it and run the recipe "
                "again"
            )
    ranked = sorted(rows, key=lambda row: -row.mean.mean)
    names = [row.name for row in ranked]
    reference = names.index(baseline) if baseline in names else 0
    differences = all_differences(
        [row.values for row in ranked],
        [row.ways for row in ranked],
        [row.run_means for row in ranked],
        first.classes if bank.new_classes else None,
    )
    return Panel(title, bank, ranked, differences, reference, baseline in names)

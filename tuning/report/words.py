"""How the number of a goal is written, and other small words."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tuning.config import GoalConfig


@dataclass(frozen=True)
class Measure:
    """How the number of a goal is shown.

    Attributes:
        metric: its name in the study.
        title: for axes, with the unit.
        short: for narrow columns, with the unit.
        factor: from the number as stored to the unit of `title`.
        unit: after a number.
        digits: after the point; None: three significant ones.
        least: length of a scale, in the unit, on which differences are still worth seeing.
        maximize: whether more is better.
    """

    metric: str
    title: str
    short: str
    factor: float
    unit: str
    digits: int | None
    least: float
    maximize: bool

    def number(self, value: float) -> str:
        """Return the number in the unit, without it."""
        scaled = value * self.factor
        if self.digits is None:
            return f"{scaled:.3g}" if abs(scaled) < 1000 else f"{scaled:.0f}"
        return f"{scaled:.{self.digits}f}"

    def text(self, value: float) -> str:
        """Return the number with its unit."""
        return f"{self.number(value)} {self.unit}"

    def better(self, one: float, other: float) -> bool:
        """Return whether one value is better than another."""
        return one > other if self.maximize else one < other


SHOWN = {
    "val_accuracy": ("validation accuracy in %", "accuracy in %", 100.0, "%", 1, 2.0),
    "images_per_second": ("images per second", "images/s", 1.0, "images/s", None, 0.0),
    "cpu_minutes": ("CPU minutes", "CPU min", 1.0, "CPU min", None, 0.0),
    "step_seconds": ("time of a step in ms", "ms per step", 1000.0, "ms", None, 0.0),
}


def measure(goal: GoalConfig) -> Measure:
    """Return how the number of a goal is shown."""
    return Measure(goal.metric, *SHOWN[goal.metric], maximize=goal.direction == "maximize")


def counted(count: int, noun: str) -> str:
    """Return "1 trial", "3 trials"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def listed(words: Iterable[str]) -> str:
    """Return "a", "a and b", "a, b and c"."""
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last

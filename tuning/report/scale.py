"""From the values of one searched setting to places on an axis, and back to labels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from matplotlib.ticker import LogLocator, MaxNLocator
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from tuning.words import setting_words

NEAR = 0.09
"""Ticks that are closer than this share of the axis hide each other's labels."""
FEW = 8
"""Whole numbers up to this many are shown as choices."""


@dataclass(frozen=True)
class Scale:
    """The axis of one setting; places run from 0 to 1.

    Attributes:
        key: its dotted name.
        domain: its range.
        choices: the values, if they are few: in the order of the range, numbers sorted.
    """

    key: str
    domain: BaseDistribution
    choices: tuple[Any, ...] = ()

    @property
    def is_choice(self) -> bool:
        """Whether there are only a few values."""
        return bool(self.choices)

    def place(self, value: Any) -> float:
        """Return where a value is."""
        if self.choices:
            return (self.choices.index(value) + 0.5) / len(self.choices)
        low, high, log = self._ends()
        if low == high:
            return 0.5
        if log:
            return math.log(value / low) / math.log(high / low)
        return (float(value) - low) / (high - low)

    def ticks(self) -> list[tuple[float, str]]:
        """Return places and labels."""
        if self.choices:
            return [(self.place(choice), setting_words(choice)) for choice in self.choices]
        kept: list[tuple[float, str]] = []
        for value in self._round(*self._ends()):
            place = self.place(value)
            if not kept or place - kept[-1][0] >= NEAR:
                kept.append((place, setting_words(value)))
        return kept

    def _round(self, low: float, high: float, log: bool) -> list[Any]:
        """Return round values within the range."""
        whole = isinstance(self.domain, IntDistribution)
        if log:
            subs = (1.0, 2.0, 5.0) if high / low < 30 else (1.0, 3.0)
            found = LogLocator(subs=subs if high / low < 300 else (1.0,)).tick_values(low, high)
        else:
            found = MaxNLocator(5, integer=whole).tick_values(low, high)
        slack = 1e-9 * (high - low)
        inside = [float(value) for value in found if low - slack <= value <= high + slack]
        if whole:
            return list(dict.fromkeys(round(value) for value in inside))
        return [float(f"{value:.12g}") for value in inside]

    def _ends(self) -> tuple[float, float, bool]:
        assert isinstance(self.domain, (FloatDistribution, IntDistribution))
        return float(self.domain.low), float(self.domain.high), self.domain.log


def scale_of(key: str, domain: BaseDistribution) -> Scale:
    """Return the axis of a setting."""
    if isinstance(domain, IntDistribution) and not domain.log:
        values = tuple(range(domain.low, domain.high + 1, domain.step))
        return Scale(key, domain, values if len(values) <= FEW else ())
    if not isinstance(domain, CategoricalDistribution):
        return Scale(key, domain)
    choices = list(domain.choices)
    if all(isinstance(choice, (int, float)) for choice in choices):
        choices.sort(key=float)  # type: ignore[arg-type]
    return Scale(key, domain, tuple(choices))

"""Schedules as pure functions of the step or epoch, in float64."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class CosineSchedule:
    """Linear warm-up from 0 to `base`, then half a cosine towards `final`.

    The warm-up includes both ends: step 0 is 0, its last step already `base`, so the peak appears
    twice. `final` itself is reached only after the last step.
    """

    base: float
    final: float
    total_steps: int
    warmup_steps: int = 0

    def __call__(self, step: int) -> float:
        """Return the value of global step `step`, from 0; past the end `final`."""
        warmup = min(self.warmup_steps, self.total_steps)
        if step < warmup:
            return self.base * (step / (warmup - 1)) if warmup > 1 else 0.0
        length = self.total_steps - warmup
        if step >= self.total_steps:
            return self.final
        cosine = math.cos(math.pi * (step - warmup) / length)
        return self.final + 0.5 * (self.base - self.final) * (1 + cosine)


@dataclass(frozen=True)
class TeacherTemperature:
    """Linear warm-up by epoch from `start` to `final`, both ends included, then `final`.

    A warm-up longer than the run is shortened to it, so it still ends at `final`.
    """

    start: float
    final: float
    warmup_epochs: int
    delay: int = 0
    """Epochs of `start` before the warm-up (masked patches that begin late)."""

    def __call__(self, epoch: int, epochs: int) -> float:
        """Return the temperature of `epoch`, from 0, in a run of `epochs`."""
        warmup = max(0, min(self.warmup_epochs, epochs - self.delay))
        done = epoch - self.delay
        if done < 0:
            return self.start
        if done >= warmup or (warmup > 1 and done == warmup - 1):
            return self.final
        return self.start + done * ((self.final - self.start) / max(1, warmup - 1))


@dataclass(frozen=True)
class StaircaseSchedule:
    """`base` times `factor` after every `every` steps."""

    base: float
    factor: float
    every: int

    def __call__(self, step: int) -> float:
        """Return the value of global step `step`, from 0."""
        return self.base * self.factor ** (step // self.every)

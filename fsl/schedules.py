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


def teacher_temperature(
    epoch: int, epochs: int, start: float, final: float, warmup_epochs: int, delay: int = 0
) -> float:
    """Return the teacher temperature of an epoch, from 0.

    Args:
        epoch: current epoch.
        epochs: length of the run; a longer warm-up is shortened to it and still ends at `final`.
        start: temperature of the first epoch.
        final: temperature after the warm-up.
        warmup_epochs: epochs of the linear warm-up, both ends included.
        delay: epochs of `start` before it (masked patches that begin late).
    """
    warmup = max(0, min(warmup_epochs, epochs - delay))
    if epoch < delay:
        return start
    if epoch - delay >= warmup:
        return final
    if epoch - delay == warmup - 1 and warmup > 1:
        return final
    return start + (epoch - delay) * ((final - start) / max(1, warmup - 1))

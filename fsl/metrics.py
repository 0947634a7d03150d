"""Accuracies, and a mean with its 95 % interval that always prints the same way."""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor

from fsl.errors import ConfigError


class MeanCI(NamedTuple):
    """A mean in [0, 1] with the half-width of its 95 % interval over `tasks` tasks."""

    mean: float
    half_width: float
    tasks: int

    def __str__(self) -> str:
        return f"{100 * self.mean:.2f} ± {100 * self.half_width:.2f} % ({self.tasks} tasks)"


def mean_ci95(values: Tensor) -> MeanCI:
    """Return mean and 1.96 s / sqrt(n), s with n - 1, of per-task values (n,)."""
    count = values.numel()
    if count < 2:
        raise ConfigError(f"an interval needs at least 2 tasks, got {count}; raise `tasks`")
    values = values.double()
    return MeanCI(
        float(values.mean()), 1.96 * float(values.std(unbiased=True)) / math.sqrt(count), count
    )


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Fraction of rows whose largest logit is the label, (..., W) and (...) -> ()."""
    return (logits.argmax(-1) == labels).float().mean()

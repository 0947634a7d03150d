"""Metrics between two log lines: kept on the device, averaged over steps and ranks at once.

Reading a number from a GPU waits for it; here that happens once per log line. The finiteness of
every step's loss is found out then too, and always before a checkpoint is written.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

import torch
from torch import Tensor

from fsl.distributed import all_reduce_mean
from fsl.errors import StageError


class MetricWindow:
    """Collects what the steps since the last log line returned.

    Args:
        batch_size: images per step over all ranks, for the speed.
    """

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self.cpu = time.process_time()
        self.restart()

    def restart(self) -> None:
        """Begin an empty window now."""
        self.steps: list[int] = []
        self.values: dict[str, list[Tensor]] = {}
        self.waited = 0.0
        self.begun = time.perf_counter()

    def add(self, step: int, metrics: Mapping[str, Tensor], waited: float) -> None:
        """Add a step's weighted metrics, and the seconds it waited for data."""
        self.steps.append(step)
        self.waited += waited
        for name, value in metrics.items():
            self.values.setdefault(name, []).append(value)

    def close(self) -> dict[str, float]:
        """Return the averages over the window and all ranks, and begin a new one.

        All ranks must call it together, with the same names of metrics.

        Raises:
            StageError: the loss of a step was not finite; on all ranks alike.
        """
        names = sorted(self.values)
        means = [torch.stack(self.values[name]).mean() for name in names]
        packed = torch.cat([torch.stack(self.values["loss"]), torch.stack(means)])
        numbers: list[float] = all_reduce_mean(packed).tolist()
        losses, averages = numbers[: len(self.steps)], numbers[len(self.steps) :]
        averaged = dict(zip(names, averages, strict=True))
        for step, loss in zip(self.steps, losses, strict=True):
            if not math.isfinite(loss):
                raise StageError(_not_finite(step, loss, averaged))
        seconds = max(time.perf_counter() - self.begun, 1e-9)
        averaged["images_per_second"] = len(self.steps) * self.batch_size / seconds
        averaged["waiting"] = self.waited / seconds
        before, self.cpu = self.cpu, time.process_time()  # with what was done since the last close
        averaged["cpu_seconds"] = self.cpu - before
        self.restart()
        return averaged


def _not_finite(step: int, loss: float, metrics: Mapping[str, float]) -> str:
    others = ", ".join(f"{key} {value:.4g}" for key, value in metrics.items() if key != "loss")
    return (
        f"the loss of step {step} is {loss}; averages around it: {others or 'none'}. Lower "
        "optim.lr, lengthen optim.warmup_epochs, or use precision bf16 or fp32"
    )

"""Metrics between two log lines: kept on the device, averaged over steps and ranks at once.

Reading a number from a GPU waits for it; here that happens once per log line. Whether loss and
gradients of every step were finite is found out then too, and always before a checkpoint is
written.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

import torch
from torch import Tensor

from fsl.distributed import all_reduce_mean
from fsl.errors import NonFiniteError


class MetricWindow:
    """Collects what the steps since the last log line returned.

    Args:
        tolerated: steps in a row whose loss or gradients may be other than finite; they were left
            out.
        scaled: whether a gradient scaler leaves out steps whose gradients overflow.
    """

    def __init__(self, tolerated: int = 0, scaled: bool = False) -> None:
        self.tolerated, self.scaled, self.bad = tolerated, scaled, 0
        self.cpu = time.process_time()
        self.restart()

    def restart(self) -> None:
        """Begin an empty window now."""
        self.steps: list[int] = []
        self.values: dict[str, list[Tensor]] = {}
        self.waited = 0.0
        self.images = 0.0
        self.begun = time.perf_counter()

    def add(
        self, step: int, metrics: Mapping[str, Tensor], *, waited: float, images: float
    ) -> None:
        """Add a step's weighted metrics, its seconds of waiting, its images over all ranks."""
        self.steps.append(step)
        self.waited += waited
        self.images += images
        for name, value in metrics.items():
            self.values.setdefault(name, []).append(value)

    def close(self) -> dict[str, float]:
        """Return the averages over the window and all ranks, and begin a new one.

        All ranks must call it together, with the same names of metrics.

        Raises:
            NonFiniteError: too many steps in a row have a loss or gradients that are not finite;
                on all ranks.
        """
        names = sorted(self.values)
        stacks = {name: torch.stack(self.values[name]) for name in names}
        bad = self._bad(stacks)
        kept = ~bad | (not self.tolerated)  # else a bad step would spoil the averages
        means = [
            (values if name == "skipped" else values[kept]).mean()
            for name, values in stacks.items()
        ]
        packed = torch.cat([bad.float(), stacks["loss"], torch.stack(means)])
        numbers: list[float] = all_reduce_mean(packed).tolist()
        count = len(self.steps)
        averaged = dict(zip(names, numbers[2 * count :], strict=True))
        for step, faults, loss in zip(self.steps, numbers, numbers[count:], strict=False):
            self.bad = self.bad + 1 if faults else 0
            if self.bad > self.tolerated:
                raise NonFiniteError(_not_finite(step, loss, averaged))
        averaged = {name: value for name, value in averaged.items() if math.isfinite(value)}
        seconds = max(time.perf_counter() - self.begun, 1e-9)
        averaged["images_per_second"] = self.images / seconds
        averaged["step_seconds"] = seconds / len(self.steps)
        averaged["waiting"] = self.waited / seconds
        before, self.cpu = self.cpu, time.process_time()  # with what was done since the last close
        averaged["cpu_seconds"] = self.cpu - before
        self.restart()
        return averaged

    def _bad(self, stacks: Mapping[str, Tensor]) -> Tensor:
        """Return which steps (n,) were left out, or had a loss or gradients not to learn from."""
        bad = ~torch.isfinite(stacks["loss"])
        if "skipped" in stacks:
            return bad | (stacks["skipped"] > 0)
        if "gradient_norm" in stacks and not self.scaled:
            return bad | ~torch.isfinite(stacks["gradient_norm"])
        return bad


def _not_finite(step: int, loss: float, metrics: Mapping[str, float]) -> str:
    others = ", ".join(f"{key} {value:.4g}" for key, value in metrics.items() if key != "loss")
    if math.isfinite(loss):
        what = f"the gradients of step {step} are not finite (loss {loss:.4g})"
    else:
        what = f"the loss of step {step} is {loss}"
    return (
        f"{what}; averages around it: {others or 'none'}. Lower "
        "optim.lr, lengthen optim.warmup_epochs, or use precision bf16 or fp32"
    )

"""One optimizer step: micro-batches, clipping, schedules, and what follows the step."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from fsl.distributed import standing_in
from fsl.method import Method
from fsl.types import Progress
from pipelines.loader import LocalBatch
from pipelines.optim import Schedules, prepare_gradients_
from pipelines.session import Session
from pipelines.train_config import TrainConfig

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Stepper:
    """Takes one optimizer step: micro-batches, clipping, schedules, what follows the step."""

    def __init__(
        self,
        method: Method[Any],
        optimizer: Optimizer,
        *,
        scaler: torch.amp.GradScaler,
        schedules: Schedules,
        config: TrainConfig,
        session: Session,
    ) -> None:
        self.method, self.optimizer, self.scaler = method, optimizer, scaler
        self.schedules, self.config, self.session = schedules, config, session
        self.model: nn.Module = method
        if session.world_size > 1:
            device = session.device
            # Each step begins with rank 0's buffers (statistics, centres), as is the default.
            self.model = DistributedDataParallel(
                method,
                device_ids=[device] if device.type == "cuda" else None,
                find_unused_parameters=not getattr(method, "uses_all_parameters", False),
            )

    def take(self, progress: Progress, micro_batches: Sequence[LocalBatch]) -> dict[str, Tensor]:
        """Take the step at `progress` and return this rank's weighted metrics, detached."""
        self.method.begin_step(progress)
        self.schedules.apply(self.optimizer, progress.step)
        metrics: dict[str, Tensor] = {}
        for number, local in enumerate(micro_batches):
            last = number == len(micro_batches) - 1
            for name, value in self._backward(progress.step, number, local, last).items():
                metrics[name] = metrics[name] + value if number else value
        self.scaler.unscale_(self.optimizer)
        optim = self.config.optim
        norm = prepare_gradients_(self.method, self.optimizer, optim)
        for parameter in self.method.frozen_parameters(progress):
            parameter.grad = None
        if optim.skip_nonfinite and not bool(torch.isfinite(norm)):
            self.scaler.update()  # an overflow in fp16 lowers the scale
            self.optimizer.zero_grad(set_to_none=True)
            return metrics | {"gradient_norm": norm, "skipped": torch.ones_like(norm)}
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.method.after_step(progress)
        skipped = {"skipped": torch.zeros_like(norm)} if optim.skip_nonfinite else {}
        return metrics | {"gradient_norm": norm} | skipped

    def _backward(self, step: int, number: int, local: LocalBatch, last: bool) -> dict[str, Tensor]:
        batch = local.batch.to(self.session.device)
        waits = isinstance(self.model, DistributedDataParallel) and not last
        torch.manual_seed(step_seed(self.config.seed or 0, step, self.session.rank, number))
        with ExitStack() as contexts:
            if waits:
                contexts.enter_context(self.model.no_sync())  # type: ignore[operator]
            if not local.weight:
                contexts.enter_context(standing_in())
            with self.autocast():
                loss, metrics = self.model(batch)
            self.scaler.scale(loss * local.weight).backward()
        values = {"loss": loss.detach(), **metrics}
        return {name: value.detach().float() * local.weight for name, value in values.items()}

    def autocast(self) -> torch.autocast:
        """Return the context in which the network computes in the stage's precision."""
        dtype, device = DTYPES[self.config.precision], self.session.device.type
        return torch.autocast(device, dtype=dtype, enabled=dtype is not torch.float32)


def step_seed(*parts: object) -> int:
    """Return a 63-bit seed that depends on all parts."""
    text = ",".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1

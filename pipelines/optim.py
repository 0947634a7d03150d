"""AdamW with schedules of rate and decay that it follows step by step, and gradient clipping."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from fsl.errors import CheckpointError
from fsl.optimization import clip_per_parameter_, parameter_groups
from fsl.schedules import CosineSchedule
from pipelines.train_config import ClipConfig, OptimConfig


def build_optimizer(method: nn.Module, config: OptimConfig) -> AdamW:
    """Return AdamW over the trainable parameters; biases and 1-D tensors do not decay."""
    groups = parameter_groups(method, config.weight_decay)
    on_gpu = any(p.is_cuda for group in groups for p in group["params"])
    return AdamW(groups, lr=config.lr, betas=config.betas, fused=on_gpu or None)


class Schedules:
    """Learning rate and weight decay at each step of a run."""

    def __init__(self, config: OptimConfig, total_steps: int, steps_per_epoch: int) -> None:
        warmup = round(config.warmup_epochs * steps_per_epoch)
        final = config.final_weight_decay
        final = config.weight_decay if final is None else final
        self.lr = CosineSchedule(config.lr, config.min_lr, total_steps, warmup)
        self.weight_decay = CosineSchedule(config.weight_decay, final, total_steps)

    def apply(self, optimizer: Optimizer, step: int) -> dict[str, float]:
        """Set both for `step`, from 0, and return them for the log."""
        lr, weight_decay = self.lr(step), self.weight_decay(step)
        for group in optimizer.param_groups:
            group["lr"] = lr
            group["weight_decay"] = weight_decay if group["decayed"] else 0.0
        return {"lr": lr, "weight_decay": weight_decay}


@torch.no_grad()
def clip_gradients_(parameters: Iterable[Tensor], config: ClipConfig) -> Tensor:
    """Limit the gradients in place and return their norm before that, of all together, ()."""
    parameters = list(parameters)
    if config.kind == "per_parameter":
        norms = clip_per_parameter_(parameters, config.value)
        total: Tensor = torch.linalg.vector_norm(norms)
        return total
    limit = config.value if config.kind == "global_norm" else float("inf")
    return torch.nn.utils.clip_grad_norm_(parameters, limit)


def optimizer_state(optimizer: Optimizer, method: nn.Module) -> dict[str, dict[str, Any]]:
    """Return the state of each parameter by its name."""
    states = optimizer.state_dict()["state"]
    return {name: states[i] for i, name in _numbered(optimizer, method).items() if i in states}


def restore_optimizer(
    optimizer: Optimizer, method: nn.Module, saved: Mapping[str, Any], name: str
) -> None:
    """Load what `optimizer_state` returned; a parameter without saved state starts afresh."""
    numbered = _numbered(optimizer, method)
    unknown = sorted(set(saved) - set(numbered.values()))
    if unknown:
        raise CheckpointError(
            f"{name}: optimizer state of {unknown[0]!r}, which is not trained here; "
            "set init.restore to weights"
        )
    state = optimizer.state_dict()
    state["state"] = {i: saved[key] for i, key in numbered.items() if key in saved}
    optimizer.load_state_dict(state)


def _numbered(optimizer: Optimizer, method: nn.Module) -> dict[int, str]:
    names = {id(parameter): name for name, parameter in method.named_parameters()}
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return {i: names[id(parameter)] for i, parameter in enumerate(parameters)}

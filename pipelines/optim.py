"""The optimizer, schedules that it follows step by step, and what is done to gradients before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from timm.optim.lars import Lars
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from fsl.additions import AdditionConfig
from fsl.errors import CheckpointError, ConfigError
from fsl.optimization import (
    add_l2_gradients_,
    clip_per_parameter_,
    clip_value_then_norm_,
    normalise_gradients_,
    outer_epsilon,
    parameter_groups,
    unscaled_decay,
)
from fsl.schedules import CosineSchedule, StaircaseSchedule
from pipelines.optim_config import ClipConfig, OptimConfig


def build_optimizer(
    method: nn.Module,
    config: OptimConfig,
    additions: Mapping[str, AdditionConfig] | None = None,
) -> Optimizer:
    """Return it over the trainable parameters; biases and 1-D tensors usually do not decay.

    Raises:
        ConfigError: there are none.
    """
    groups = parameter_groups(
        method,
        config.weight_decay,
        decay_all=config.decay_all,
        lr_multipliers={
            f"additions.{name}.": addition.lr_multiplier
            for name, addition in (additions or {}).items()
        },
    )
    if not groups:
        raise ConfigError(
            f"method: {type(method).__name__} has nothing to train here; on a feature table it "
            "is a fixed rule: list the table in needs of an evaluate stage, with protocols"
        )
    if config.optimizer == "adamw":
        fused = any(p.is_cuda for group in groups for p in group["params"]) or None
        return AdamW(groups, lr=config.lr, betas=config.betas, eps=config.epsilon, fused=fused)
    kind: type[SGD | Lars] = SGD if config.optimizer == "sgd" else Lars
    return kind(groups, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov)


class Schedules:
    """Learning rate, weight decay and epsilon at each step of a run."""

    def __init__(self, config: OptimConfig, total_steps: int, steps_per_epoch: int) -> None:
        self.config = config
        warmup = round(config.warmup_epochs * steps_per_epoch)
        final = config.final_weight_decay
        final = config.weight_decay if final is None else final
        stairs = config.staircase
        self.lr = (
            StaircaseSchedule(config.lr, stairs.factor, stairs.every)
            if stairs
            else CosineSchedule(config.lr, config.min_lr, total_steps, warmup)
        )
        self.weight_decay = CosineSchedule(config.weight_decay, final, total_steps)

    def apply(self, optimizer: Optimizer, step: int) -> dict[str, float]:
        """Set them for `step`, from 0, and return rate and decay for the log."""
        lr, weight_decay = self.lr(step), self.weight_decay(step)
        scaled = self.config.decay_times_lr
        for group in optimizer.param_groups:
            rate = group["lr"] = lr * group["lr_multiplier"]
            of_torch = weight_decay if scaled else unscaled_decay(weight_decay, rate)
            group["weight_decay"] = of_torch if group["decayed"] else 0.0
            if self.config.epsilon_before_correction:
                group["eps"] = outer_epsilon(self.config.epsilon, self.config.betas[1], step)
        return {"lr": lr, "weight_decay": weight_decay}


@torch.no_grad()
def prepare_gradients_(method: nn.Module, optimizer: Optimizer, config: OptimConfig) -> Tensor:
    """Add the penalty's gradient, limit all in place, return their norm before the limit, ()."""
    if config.l2:
        for group in optimizer.param_groups:
            if group["decayed"]:
                add_l2_gradients_(group["params"], config.l2)
    return clip_gradients_(method.parameters(), config.clip)


@torch.no_grad()
def clip_gradients_(parameters: Iterable[Tensor], config: ClipConfig) -> Tensor:
    """Limit the gradients in place and return their norm before that, of all together, ()."""
    parameters = list(parameters)
    if config.kind in ("per_parameter", "value_then_norm"):
        each = clip_per_parameter_ if config.kind == "per_parameter" else clip_value_then_norm_
        total: Tensor = torch.linalg.vector_norm(each(parameters, config.value))
        return total
    if config.kind == "normalise":
        return normalise_gradients_(parameters)
    limit = config.value if config.kind == "global_norm" else float("inf")
    return torch.nn.utils.clip_grad_norm_(parameters, limit)


def optimizer_state(optimizer: Optimizer, method: nn.Module) -> dict[str, dict[str, Any]]:
    """Return the state of each parameter by its name."""
    states = optimizer.state_dict()["state"]
    return {name: states[i] for i, name in _numbered(optimizer, method).items() if i in states}


def restore_optimizer(
    optimizer: Optimizer, method: nn.Module, saved: Mapping[str, Any], name: str
) -> None:
    """Load what `optimizer_state` returned; a parameter without saved state starts afresh.

    State of an addition's parameters that are not trained any more is left out.
    """
    numbered = _numbered(optimizer, method)
    strange = set(saved) - set(numbered.values())
    unknown = sorted(name for name in strange if not name.startswith("additions."))
    if unknown:
        raise CheckpointError(
            f"{name}: optimizer state of {unknown[0]!r}, which is not trained here; "
            "set init.restore to weights"
        )
    of_adam = isinstance(optimizer, AdamW)
    if any(("exp_avg" in moments) != of_adam for moments in saved.values()):
        was, now = ("momentum_buffer", "exp_avg") if of_adam else ("exp_avg", "momentum_buffer")
        raise CheckpointError(
            f"{name}: optimizer state is of another optimizer, {was!r} where {now!r} is needed; "
            "set init.restore to weights"
        )
    state = optimizer.state_dict()
    state["state"] = {i: saved[key] for i, key in numbered.items() if key in saved}
    optimizer.load_state_dict(state)


def _numbered(optimizer: Optimizer, method: nn.Module) -> dict[int, str]:
    names = {id(parameter): name for name, parameter in method.named_parameters()}
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return {i: names[id(parameter)] for i, parameter in enumerate(parameters)}

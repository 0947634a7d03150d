"""Parameter groups and gradient clipping over many tensors at once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return AdamW's two groups: decayed tensors, then biases and one-dimensional ones.

    Tensors with more than one dimension decay, class token, position table, mask embedding and
    prototype gains (K, 1) included. Parameters without gradient are left out, empty groups too.
    The undecayed group carries `"decayed": False`, so that a schedule of the decay can skip it.
    """
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            is_plain = parameter.ndim <= 1 or name.endswith("bias")
            (plain if is_plain else decayed).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": weight_decay, "decayed": True},
        {"params": plain, "weight_decay": 0.0, "decayed": False},
    ]
    return [group for group in groups if group["params"]]


@torch.no_grad()
def clip_per_parameter_(parameters: Iterable[Tensor], max_norm: float) -> Tensor:
    """Limit the norm of each gradient tensor on its own, in place.

    A tensor whose norm exceeds `max_norm` is multiplied by max_norm / (norm + 1e-6). No value is
    read back from the device.

    Returns:
        (n,) norms before clipping of the tensors that have a gradient.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return torch.zeros(0)
    norms = torch.stack(torch._foreach_norm(gradients))
    factors = torch.where(norms > max_norm, max_norm / (norms + 1e-6), torch.ones_like(norms))
    torch._foreach_mul_(gradients, list(factors.unbind()))
    return norms

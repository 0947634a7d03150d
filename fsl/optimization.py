"""Parameter groups, and changes of gradients in place, over many tensors at once.

No function reads a value back from the device.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fsl.errors import ConfigError

UNDECAYED = ("bias", "relative_position_bias_table")
"""Ends of names of tensors that do not decay, whatever their shape."""


def parameter_groups(
    module: nn.Module,
    weight_decay: float,
    *,
    decay_all: bool = False,
    lr_multipliers: Mapping[str, float] | None = None,
) -> list[dict[str, Any]]:
    """Return AdamW's groups: decayed tensors, then biases and one-dimensional ones.

    Tensors with more than one dimension decay, class token, position table, mask embedding and
    prototype gains (K, 1) included; `decay_all` puts the others there too. Swin's tables of
    position biases do not decay either. Parameters without gradient are left out, empty groups
    too. The undecayed group carries `"decayed": False`, so that a schedule of the decay can skip
    it, and every group the `lr_multiplier` that a schedule of the rate applies.

    Args:
        module: whose parameters are grouped.
        weight_decay: of the decayed groups.
        decay_all: whether biases and one-dimensional tensors decay as well.
        lr_multipliers: beginning of a parameter's name -> multiple of the rate; 1 for the others.
    """
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            decays = decay_all or not (parameter.ndim <= 1 or name.endswith(UNDECAYED))
            multiplier = _multiplier(name, lr_multipliers or {})
            groups.setdefault((multiplier, decays), []).append(parameter)
    return [
        {
            "params": groups[multiplier, decays],
            "weight_decay": weight_decay if decays else 0.0,
            "decayed": decays,
            "lr_multiplier": multiplier,
        }
        for multiplier, decays in sorted(groups, key=lambda key: (key[0] != 1, key[0], not key[1]))
    ]


def _multiplier(name: str, multipliers: Mapping[str, float]) -> float:
    return next((value for start, value in multipliers.items() if name.startswith(start)), 1.0)


@torch.no_grad()
def clip_per_parameter_(parameters: Iterable[Tensor], max_norm: float) -> Tensor:
    """Limit the norm of each gradient tensor on its own, in place.

    A tensor whose norm exceeds `max_norm` is multiplied by max_norm / (norm + 1e-6).

    Returns:
        (n,) norms before clipping of the tensors that have a gradient.
    """
    gradients = _gradients(parameters)
    if not gradients:
        return torch.zeros(0)
    norms = torch.stack(torch._foreach_norm(gradients))
    factors = torch.where(norms > max_norm, max_norm / (norms + 1e-6), torch.ones_like(norms))
    torch._foreach_mul_(gradients, list(factors.unbind()))
    return norms


@torch.no_grad()
def clip_value_then_norm_(parameters: Iterable[Tensor], limit: float) -> Tensor:
    """Limit each element to +-limit, then the norm of each tensor to `limit`, in place (AWGIM).

    Returns:
        (n,) norms before clipping of the tensors that have a gradient.
    """
    gradients = _gradients(parameters)
    if not gradients:
        return torch.zeros(0)
    before = torch.stack(torch._foreach_norm(gradients))
    torch._foreach_clamp_min_(gradients, -limit)
    torch._foreach_clamp_max_(gradients, limit)
    norms = torch.stack(torch._foreach_norm(gradients))
    torch._foreach_mul_(gradients, list((limit / norms.clamp_min(limit)).unbind()))
    return before


@torch.no_grad()
def normalise_gradients_(parameters: Iterable[Tensor], floor: float = 1e-5) -> Tensor:
    """Divide all gradients by sqrt(max(|g|^2, floor)), |g| their common norm, in place.

    Returns:
        () norm before that, 0 without gradients. Call it after gradients were summed over ranks.
    """
    gradients = _gradients(parameters)
    if not gradients:
        return torch.zeros(())
    square = torch.stack(torch._foreach_norm(gradients)).square().sum()
    torch._foreach_mul_(gradients, square.clamp_min(floor).rsqrt())
    return square.sqrt()


@torch.no_grad()
def add_l2_gradients_(parameters: Iterable[Tensor], coefficient: float) -> None:
    """Add 2 * coefficient * p to the gradient of each p that has one: the penalty's gradient.

    The penalty is coefficient * sum of p^2, without 1/2. Pass the parameters it concerns, e.g. a
    decayed group's. Call it after gradients were averaged over ranks.
    """
    penalised = [p for p in parameters if p.grad is not None]
    if penalised:
        torch._foreach_add_(_gradients(penalised), penalised, alpha=2 * coefficient)


def unscaled_decay(weight_decay: float, lr: float) -> float:
    """Return the `weight_decay` with which torch's AdamW multiplies by exactly 1 - weight_decay.

    AdamW multiplies by 1 - lr * decay, so this follows the rate: set it again whenever the rate
    changes.

    Raises:
        ConfigError: at rate 0, where AdamW cannot decay.
    """
    if weight_decay == 0:
        return 0.0
    if lr <= 0:
        raise ConfigError(
            f"a decay of {weight_decay:g} that is not scaled by the rate needs a rate above 0, "
            f"got {lr:g}; start without warm-up, or scale the decay by the rate"
        )
    return weight_decay / lr


def outer_epsilon(epsilon: float, beta2: float, step: int) -> float:
    """Return the `eps` with which torch's Adam adds `epsilon` as TensorFlow and Keras do.

    They add it to the root of the raw second moment: lr sqrt(1 - b2^t) / (1 - b1^t) m /
    (sqrt(v) + epsilon). Torch adds eps to sqrt(v) / sqrt(1 - b2^t), so eps is epsilon over
    sqrt(1 - b2^t).

    Args:
        epsilon: theirs.
        beta2: coefficient of the second moment.
        step: updates the parameters have had before this one, t - 1.
    """
    root: float = (1 - beta2 ** (step + 1)) ** 0.5
    return epsilon / root


def _gradients(parameters: Iterable[Tensor]) -> list[Tensor]:
    return [p.grad for p in parameters if p.grad is not None]

"""Signs that a self-distilled network has collapsed, from numbers that cost next to nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor


def update_center(center: Tensor, batch_mean: Tensor, momentum: float) -> Tensor:
    """Return momentum * center + (1 - momentum) * batch_mean of raw teacher logits, each (K,)."""
    return center * momentum + batch_mean.to(center.dtype) * (1 - momentum)


@torch.no_grad()
def collapse_signals(probabilities: Tensor, features: Tensor, center: Tensor) -> dict[str, Tensor]:
    """Return what to watch, all scalars without gradient.

    Args:
        probabilities: of the teacher's class tokens (n, K).
        features: of the same tokens (n, D).
        center: of class logits (K,).

    Returns:
        `teacher_entropy` (nats, ln K when uniform), `teacher_kl` (KL of the mean prediction from
        uniform, 0 when all prototypes are used equally), `center_norm`, `effective_rank` of the
        features (participation ratio: 1 when they lie on a line, 0 when they are all equal).
    """
    entropy = -torch.xlogy(probabilities, probabilities).sum(-1).mean()
    mean = probabilities.mean(0)
    kl = math.log(len(mean)) + torch.xlogy(mean, mean).sum()
    return {
        "teacher_entropy": entropy,
        "teacher_kl": kl,
        "center_norm": torch.linalg.vector_norm(center),
        "effective_rank": effective_rank(features),
    }


def effective_rank(features: Tensor) -> Tensor:
    """Return (sum of eigenvalues)^2 / sum of their squares of the covariance, (n, D) -> ().

    The participation ratio needs a Gram matrix only, no decomposition.
    """
    with torch.autocast(features.device.type, enabled=False):
        centred = features.detach().float()
        centred = centred - centred.mean(0)
        gram = centred @ centred.mT if len(centred) <= centred.shape[1] else centred.mT @ centred
        squares = gram.square().sum()
        return gram.diagonal().sum().square() / squares.clamp_min(1e-30)


def diagnose(metrics: Mapping[str, float], prototypes: int) -> str | None:
    """Return one sentence that names a collapse and what helps, or None when there is none.

    Args:
        metrics: averages over some hundred steps of `collapse_signals` and `loss_cls`.
        prototypes: K of the class token.
    """
    uniform = math.log(prototypes)
    entropy = metrics.get("teacher_entropy", 0.5 * uniform)
    spread = metrics.get("teacher_kl", 0.0)
    loss = metrics.get("loss_cls", 0.0)
    rank = metrics.get("effective_rank", math.inf)
    if loss > 0.995 * uniform and entropy > 0.99 * uniform:
        return (
            f"collapsed to uniform: class loss {loss:.3f} and teacher entropy {entropy:.3f} "
            f"stay at ln({prototypes}) = {uniform:.3f}; use fewer prototypes, head.norm: batch, a "
            "lower teacher temperature or a longer learning-rate warm-up"
        )
    if spread > 0.9 * uniform:
        return (
            f"collapsed to one prototype: the teacher's mean prediction is {spread:.3f} nats from "
            f"uniform of at most {uniform:.3f}; raise the teacher temperature, or lower "
            "center_momentum so that the centre follows faster"
        )
    if rank < 1.5:
        return (
            f"features of all images are nearly alike: effective rank {rank:.2f}; use head.norm: "
            "batch, check the augmentation, or lower the learning rate"
        )
    return None

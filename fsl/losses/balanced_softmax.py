"""Balanced Softmax (Ren et al., NeurIPS 2020): cross-entropy that knows how frequent classes are.

In training every logit gets the logarithm of its class's number of images; answers use the plain
logits. Rare classes then need not outweigh frequent ones by their bias.

Letters in shapes: B images, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from fsl.errors import ConfigError


def log_counts(counts: Sequence[int] | Tensor) -> Tensor:
    """Return the logarithm of every class's number of training images, (K,) float32.

    Raises:
        ConfigError: a class has none; its share would be zero and its loss infinite.
    """
    images = torch.as_tensor(counts, device="cpu").double()
    if len(empty := (images < 1).nonzero().flatten()):
        first = int(empty[0])
        raise ConfigError(
            f"class {first} has {int(images[first])} training images, and {len(empty)} of "
            f"{len(images)} classes have none; balanced softmax needs at least one of each: leave "
            "such classes out of the split"
        )
    return images.log().float()


def balanced_softmax_loss(
    logits: Tensor,
    labels: Tensor,
    log_counts: Tensor,
    *,
    label_smoothing: float = 0.0,
    reduction: Literal["mean", "none"] = "mean",
) -> Tensor:
    """Return the cross-entropy of logits + log counts, () or (B,); float32 under autocast too.

    Args:
        logits: (B, K).
        labels: (B,) int64, or probabilities (B, K).
        log_counts: (K,), see `log_counts`.
        label_smoothing: part of the target that is spread evenly over all classes.
        reduction: the mean over images, or the loss of each.
    """
    with torch.autocast(logits.device.type, enabled=False):
        precise = logits if logits.dtype == torch.float64 else logits.float()
        return F.cross_entropy(
            precise + log_counts, labels, label_smoothing=label_smoothing, reduction=reduction
        )

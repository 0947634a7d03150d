"""Contrastive loss over the batch of all processes.

NT-Xent (Chen et al., ICML 2020), where the positives P(i) of a view are the other views of its
image, and SupCon (Khosla et al., NeurIPS 2020, the form with the sum outside the logarithm),
where they are all other views of its class:

    L = mean_i mean_{p in P(i)} -log( exp(z_i.z_p / tau) / sum_{a != i} exp(z_i.z_a / tau) ).

Each process computes the terms of its own views against the views of all, so that the mean over
processes is the loss of one process that has everything.

Letters in shapes: n views of this process, N views of all processes, P width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fsl.distributed import gather_rows


def contrastive_loss(features: Tensor, keys: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return the loss () and the part () of views whose nearest other view is a positive.

    Computed in float32 (or float64) whatever autocast says. A view without positives adds 0 to
    the mean.

    Args:
        features: (n, P) of any length.
        keys: (n,) int64; views with equal keys, on any process, are positives of each other.
        temperature: tau.
    """
    with torch.autocast(features.device.type, enabled=False):
        precise = features if features.dtype == torch.float64 else features.float()
        unit = F.normalize(precise, dim=-1)
        others, start = gather_rows(unit)  # (N, P)
        scores = unit @ others.mT / temperature  # (n, N)
        columns = torch.arange(len(others), device=keys.device)
        own = columns == start + torch.arange(len(unit), device=keys.device)[:, None]  # (n, N)
        positives = (keys[:, None] == gather_rows(keys).values) & ~own  # (n, N)
        scores = scores.masked_fill(own, -torch.inf)
        log_shares = scores.log_softmax(-1).masked_fill(~positives, 0.0)
        losses = -log_shares.sum(-1) / positives.sum(-1).clamp_min(1)  # (n,)
        nearest = scores.detach().argmax(-1, keepdim=True)  # (n, 1)
        return losses.mean(), positives.gather(1, nearest).to(precise.dtype).mean()

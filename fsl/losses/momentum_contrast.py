"""Contrastive loss of MoCo v3 (Chen, Xie, He; ICCV 2021) over the batch of all processes.

The query of one view looks for the key of the other view of its image among the keys of all
images; each view asks once:

    L = sum_v 2 tau mean_i -log( exp(q_vi.k_wi / tau) / sum_j exp(q_vi.k_wj / tau) ),   w != v.

The factor 2 tau keeps the size of the gradient when tau changes. There may be several streams of
queries and of keys (BatchFormer: plain and transformed); then every stream of queries looks in
every stream of keys, one at a time, and the terms add up.

Letters in shapes: B images of this process, N images of all processes, S streams of queries,
R streams of keys, P width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fsl.distributed import gather_rows

VIEWS = 2


def momentum_contrast_loss(
    queries: Tensor, keys: Tensor, size: int, temperature: float, *, average: bool = False
) -> tuple[Tensor, Tensor]:
    """Return the loss () and the part () of queries whose nearest key is their own image's.

    Computed in float32 (or float64) whatever autocast says. Each process computes the terms of its
    own queries; the mean over processes, weighted by their images, is the loss of one process that
    has everything.

    Args:
        queries: (2, S*B, P) of any length, stream after stream.
        keys: (2, R*B, P) likewise.
        size: B.
        temperature: tau.
        average: divide by the number of pairs of streams, S*R.
    """
    with torch.autocast(queries.device.type, enabled=False):
        asking = _streams(queries, size)  # (2, S, B, P)
        wanted = _streams(keys, size).flip(0).to(asking.dtype)  # (2, R, B, P), the other view's
        found, start = gather_rows(wanted.movedim(2, 0))  # (N, 2, R, P)
        scores = torch.einsum("vsbp,nvrp->vsrbn", asking, found) / temperature
        own = torch.einsum("vsbp,vrbp->vsrb", asking, wanted) / temperature
        losses = 2 * temperature * (scores.logsumexp(-1) - own)
        pairs = scores.shape[1] * scores.shape[2]
        loss = losses.mean(-1).sum() / (pairs if average else 1)
        places = torch.arange(start, start + size, device=scores.device)
        nearest = scores.detach().argmax(-1) == places  # (2, S, R, B)
        return loss, nearest.to(scores.dtype).mean()


def _streams(rows: Tensor, size: int) -> Tensor:
    """Return rows of length 1 by stream, (2, S*B, P) -> (2, S, B, P)."""
    assert len(rows) == VIEWS
    precise = rows if rows.dtype == torch.float64 else rows.float()
    unit = F.normalize(precise, dim=-1)
    return unit.reshape(VIEWS, -1, size, rows.shape[-1])

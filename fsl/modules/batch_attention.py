"""Attention over the samples of a batch (BatchFormer; Hou, Yu, Tao; CVPR 2022).

A plain post-norm transformer encoder whose sequence is the batch: without positions or mask, so
the order of the samples means nothing. The loss of one sample thereby reaches the features of all
others. With positions (BatchFormerV2; Hou et al., 2022) each of them attends on its own.

Parameters are named as in torch's `TransformerEncoder`, so that published weights load.

Letters in shapes: N samples of this process, M samples attended to (N, or those of all processes),
L positions, C width, h heads, d width of a head.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fsl.distributed import gather_rows, row_counts
from fsl.errors import ConfigError

EPSILON = 1e-5
Scope = Literal["device", "global"]


class BatchAttention(nn.Module):
    """Every sample attends to all samples, itself included, position by position.

    With scope `global` those are the samples of all processes, which may have unequal numbers of
    them and must call together. Each layer computes this process's samples only and gathers what
    it attends to; gradients come back to the process that made a sample. Losses that are means
    over a process's own samples, with gradients averaged as DistributedDataParallel does, then
    give what one process with all samples computes.

    Args:
        features: C.
        heads: h, a divisor of C.
        layers: number of layers.
        dropout: of attention weights, attention output, hidden and output of the feed-forward.
        scope: `device` attends to this process's samples, `global` to those of all.
    """

    def __init__(
        self,
        features: int,
        *,
        heads: int = 4,
        layers: int = 1,
        dropout: float = 0.5,
        scope: Scope = "device",
    ) -> None:
        super().__init__()
        _check_heads(features, heads)
        self.scope = scope
        self.layers = nn.ModuleList(EncoderLayer(features, heads, dropout) for _ in range(layers))

    def forward(self, rows: Tensor) -> Tensor:
        """Return the transformed rows, (N, C) -> (N, C) or (N, ..., C) -> (N, ..., C)."""
        if not len(rows):
            raise ConfigError("a batch has no samples to attend to; use fewer workers")
        own = rows.unsqueeze(1).flatten(1, -2)  # (N, L, C)
        counts = row_counts(own) if self.scope == "global" else None
        for layer in self.layers:
            own = layer(own, own if counts is None else gather_rows(own, counts).values)
        return own.reshape(rows.shape)


class EncoderLayer(nn.Module):
    """Attention, then a feed-forward of width C; each is added to its input, then normalised."""

    def __init__(self, features: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = Attention(features, heads)
        self.linear1 = nn.Linear(features, features)
        self.linear2 = nn.Linear(features, features)
        self.norm1 = nn.LayerNorm(features, eps=EPSILON)
        self.norm2 = nn.LayerNorm(features, eps=EPSILON)
        self.dropout = nn.Dropout(dropout)

    def forward(self, own: Tensor, everyone: Tensor) -> Tensor:
        """Return own samples after attending to everyone, (N, L, C) and (M, L, C) -> (N, L, C)."""
        dropout = self.dropout.p if self.dropout.training else 0.0
        own = self.norm1(own + self.dropout(self.self_attn(own, everyone, dropout)))
        hidden = self.dropout(F.relu(self.linear1(own)))
        out: Tensor = self.norm2(own + self.dropout(self.linear2(hidden)))
        return out


class Attention(nn.Module):
    """Multi-head attention along the first axis, for every position on its own."""

    def __init__(self, features: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * features, features))  # q, k, v
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * features))
        self.out_proj = nn.Linear(features, features)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, own: Tensor, everyone: Tensor, dropout: float = 0.0) -> Tensor:
        """Return what own samples find in everyone's, (N, L, C) and (M, L, C) -> (N, L, C)."""
        query, keys, values = self.project(own, everyone)
        found = F.scaled_dot_product_attention(query, keys, values, dropout_p=dropout)
        out: Tensor = self.out_proj(found.permute(2, 0, 1, 3).flatten(2))
        return out

    def project(self, own: Tensor, everyone: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries (L, h, N, d), and keys and values (L, h, M, d)."""
        width = own.shape[-1]
        weight, bias = self.in_proj_weight, self.in_proj_bias
        query = self._by_head(F.linear(own, weight[:width], bias[:width]), 1)
        keys, values = self._by_head(F.linear(everyone, weight[width:], bias[width:]), 2)
        return query[0], keys, values

    def _by_head(self, projected: Tensor, parts: int) -> Tensor:
        """Split rows of several parts side by side, (n, L, parts*C) -> (parts, L, h, n, d)."""
        split = projected.view(*projected.shape[:2], parts, self.heads, -1)  # (n, L, parts, h, d)
        return split.permute(2, 1, 3, 0, 4)


def _check_heads(features: int, heads: int) -> None:
    if features % heads:
        fitting = max(number for number in range(1, heads) if features % number == 0)
        raise ConfigError(
            f"heads: {heads} does not divide the {features} features of the backbone; take a "
            f"number that divides it, e.g. {fitting}"
        )

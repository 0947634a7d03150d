"""The two paths of AWGIM (Guo, Cheung; CVPR 2020): what a task and a query say about classes.

The contextual path attends within the support set and is the same for every query; the attentive
path lets each query attend to the support set. All linear maps are without bias.

Letters in shapes: T tasks, S support items, Q queries, W ways, D features, h width.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NormKind = Literal["token", "episode"]
EPSILON = 1e-12


class Paths(NamedTuple):
    """What the weight generator reads."""

    context: Tensor  # (T, W, h) per class, the same for all queries
    attentive: Tensor  # (T, Q, h) per query


class Shots(NamedTuple):
    """Which support items belong to which class; a label outside 0..ways-1 marks padding."""

    member: Tensor  # (T, W, S) float32, 1 where the item is of the class
    mean: Tensor  # (T, W, S) float32, rows of `member` divided by the number of shots
    valid: Tensor  # (T, S) bool, False for padding

    @classmethod
    def of(cls, labels: Tensor, ways: int) -> Shots:
        """Return the shots of labels (T, S)."""
        classes = torch.arange(ways, device=labels.device)
        member = (labels[:, None] == classes[:, None]).float()  # (T, W, S)
        return cls(member, member / member.sum(-1, keepdim=True).clamp_min(1), member.any(1))


def linear(width_in: int, width_out: int) -> nn.Linear:
    """Return a linear map without bias, Glorot-uniform."""
    layer = nn.Linear(width_in, width_out, bias=False)
    nn.init.xavier_uniform_(layer.weight)
    return layer


def mlp(widths: Sequence[int], dropout: float) -> nn.Sequential:
    """Return dropout of the input, then linear maps with ReLU between them."""
    parts: list[nn.Module] = [nn.Dropout(dropout)]
    for width_in, width_out in pairwise(widths):
        parts += [linear(width_in, width_out), nn.ReLU()]
    return nn.Sequential(*parts[:-1])


class TaskNorm(nn.Module):
    """Layer normalisation of (T, n, h) with a gain and an offset per feature.

    `token` normalises each vector. `episode` takes one mean and variance over all vectors of a
    task, as the release does; then what comes out for one query depends on the other queries.
    """

    def __init__(self, width: int, over: NormKind) -> None:
        super().__init__()
        self.over = over
        self.gain = nn.Parameter(torch.ones(width))
        self.offset = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """Normalise x (T, n, h); vectors that are not valid (T, n) count for nothing."""
        if self.over == "token":
            return F.layer_norm(x, self.gain.shape, self.gain, self.offset, EPSILON)
        x, weight = x.float(), valid[..., None].float()  # (T, n, 1)
        count = weight.sum(1, keepdim=True) * x.shape[-1]  # (T, 1, 1)
        mean = (x * weight).sum((1, 2), keepdim=True) / count
        centred = x - mean
        variance = (centred.square() * weight).sum((1, 2), keepdim=True) / count
        return centred * (variance + EPSILON).rsqrt() * self.gain + self.offset


class HeadLinear(nn.Module):
    """A linear map (..., h) -> (..., h) without bias, N(0, 1/h), with a parameter for every head.

    Applied as one map; the parameters are apart because gradients are limited tensor by tensor.
    `axis` is 0 where the heads share the output out among them, 1 where they do so with the input.
    """

    def __init__(self, width: int, heads: int, axis: int) -> None:
        super().__init__()
        whole = torch.randn(width, width) * width**-0.5
        self.heads = nn.ParameterList(part.clone() for part in whole.chunk(heads, axis))
        self.axis = axis

    def forward(self, x: Tensor) -> Tensor:
        """Return the map of x."""
        return F.linear(x, torch.cat(list(self.heads), self.axis))


class AttentionBlock(nn.Module):
    """Multi-head attention and an MLP, each with a residual and a norm behind it."""

    def __init__(self, width: int, heads: int, dropout: float, norm: NormKind) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (HeadLinear(width, heads, 0) for _ in range(3))
        self.out = HeadLinear(width, heads, 1)
        self.norm = TaskNorm(width, norm)
        self.mlp = mlp((width, 2 * width, width), dropout)
        self.mlp_norm = TaskNorm(width, norm)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, key_valid: Tensor, query_valid: Tensor
    ) -> Tensor:
        """Return (T, n, h) of queries (T, n, h), keys, values (T, m, h); valid (T, m), (T, n)."""
        attended = F.scaled_dot_product_attention(
            self._split(self.query(query)),
            self._split(self.key(key)),
            self._split(self.value(value)),
            attn_mask=key_valid[:, None, None],
        )  # (T, heads, n, h / heads)
        x = self.norm(self.out(attended.transpose(1, 2).flatten(2)) + query, query_valid)
        normalised: Tensor = self.mlp_norm(x + self.mlp(x), query_valid)
        return normalised

    def _split(self, x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:2], self.heads, -1).transpose(1, 2)  # (T, heads, n, h / heads)


class InformationPaths(nn.Module):
    """Features of a task -> `Paths`."""

    def __init__(
        self, features: int, width: int, *, heads: int, dropout: float, norm: NormKind
    ) -> None:
        super().__init__()
        self.attentive_encoder = mlp((features, width), dropout)
        self.context_encoder = mlp((features, width), dropout)
        self.attentive_support, self.attentive_query, self.context_support = (
            AttentionBlock(width, heads, dropout, norm) for _ in range(3)
        )

    def forward(self, support: Tensor, shots: Shots, query: Tensor) -> Paths:
        """Return the paths of support (T, S, D) and queries (T, Q, D)."""
        return Paths(self.context(support, shots), self.attentive(support, shots, query))

    def context(self, support: Tensor, shots: Shots) -> Tensor:
        """Return the contextual path (T, W, h): attention within the support, mean of a class."""
        encoded = self.context_encoder(support)  # (T, S, h)
        return class_mean(_within(self.context_support, encoded, shots), shots)

    def attentive(self, support: Tensor, shots: Shots, query: Tensor) -> Tensor:
        """Return the attentive path (T, Q, h).

        Keys are the encoded support items, values the mean over each item's class of what
        attention within the support gives.
        """
        keys: Tensor = self.attentive_encoder(support)  # (T, S, h)
        means = class_mean(_within(self.attentive_support, keys, shots), shots)  # (T, W, h)
        values = shots.member.to(means.dtype).mT @ means  # (T, S, h)
        asked: Tensor = self.attentive_encoder(query)  # (T, Q, h)
        everyone = torch.ones(asked.shape[:2], dtype=torch.bool, device=asked.device)
        attended: Tensor = self.attentive_query(asked, keys, values, shots.valid, everyone)
        return attended


def class_mean(x: Tensor, shots: Shots) -> Tensor:
    """Return the mean over the shots of each class, (T, S, h) -> (T, W, h)."""
    return shots.mean.to(x.dtype) @ x


def _within(block: AttentionBlock, x: Tensor, shots: Shots) -> Tensor:
    attended: Tensor = block(x, x, x, shots.valid, shots.valid)
    return attended

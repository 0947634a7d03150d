"""Tokens-to-Token ViT (Yuan et al., ICCV 2021), as dense relative localisation trains it.

Patches overlap: pixels are unfolded, mixed by attention, laid out as a map again, unfolded once
more, and so on; each round merges neighbours into one token. As the first rounds have many tokens,
their attention is a Performer's (Choromanski et al., ICLR 2021), linear in the number of tokens.
Transformer blocks with a class token and a fixed table of positions follow.

Letters in shapes: n images, T tokens of a round, N = h x w of the last, d channels before
attention, e after it, m = e // 2 random features, D width.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal, NamedTuple, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from fsl.backbones import BACKBONES, Layers, Tap
from fsl.backbones.presets import put_over
from fsl.backbones.taps import pooled, sequence_tap
from fsl.backbones.transformer import TransformerBackbone, TransformerConfig, initialise_linear
from fsl.errors import ConfigError
from fsl.images import ImageSpec
from fsl.search_space import Uniform

EPSILON = 1e-5  # of every LayerNorm
NO_ZERO = 1e-8
Side = Annotated[int, Field(ge=1, le=32)]
Sides = tuple[Side, Side, Side]


class Shape(NamedTuple):
    """What a size name stands for."""

    width: int
    depth: int
    heads: int
    token_width: int
    kernels: Sides
    strides: Sides


SIZES = {
    "micro": Shape(64, 3, 2, 32, (3, 3, 3), (2, 2, 1)),
    "t2t14": Shape(384, 14, 6, 64, (7, 3, 3), (4, 2, 2)),
}


class T2TConfig(TransformerConfig):
    """Settings of `T2T`."""

    name: Literal["t2t"] = "t2t"
    size: Literal["micro", "t2t14"] = "t2t14"
    """Preset of width, depth, heads, token width, kernels and strides: micro (8 x 8 tokens at 32
    pixels) 64/3/2/32, 3 3 3, 2 2 1; t2t14 384/14/6/64, 7 3 3, 4 2 2."""
    width: Annotated[int, Field(ge=8, le=4096)] | None = None
    """Width of a token in the transformer blocks; default: the preset's."""
    depth: Annotated[int, Field(ge=1, le=64)] | None = None
    """Number of transformer blocks; default: the preset's."""
    heads: Annotated[int, Field(ge=1, le=64)] | None = None
    """Attention heads per block; must divide the width; default: the preset's."""
    token_width: Annotated[int, Field(ge=2, le=1024)] | None = None
    """Width of a token between the rounds of unfolding; default: the preset's."""
    kernels: Sides | None = None
    """Side of the square that one token of each round covers; default: the preset's."""
    strides: Sides | None = None
    """Distance of these squares, at most their side; default: the preset's."""
    mlp_ratio: Annotated[float, Field(gt=0, le=16)] = 3.0
    """Hidden width of a block's MLP, relative to the width."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Dropout in the attention between the rounds; the blocks have none."""
    drop_path: Annotated[float, Field(ge=0, lt=1), Uniform(0.0, 0.3)] = 0.0
    """Stochastic depth: probability of skipping the last block; linear from 0 at the first."""

    @property
    def shape(self) -> Shape:
        """The preset with the explicit settings put over it."""
        return put_over(SIZES[self.size], self)

    @model_validator(mode="after")
    def _shape_is_possible(self) -> Self:
        shape = self.shape
        if shape.width % shape.heads:
            raise ValueError(f"width {shape.width} is not a multiple of heads {shape.heads}")
        if any(
            stride > kernel for kernel, stride in zip(shape.kernels, shape.strides, strict=True)
        ):
            raise ValueError(
                f"strides {shape.strides} go beyond kernels {shape.kernels} and would skip pixels"
            )
        return self


@BACKBONES.register("t2t")
class T2T(TransformerBackbone):
    """Rounds of unfolding and linear attention, then transformer blocks."""

    Config = T2TConfig

    def __init__(self, config: T2TConfig, images: ImageSpec) -> None:
        shape = config.shape
        rows, columns = token_grid((images.size, images.size), shape)
        super().__init__(
            config,
            images,
            patches=(rows, columns),
            width=shape.width,
            depth=shape.depth,
            heads=shape.heads,
            mlp_ratio=config.mlp_ratio,
            qkv_bias=False,
            table=sinusoid_table(1 + rows * columns, shape.width),
            epsilon=EPSILON,
        )
        self.tokens_to_token = TokensToToken(images.channels, shape, config.dropout)
        initialise_linear(self.tokens_to_token)

    def embed_patches(self, images: Tensor) -> Tensor:
        """Return the tokens of the last round as a map (n, D, h, w)."""
        cells: Tensor = self.tokens_to_token(images)
        return cells

    def grid(self, size: int) -> tuple[int, int]:
        """Return the grid of the last round."""
        return token_grid((size, size), self.config.shape)

    def taps(self, layers: Layers = "last") -> tuple[Tap, ...]:
        """Return taps on the tokens after the final norm, or after every block."""
        if layers != "last":
            return pooled(super().taps(layers))
        return pooled([sequence_tap(self.norm, "output", self.features, self.latest_grid)])


class TokensToToken(nn.Module):
    """Three rounds of unfolding, attention after the first two, (n, C, H, W) -> (n, D, h, w)."""

    def __init__(self, channels: int, shape: Shape, dropout: float) -> None:
        super().__init__()
        self.shape = shape
        first, second, third = (kernel**2 for kernel in shape.kernels)
        width = shape.token_width
        self.attention1 = Performer(channels * first, width, dropout)
        self.attention2 = Performer(width * second, width, dropout)
        self.project = nn.Linear(width * third, shape.width)

    def forward(self, x: Tensor) -> Tensor:
        """Return the map of the last round's tokens."""
        token_grid((x.shape[-2], x.shape[-1]), self.shape)
        for number, mix in enumerate((self.attention1, self.attention2, self.project)):
            kernel, stride = self.shape.kernels[number], self.shape.strides[number]
            grid = [unfolded(side, kernel, stride) for side in x.shape[-2:]]
            squares = F.unfold(x, kernel, padding=margin(kernel, stride), stride=stride)
            x = mix(squares.mT).mT.unflatten(2, grid)  # (n, d, T) -> (n, e, h, w)
        return x


class Performer(nn.Module):
    """One head of linear attention and an MLP, tokens (n, T, d) -> (n, T, e).

    Around the attention the shortcut is the value, as the input has another width.
    """

    w: Tensor

    def __init__(self, inputs: int, width: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(inputs, EPSILON)
        self.kqv = nn.Linear(inputs, 3 * width)
        self.proj = nn.Linear(width, width)
        self.drop = nn.Dropout(dropout)
        self.norm2 = nn.LayerNorm(width, EPSILON)
        self.mlp = nn.Sequential(
            nn.Linear(width, width), nn.GELU(), nn.Linear(width, width), nn.Dropout(dropout)
        )
        features = width // 2
        self.register_buffer("w", nn.init.orthogonal_(torch.empty(features, width)) * features**0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Return the mixed tokens."""
        key, query, value = self.kqv(self.norm1(x)).chunk(3, -1)  # (n, T, e) each
        mixed = linear_attention(query, key, value, self.w).to(value.dtype)
        x = value + self.drop(self.proj(mixed))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


def linear_attention(query: Tensor, key: Tensor, value: Tensor, w: Tensor) -> Tensor:
    """Return attention (n, T, e) whose weights are products of random features.

    It is computed in the type of w, also under autocast.

    The weight of a key for a query is phi(q) . phi(k), with positive features
    phi(z) = exp(z w^T - |z|^2 / 2) / sqrt(m); its mean over w is exp(q . k).

    Args:
        query: (n, T, e).
        key: (n, T, e).
        value: (n, T, e).
        w: random directions (m, e).
    """
    with torch.autocast(query.device.type, enabled=False):
        query, key, value = query.to(w.dtype), key.to(w.dtype), value.to(w.dtype)
        query, key = positive_features(query, w), positive_features(key, w)  # (n, T, m)
        context = key.mT @ value  # (n, m, e)
        total = query @ key.sum(1).unsqueeze(-1)  # (n, T, 1)
        return query @ context / (total + NO_ZERO)


def positive_features(x: Tensor, w: Tensor) -> Tensor:
    """Return phi(x), (n, T, e) -> (n, T, m), for random directions w (m, e)."""
    halves = x.square().sum(-1, keepdim=True) / 2  # (n, T, 1)
    return torch.exp(x @ w.mT - halves) / math.sqrt(len(w))


def sinusoid_table(positions: int, width: int) -> Tensor:
    """Return the fixed table (1, positions, width) of the first Transformer (NeurIPS 2017).

    Columns 2i and 2i + 1 are sine and cosine of position / 10000^(2i / width).
    """
    pair = torch.arange(width, dtype=torch.float64) // 2
    rates = 10000 ** (-2 * pair / width)
    angles = torch.arange(positions, dtype=torch.float64)[:, None] * rates  # (positions, width)
    table = torch.where(torch.arange(width) % 2 == 0, angles.sin(), angles.cos())
    return table.float()[None]


def margin(kernel: int, stride: int) -> int:
    """Return the zeros around a map that is unfolded: half of what neighbours share."""
    return (kernel - stride + 1) // 2


def unfolded(side: int, kernel: int, stride: int) -> int:
    """Return the number of squares along a side."""
    return (side + 2 * margin(kernel, stride) - kernel) // stride + 1


def token_grid(sides: tuple[int, int], shape: Shape) -> tuple[int, int]:
    """Return the grid (h, w) of the last round for images of these sides."""
    rows, columns = sides
    for kernel, stride in zip(shape.kernels, shape.strides, strict=True):
        rows, columns = unfolded(rows, kernel, stride), unfolded(columns, kernel, stride)
        if min(rows, columns) < 1:
            raise ConfigError(
                f"t2t with kernels {shape.kernels} and strides {shape.strides} leaves nothing of "
                f"images of {sides[0]} x {sides[1]} pixels; enlarge them or use smaller kernels"
            )
    return rows, columns

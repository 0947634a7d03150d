"""CvT-13 (Wu et al., ICCV 2021) in the form that dense relative localisation trains.

Three stages; each begins with a strided convolution, and its blocks attend over the whole map,
with queries, keys and values from separable convolutions, keys and values at half the resolution.
Unlike the authors' own model there is no class token, no final norm, and the channel norm adds
its epsilon to the standard deviation.

Letters in shapes: n images, D width of a stage, N = h x w cells, d width of a head.
"""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from timm.layers.drop import DropPath
from torch import Tensor, nn

from fsl.backbones import BACKBONES, BackboneConfig, Layers, Tap
from fsl.backbones.presets import put_over
from fsl.backbones.residual import MapBackbone
from fsl.backbones.taps import map_taps, pooled, stage_taps
from fsl.images import ImageSpec
from fsl.search_space import Uniform

EPSILON = 1e-5
Channels = Annotated[int, Field(ge=1, le=2048)]
Count = Annotated[int, Field(ge=1, le=64)]
Side = Annotated[int, Field(ge=1, le=32)]
Triple = tuple[int, int, int]


class Shape(NamedTuple):
    """What a size name stands for, by stage; `head_width` of all."""

    widths: Triple
    depths: Triple
    heads: Triple
    head_width: int
    kernels: Triple
    strides: Triple


SIZES = {
    "micro": Shape((32, 64, 96), (1, 1, 2), (1, 2, 3), 32, (3, 3, 3), (2, 2, 1)),
    "cvt13": Shape((64, 192, 384), (1, 2, 10), (1, 3, 6), 64, (7, 3, 3), (4, 2, 2)),
}


class CvTConfig(BackboneConfig):
    """Settings of `CvT`."""

    name: Literal["cvt"] = "cvt"
    size: Literal["micro", "cvt13"] = "cvt13"
    """Preset of widths, depths, heads, head width, kernels and strides: micro (8 x 8 cells at 32
    pixels) 32 64 96, 1 1 2, 1 2 3, 32, 3 3 3, 2 2 1; cvt13 64 192 384, 1 2 10, 1 3 6, 64, 7 3 3,
    4 2 2."""
    widths: tuple[Channels, Channels, Channels] | None = None
    """Channels of the three stages; default: the preset's."""
    depths: tuple[Count, Count, Count] | None = None
    """Blocks of the stages; default: the preset's."""
    heads: tuple[Count, Count, Count] | None = None
    """Attention heads per block of the stages; default: the preset's."""
    head_width: Annotated[int, Field(ge=1, le=512)] | None = None
    """Width of a head, whatever the stage's width; default: the preset's."""
    kernels: tuple[Side, Side, Side] | None = None
    """Sides of the convolutions that begin the stages; default: the preset's."""
    strides: tuple[Side, Side, Side] | None = None
    """Strides of these convolutions; default: the preset's."""
    mlp_ratio: Annotated[float, Field(gt=0, le=16)] = 4.0
    """Hidden width of a block's MLP, relative to the stage's width."""
    drop_path: Annotated[float, Field(ge=0, lt=1), Uniform(0.0, 0.3)] = 0.0
    """Stochastic depth: probability of skipping the last block; linear from 0 at the first."""

    @property
    def shape(self) -> Shape:
        """The preset with the explicit settings put over it."""
        return put_over(SIZES[self.size], self)


@BACKBONES.register("cvt")
class CvT(MapBackbone):
    """Convolutional vision transformer; features are the mean of the last map."""

    Config = CvTConfig

    def __init__(self, config: CvTConfig, images: ImageSpec) -> None:
        super().__init__(config, images)
        self.shape = shape = config.shape
        self.features = shape.widths[-1]
        inputs = (images.channels, *shape.widths)
        depth = sum(shape.depths)
        rates = iter(torch.linspace(0, config.drop_path, depth, device="cpu").tolist())
        stages = []
        for i, width in enumerate(shape.widths):
            kernel, stride, heads = shape.kernels[i], shape.strides[i], shape.heads[i]
            entry = nn.Conv2d(inputs[i], width, kernel, stride, kernel // 2)
            blocks = [
                Block(width, heads, shape.head_width, config.mlp_ratio, next(rates))
                for _ in range(shape.depths[i])
            ]
            stages.append(nn.Sequential(entry, ChannelNorm(width), *blocks))
        self.stages = nn.Sequential(*stages)

    def cells(self, images: Tensor) -> Tensor:
        """Return the last map (n, D, h, w)."""
        cells: Tensor = self.stages(images)
        return cells

    def grid(self, size: int) -> tuple[int, int]:
        """Return the cells of the last map; every stride rounds up."""
        for kernel, stride in zip(self.shape.kernels, self.shape.strides, strict=True):
            size = (size + 2 * (kernel // 2) - kernel) // stride + 1
        return size, size

    def taps(self, layers: Layers = "last") -> tuple[Tap, ...]:
        """Return taps on the last map, or on those after every stage or block."""
        if layers == "blocks":
            blocks = [block for block in self.modules() if isinstance(block, Block)]
            return pooled(map_taps(blocks, [block.width for block in blocks]))
        return pooled(stage_taps("cvt", layers, self.stages, self.shape.widths))


class ChannelNorm(nn.Module):
    """Layer norm over the channels of each cell, (n, D, h, w) -> (n, D, h, w).

    (x - mean) / (deviation + epsilon), where the usual one has the root of variance + epsilon.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised map."""
        values = x.to(self.weight.dtype)  # float32, also under autocast
        centred = values - values.mean(1, keepdim=True)
        # faster on a CPU than torch.var; a norm has a gradient where all channels are equal
        deviation = torch.linalg.vector_norm(centred, dim=1, keepdim=True) / len(self.weight) ** 0.5
        weight, bias = self.weight[:, None, None], self.bias[:, None, None]
        return torch.addcmul(bias, centred / (deviation + EPSILON), weight).to(x.dtype)


class Block(nn.Module):
    """Attention over the map, then an MLP in each cell, (n, D, h, w) -> (n, D, h, w)."""

    def __init__(
        self, width: int, heads: int, head_width: int, mlp_ratio: float, drop_path: float
    ) -> None:
        super().__init__()
        self.width = width
        hidden = int(width * mlp_ratio)
        self.norm1 = ChannelNorm(width)
        self.attention = Attention(width, heads, head_width)
        self.norm2 = ChannelNorm(width)
        self.mlp = nn.Sequential(
            nn.Conv2d(width, hidden, 1), nn.GELU(), nn.Conv2d(hidden, width, 1)
        )
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's map."""
        x = x + self.drop_path(self.attention(self.norm1(x)))
        out: Tensor = x + self.drop_path(self.mlp(self.norm2(x)))
        return out


class Attention(nn.Module):
    """Multi-head attention with convolutional projections, (n, D, h, w) -> (n, D, h, w)."""

    def __init__(self, width: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.head_width = head_width
        inner = heads * head_width
        self.query = separable(width, inner, 1)
        self.key_value = separable(width, 2 * inner, 2)
        self.out = nn.Conv2d(inner, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the mixed map; every cell attends to a grid of half the sides."""
        query = self._by_head(self.query(x))  # (n, heads, N, d)
        key, value = (self._by_head(part) for part in self.key_value(x).chunk(2, 1))
        mixed = F.scaled_dot_product_attention(query, key, value)
        out: Tensor = self.out(mixed.mT.reshape(len(x), -1, *x.shape[-2:]))
        return out

    def _by_head(self, x: Tensor) -> Tensor:
        """(n, heads * d, h, w) -> (n, heads, h * w, d)."""
        return x.reshape(len(x), -1, self.head_width, x.shape[-2] * x.shape[-1]).mT


def separable(width: int, outputs: int, stride: int) -> nn.Sequential:
    """Return a 3x3 convolution per channel, batch norm, and a 1x1 convolution."""
    return nn.Sequential(
        nn.Conv2d(width, width, 3, stride, 1, groups=width, bias=False),
        nn.BatchNorm2d(width),
        nn.Conv2d(width, outputs, 1, bias=False),
    )

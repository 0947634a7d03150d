"""Conv-4, the four-layer network of Matching and Prototypical Networks (NeurIPS 2016, 2017).

Four times convolution 3x3, batch norm, ReLU, max-pooling by 2. The cells of the last map also
serve as patch tokens, their mean as class token, so masked self-distillation runs on it: masked
cells are replaced by a learnable vector at an early stage, and the later convolutions see them.

Letters in shapes: n images, N = h x w cells, D width.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from fsl.backbones import BACKBONES, BackboneConfig, Layers, Tap, TokenBackbone, Tokens
from fsl.backbones.taps import stage_taps
from fsl.errors import ConfigError
from fsl.images import ImageSpec
from fsl.search_space import Choice

STAGES = 4
Channels = Annotated[int, Field(ge=1, le=2048)]


class Conv4Config(BackboneConfig):
    """Settings of `Conv4`."""

    name: Literal["conv4"] = "conv4"
    width: Annotated[int, Field(ge=1, le=2048), Choice(32, 64, 128)] = 64
    """Channels of every convolution."""
    widths: tuple[Channels, Channels, Channels, Channels] | None = None
    """Channels of each convolution, where they differ. A narrow first one halves the time of a
    training step: its map is the largest."""
    halvings: Annotated[int, Field(ge=1, le=STAGES)] = STAGES
    """Number of stages, from the first, that end in max-pooling. 3 leave a 4 x 4 grid of
    patches at 32 pixels."""
    pool: Literal["flatten", "mean"] = "flatten"
    """Features: all cells one after another (the papers' form), or their mean. Methods that use
    patch tokens need `mean`."""
    mask_stage: Annotated[int, Field(ge=0, le=STAGES - 1)] = 1
    """Number of stages before masked cells are replaced; 0 replaces pixels."""


@BACKBONES.register("conv4")
class Conv4(TokenBackbone):
    """Four convolutional stages."""

    Config = Conv4Config
    has_attention = False

    def __init__(self, config: Conv4Config, images: ImageSpec) -> None:
        super().__init__(config, images)
        self.pool, self.mask_stage = config.pool, config.mask_stage
        self.halvings = config.halvings
        self.has_patches = config.pool == "mean"
        self.widths = config.widths or (config.width,) * STAGES
        widths = [images.channels, *self.widths]
        self.stages = nn.Sequential(
            *(conv_stage(widths[i], widths[i + 1], i < config.halvings) for i in range(STAGES))
        )
        self.masked_embed = nn.Parameter(torch.zeros(1, widths[config.mask_stage]))
        rows, columns = self.grid(images.size)
        self.features = widths[-1] * (rows * columns if config.pool == "flatten" else 1)

    def forward(self, images: Tensor) -> Tensor:
        """Return features (n, D): cells in a row, or their mean."""
        if self.pool == "mean":
            return super().forward(images)
        features = self._cells(images, None).flatten(1)
        if features.shape[1] != self.features:
            raise ConfigError(
                f"conv4 with pool 'flatten' needs images of side {self.images.size}, "
                f"got {tuple(images.shape[-2:])}; `pool: mean` takes any size"
            )
        return features + 0 * self.masked_embed.sum()  # DDP waits for every gradient

    def tokens(
        self, images: Tensor, masks: Tensor | None = None, attention: bool = False
    ) -> Tokens:
        """Return the cells of the last map and their mean; there is no attention to return."""
        del attention
        if self.pool == "flatten":
            raise ConfigError("conv4 with pool 'flatten' has no patch tokens; set `pool: mean`")
        patches = self._cells(images, masks).flatten(2).mT  # (n, N, D)
        cls = patches.mean(1)
        return Tokens(
            cls if masks is not None else cls + 0 * self.masked_embed.sum(), patches, None
        )

    def _cells(self, images: Tensor, masks: Tensor | None) -> Tensor:
        """Return the last feature map (n, D, h, w)."""
        self.grid(min(images.shape[-2:]))
        x = images
        for number, stage in enumerate(self.stages):
            if masks is not None and number == self.mask_stage:
                x = replace_cells(x, masks, self.masked_embed)
            x = stage(x)
        return x

    def taps(self, layers: Layers = "last") -> tuple[Tap, ...]:
        """Return taps on the maps after every stage, or on the last."""
        return stage_taps("conv4", layers, self.stages, self.widths)

    def grid(self, size: int) -> tuple[int, int]:
        """Return the cells of the last map; every halving rounds down."""
        side = size >> self.halvings
        if not side:
            least = 1 << self.halvings
            raise ConfigError(f"conv4 needs images of at least {least} pixels, got {size}")
        return side, side


def conv_stage(inputs: int, outputs: int, halve: bool = True) -> nn.Sequential:
    """Return convolution 3x3, batch norm, ReLU and, to `halve`, max-pooling by 2."""
    layers = [
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),  # batch norm has the bias
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    ]
    return nn.Sequential(*layers, *([nn.MaxPool2d(2)] if halve else []))


def replace_cells(x: Tensor, masks: Tensor, vector: Tensor) -> Tensor:
    """Return feature maps (n, C, H, W) in which cells under a mask are `vector` (1, C).

    Args:
        x: feature maps.
        masks: (n, h, w) bool over a coarser grid; enlarged to H x W.
        vector: what stands in for a masked cell.
    """
    enlarged = F.interpolate(masks[:, None].to(torch.uint8), size=x.shape[-2:], mode="nearest")
    return torch.where(enlarged.bool(), vector.to(x.dtype)[..., None, None], x)

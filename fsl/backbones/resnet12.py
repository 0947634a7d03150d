"""ResNet-12, the usual residual network of few-shot learning (MetaOptNet, CVPR 2019; FEAT, 2020).

Four stages of one block: three times convolution 3x3, batch norm and leaky ReLU, the last ReLU
after the shortcut (convolution 1x1, batch norm) is added; then max-pooling by 2. With `drop_rate`
the first two stages end in dropout, the last two in DropBlock (Ghiasi, Lin, Le; NeurIPS 2018),
which drops squares, because single values can be guessed from their neighbours. The rate is
constant from the first step; MetaOptNet raises that of DropBlock over 40,000 steps.

Letters in shapes: n images, C channels, D width.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from fsl.backbones import BACKBONES, BackboneConfig, Layers, Tap
from fsl.backbones.residual import MapBackbone, Widths
from fsl.backbones.taps import stage_taps
from fsl.errors import ConfigError
from fsl.images import ImageSpec
from fsl.modules.episodic_norm import Norm, norm_layer
from fsl.search_space import Choice, Uniform

STAGES = 4
SLOPE = 0.1


class ResNet12Config(BackboneConfig):
    """Settings of `ResNet12`."""

    name: Literal["resnet12"] = "resnet12"
    widths: Widths = (64, 160, 320, 640)
    """Channels of the four stages."""
    halvings: Annotated[int, Field(ge=1, le=STAGES), Choice(3, 4)] = STAGES
    """Number of stages, from the first, that end in max-pooling. 3 leave a 4 x 4 grid of
    patches at 32 pixels."""
    drop_rate: Annotated[float, Field(ge=0, lt=1), Uniform(0.0, 0.3)] = 0.0
    """Share of each stage's output that is dropped in training. MetaOptNet has 0.1."""
    drop_block: Annotated[int, Field(ge=1, le=64)] = 5
    """Side of the squares dropped in the last two stages, at most that of the map; 1 is plain
    dropout."""
    norm: Norm = "batch"
    """Batch norm over the whole batch, or by the support images of each task."""


@BACKBONES.register("resnet12")
class ResNet12(MapBackbone):
    """Four residual stages of three convolutions; features are the mean of the last map."""

    Config = ResNet12Config

    def __init__(self, config: ResNet12Config, images: ImageSpec) -> None:
        super().__init__(config, images)
        self.halvings, self.widths = config.halvings, config.widths
        self.features = config.widths[-1]
        widths = (images.channels, *config.widths)
        self.stages = nn.Sequential(
            *(
                Stage(
                    widths[i],
                    widths[i + 1],
                    halve=i < config.halvings,
                    drop_rate=config.drop_rate,
                    drop_block=1 if i < STAGES // 2 else config.drop_block,
                    norm=config.norm,
                )
                for i in range(STAGES)
            )
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, SLOPE, "fan_out", "leaky_relu")
        self.grid(images.size)

    def cells(self, images: Tensor) -> Tensor:
        """Return the last map (n, D, h, w)."""
        self.grid(min(images.shape[-2:]))
        cells: Tensor = self.stages(images)
        return cells

    def taps(self, layers: Layers = "last") -> tuple[Tap, ...]:
        """Return taps on the maps after every stage, or on the last."""
        return stage_taps("resnet12", layers, self.stages, self.widths)

    def grid(self, size: int) -> tuple[int, int]:
        """Return the cells of the last map; every halving rounds down."""
        side = size >> self.halvings
        if not side:
            least = 1 << self.halvings
            raise ConfigError(
                f"resnet12 with halvings {self.halvings} needs images of at least {least} pixels, "
                f"got {size}; enlarge them or lower `halvings`"
            )
        return side, side


class Stage(nn.Module):
    """One residual block, max-pooling and dropout, (n, C, H, W) -> (n, D, H/2, W/2)."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        halve: bool,
        drop_rate: float,
        drop_block: int,
        norm: Norm,
    ) -> None:
        super().__init__()
        self.halve, self.drop_rate, self.drop_block = halve, drop_rate, drop_block
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),  # batch norm has the bias
            norm_layer(norm, outputs),
            nn.LeakyReLU(SLOPE, inplace=True),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            norm_layer(norm, outputs),
            nn.LeakyReLU(SLOPE, inplace=True),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            norm_layer(norm, outputs),
        )
        self.shortcut = nn.Sequential(
            nn.Conv2d(inputs, outputs, 1, bias=False), norm_layer(norm, outputs)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the stage's map."""
        x = F.leaky_relu(self.body(x) + self.shortcut(x), SLOPE, inplace=True)
        if self.halve:
            x = F.max_pool2d(x, 2)
        if not self.training or not self.drop_rate:
            return x
        if self.drop_block == 1:
            return F.dropout(x, self.drop_rate)
        return drop_squares(x, self.drop_rate, self.drop_block)


def drop_squares(x: Tensor, rate: float, side: int) -> Tensor:
    """Return DropBlock of x (n, C, H, W): whole squares inside of a map are zero.

    Squares begin with the probability that would drop a share `rate` if they never overlapped.
    What is left is scaled by the share that was kept, counted over all of x.
    """
    height, width = x.shape[-2:]
    tall, wide = min(side, height), min(side, width)
    places = (height - tall + 1, width - wide + 1)
    start = rate * height * width / (tall * wide * places[0] * places[1])
    corners = (torch.rand(*x.shape[:2], *places, device=x.device) < start).float()
    margins = (wide - 1, wide - 1, tall - 1, tall - 1)
    kept = 1 - F.max_pool2d(F.pad(corners, margins), (tall, wide), stride=1)  # (n, C, H, W)
    return x * (kept / kept.mean().clamp_min(1 / kept.numel())).to(x.dtype)

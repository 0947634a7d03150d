"""The ResNet-34 of CrossTransformers (Doersch, Gupta, Zisserman; NeurIPS 2020).

It differs from the common one: the last stage keeps its grid (14 x 14 at 224 pixels) and dilates
its convolutions instead, the first block of every stage has a convolution in its shortcut, batch
norm is episodic, and padding follows TensorFlow's rule, by which windows of stride 2 on even
sides have the extra row and column at the bottom and right.

Letters in shapes: n images, C channels, D width.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from fsl.backbones import BACKBONES, BackboneConfig, Layers, Tap
from fsl.backbones.residual import MapBackbone, Widths
from fsl.backbones.taps import stage_taps
from fsl.images import ImageSpec
from fsl.modules.episodic_norm import Norm, norm_layer
from fsl.search_space import Choice

Padding = Literal["same_tf", "torch"]
Depth = Annotated[int, Field(ge=1, le=64)]


class ResNet34CTXConfig(BackboneConfig):
    """Settings of `ResNet34CTX`."""

    name: Literal["resnet34_ctx"] = "resnet34_ctx"
    stride: Annotated[Literal[16, 32], Choice(16, 32)] = 16
    """Pixels per side of a cell. 16 dilates the last stage instead of halving its grid."""
    padding: Padding = "same_tf"
    """Where zeros are added at stride 2: TensorFlow's rule, which converted weights need, or
    alike on all sides."""
    norm: Norm = "episodic"
    """Batch norm by the support images of each task, or over the whole batch."""
    widths: Widths = (64, 128, 256, 512)
    """Channels of the four stages; the first convolution has those of the first."""
    blocks: tuple[Depth, Depth, Depth, Depth] = (3, 4, 6, 3)
    """Residual blocks of the four stages."""


@BACKBONES.register("resnet34_ctx")
class ResNet34CTX(MapBackbone):
    """Residual network with a fine grid; features are the mean of the last map."""

    Config = ResNet34CTXConfig

    def __init__(self, config: ResNet34CTXConfig, images: ImageSpec) -> None:
        super().__init__(config, images)
        self.stride, self.padding = config.stride, config.padding
        self.widths, self.features = config.widths, config.widths[-1]
        first = config.widths[0]
        self.stem = convolution(images.channels, first, 7, stride=2, padding=config.padding)
        self.stem_norm = norm_layer(config.norm, first)
        self.stages = nn.Sequential(*(self._stage(config, number) for number in range(4)))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.trunc_normal_(module.weight, std=0.1, a=-0.2, b=0.2)

    @staticmethod
    def _stage(config: ResNet34CTXConfig, number: int) -> nn.Sequential:
        widths = (config.widths[0], *config.widths)
        dilated = number == 3 and config.stride == 16
        stride = 1 if number == 0 or dilated else 2
        rate = 2 if dilated else 1
        first = BasicBlock(
            widths[number],
            widths[number + 1],
            stride=stride,
            rates=(1, rate),
            project=True,
            padding=config.padding,
            norm=config.norm,
        )
        width = widths[number + 1]
        later = (
            BasicBlock(width, width, rates=(rate, rate), padding=config.padding, norm=config.norm)
            for _ in range(config.blocks[number] - 1)
        )
        return nn.Sequential(first, *later)

    def cells(self, images: Tensor) -> Tensor:
        """Return the last map (n, D, h, w)."""
        x = F.relu(self.stem_norm(self.stem(images)), inplace=True)
        cells: Tensor = self.stages(halved(x, self.padding))
        return cells

    def taps(self, layers: Layers = "last") -> tuple[Tap, ...]:
        """Return taps on the maps after every stage, or on the last."""
        return stage_taps("resnet34_ctx", layers, self.stages, self.widths)

    def grid(self, size: int) -> tuple[int, int]:
        """Return the cells of the last map; every halving rounds up."""
        side = -(-size // self.stride)
        return side, side


class BasicBlock(nn.Module):
    """Two convolutions 3x3 and a shortcut, (n, C, H, W) -> (n, D, H/stride, W/stride).

    Args:
        inputs: C.
        outputs: D.
        stride: of the first convolution and the shortcut.
        rates: dilation of the two convolutions.
        project: the shortcut is a convolution 1x1 with batch norm, otherwise the input.
        padding: rule for stride 2.
        norm: kind of batch norm.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        stride: int = 1,
        rates: tuple[int, int] = (1, 1),
        project: bool = False,
        padding: Padding = "same_tf",
        norm: Norm = "episodic",
    ) -> None:
        super().__init__()
        self.conv1 = convolution(inputs, outputs, 3, stride=stride, rate=rates[0], padding=padding)
        self.norm1 = norm_layer(norm, outputs)
        self.conv2 = convolution(outputs, outputs, 3, rate=rates[1], padding=padding)
        self.norm2 = norm_layer(norm, outputs)
        self.shortcut: nn.Module = nn.Identity()
        if project:
            pointwise = convolution(inputs, outputs, 1, stride=stride, padding=padding)
            self.shortcut = nn.Sequential(pointwise, norm_layer(norm, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's map."""
        y = F.relu(self.norm1(self.conv1(x)), inplace=True)
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x), inplace=True)


class SameConv2d(nn.Conv2d):
    """Convolution padded by TensorFlow's rule "SAME": output side = side / stride, rounded up."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the map (n, D, H/stride, W/stride)."""
        top, bottom = self._margins(input, 0)
        left, right = self._margins(input, 1)
        if (top, left) == (bottom, right):  # odd sides: the convolution pads by itself
            return F.conv2d(input, self.weight, None, self.stride, (top, left))
        return F.conv2d(F.pad(input, (left, right, top, bottom)), self.weight, None, self.stride)

    def _margins(self, x: Tensor, axis: int) -> tuple[int, int]:
        side, kernel, stride = x.shape[2 + axis], self.kernel_size[axis], self.stride[axis]
        total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
        return total // 2, total - total // 2


def convolution(
    inputs: int, outputs: int, kernel: int, *, stride: int = 1, rate: int = 1, padding: Padding
) -> nn.Conv2d:
    """Return a convolution without bias; at stride 1 both rules of padding are one."""
    if padding == "same_tf" and stride > 1:
        return SameConv2d(inputs, outputs, kernel, stride, bias=False)
    return nn.Conv2d(
        inputs, outputs, kernel, stride, rate * (kernel // 2), dilation=rate, bias=False
    )


def halved(x: Tensor, padding: Padding) -> Tensor:
    """Return max-pooling 3x3 by 2, (n, C, H, W) -> (n, C, H/2, W/2), rounded up."""
    if padding == "torch":
        return F.max_pool2d(x, 3, 2, padding=1)
    height, width = x.shape[-2:]
    # Even sides have their one extra row and column at the end, odd ones one at either end.
    return F.max_pool2d(x, 3, 2, padding=(height % 2, width % 2), ceil_mode=True)

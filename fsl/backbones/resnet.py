"""Common residual networks (He et al., CVPR 2016), of timm's blocks.

10, 18 and 50 layers are for large images: a 7x7 convolution and max-pooling quarter the sides, then
four stages follow. 18 and 50 have torchvision's layout; 10 is the network of one block per stage
that work on long-tailed classes uses. 32 layers are for images of 32 pixels: three stages of five
blocks, whose shortcuts have no parameters.

Letters in shapes: n images, C channels, D width.
"""

from __future__ import annotations

from typing import Any, Literal

import torch.nn.functional as F
from timm.models import resnet as timm_resnet
from torch import Tensor, nn

from fsl.backbones import BACKBONES, BackboneConfig, Layers, Tap
from fsl.backbones.pretrained import Family, load_pretrained
from fsl.backbones.residual import MapBackbone
from fsl.backbones.taps import stage_taps
from fsl.images import ImageSpec

LARGE: dict[int, tuple[Any, tuple[int, ...]]] = {
    10: (timm_resnet.BasicBlock, (1, 1, 1, 1)),
    18: (timm_resnet.BasicBlock, (2, 2, 2, 2)),
    50: (timm_resnet.Bottleneck, (3, 4, 6, 3)),
}
LARGE_WIDTHS = (64, 128, 256, 512)
SMALL_WIDTHS = (16, 32, 64)
SMALL_BLOCKS = 5


class ResNetConfig(BackboneConfig):
    """Settings of `ResNet`."""

    name: Literal["resnet"] = "resnet"
    depth: Literal[10, 18, 32, 50] = 50
    """Number of layers. 32 is the network for images of 32 pixels and has a grid of 8 x 8 cells
    there; a cell of the others covers 32 x 32 pixels."""
    pretrained: str | None = None
    """Weights to start from: a timm model's name (downloaded when not in the local cache) or the
    path of a .safetensors, .pt or .pth file; null for random weights. timm has them for the
    depths 18 and 50."""


@BACKBONES.register("resnet")
class ResNet(MapBackbone):
    """Residual network; features are the mean of the last map."""

    Config = ResNetConfig

    def __init__(self, config: ResNetConfig, images: ImageSpec) -> None:
        super().__init__(config, images)
        small = config.depth == 32
        parts = (
            small_parts(images.channels) if small else large_parts(config.depth, images.channels)
        )
        for name, part in parts.items():  # directly here, so that parameters have timm's names
            self.add_module(name, part)
        self.stride = 4 if small else 32
        widths = SMALL_WIDTHS if small else LARGE_WIDTHS
        expansion = 1 if small else LARGE[config.depth][0].expansion
        self.widths = tuple(expansion * width for width in widths)
        self.features = self.widths[-1]
        if config.pretrained is not None:
            load_pretrained(self, config.pretrained, PUBLISHED)

    def cells(self, images: Tensor) -> Tensor:
        """Return the last map (n, D, h, w)."""
        x = images
        for part in self.children():
            x = part(x)
        return x

    def grid(self, size: int) -> tuple[int, int]:
        """Return the cells of the last map; every halving rounds up."""
        side = -(-size // self.stride)
        return side, side

    def taps(self, layers: Layers = "last") -> tuple[Tap, ...]:
        """Return taps on the maps after every stage, or on the last."""
        stages = [part for name, part in self.named_children() if name.startswith("layer")]
        return stage_taps("resnet", layers, stages, self.widths)


def large_parts(depth: int, channels: int) -> dict[str, nn.Module]:
    """Return the parts of a network for large images, in order, under timm's names."""
    block, blocks = LARGE[depth]
    # torchvision too begins with scales of 1 in the last norm of a block.
    network = timm_resnet.ResNet(block, blocks, 0, channels, zero_init_last=False)
    return {name: part for name, part in network.named_children() if name not in HEAD}


HEAD = ("global_pool", "fc")


def small_parts(channels: int) -> dict[str, nn.Module]:
    """Return the parts of the network for images of 32 pixels, in order, under timm's names."""
    first = SMALL_WIDTHS[0]
    parts: dict[str, nn.Module] = {
        "conv1": nn.Conv2d(channels, first, 3, padding=1, bias=False),
        "bn1": nn.BatchNorm2d(first),
        "act1": nn.ReLU(inplace=True),
    }
    inputs = first
    for number, width in enumerate(SMALL_WIDTHS, 1):
        parts[f"layer{number}"] = small_stage(inputs, width)
        inputs = width
    for part in parts.values():
        for module in part.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    return parts


def small_stage(inputs: int, width: int) -> nn.Sequential:
    """Return five blocks, (n, C, H, W) -> (n, D, H, W), or half of the sides if D is not C."""
    halve = width != inputs
    first = timm_resnet.BasicBlock(
        inputs, width, 2 if halve else 1, Shortcut(width - inputs) if halve else None
    )
    later = (timm_resnet.BasicBlock(width, width) for _ in range(SMALL_BLOCKS - 1))
    return nn.Sequential(first, *later)


class Shortcut(nn.Module):
    """Every second row and column, and channels of zeros; the paper's option A."""

    def __init__(self, extra: int) -> None:
        super().__init__()
        self.extra = extra

    def forward(self, x: Tensor) -> Tensor:
        """Return the smaller map, (n, C, H, W) -> (n, C + extra, H/2, W/2), rounded up."""
        before = self.extra // 2
        return F.pad(x[..., ::2, ::2], (0, 0, 0, 0, before, self.extra - before))


def other_layers(model: Any, backbone: ResNet) -> str:
    """Return what to say if layers without weights differ, which no shape tells (`resnetaa50`)."""
    own = {name: type(part).__name__ for name, part in backbone.named_modules()}
    for name, part in model.named_modules():
        kind = type(part).__name__
        bare = next(part.parameters(), None) is None
        if bare and not name.startswith(HEAD) and own.get(name) != kind:
            return (
                f"is another network: its {name} is {kind}, here it is {own.get(name, 'not there')}"
                "; use weights of timm's resnet18 or resnet50"
            )
    return ""


PUBLISHED = Family(
    title="ResNet",
    modules=frozenset({"resnet"}),
    names=("resnet18*", "resnet50*"),
    pixels="conv1.weight",
    settings="depth",
    complaint=other_layers,
)
"""What `pretrained` can be."""

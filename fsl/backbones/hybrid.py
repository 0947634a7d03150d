"""A small convolutional trunk under transformer blocks: what trains on little data and a CPU.

Convolutions with pooling (as in Conv-4) make a small grid of cells, for example 4x4 at 32
pixels, and a few transformer blocks mix them with a class token. Early convolutions make small
ViTs train faster and more stably (Xiao et al., NeurIPS 2021). Masked cells are replaced between
trunk and blocks; as convolutions overlap, a masked cell still shows a little in its neighbours.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator
from torch import Tensor, nn

from fsl.backbones import BACKBONES
from fsl.backbones.conv4 import conv_stage
from fsl.backbones.transformer import TransformerBackbone, TransformerConfig
from fsl.errors import ConfigError
from fsl.images import ImageSpec
from fsl.search_space import Choice, IntRange

StemWidth = Annotated[int, Field(ge=1, le=2048)]


class ConvViTConfig(TransformerConfig):
    """Settings of `ConvViT`."""

    name: Literal["conv_vit"] = "conv_vit"
    stem: Annotated[tuple[StemWidth, ...], Field(min_length=1, max_length=6)] = (32, 64, 128)
    """Channels of the convolutional stages; each halves the side of the image."""
    width: Annotated[int, Field(ge=8, le=4096), Choice(64, 128, 192)] = 128
    """Width of a token; a 1x1 convolution is added where the last stage has another."""
    depth: Annotated[int, Field(ge=1, le=64), IntRange(1, 6)] = 3
    """Number of transformer blocks."""
    heads: Annotated[int, Field(ge=1, le=64), Choice(2, 4, 8)] = 4
    """Attention heads per block; must divide the width."""
    mlp_ratio: Annotated[float, Field(gt=0, le=16)] = 2.0
    """Hidden width of a block's MLP, relative to the width."""

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        return self


@BACKBONES.register("conv_vit")
class ConvViT(TransformerBackbone):
    """Convolutional stages, then transformer blocks over their cells."""

    Config = ConvViTConfig

    def __init__(self, config: ConvViTConfig, images: ImageSpec) -> None:
        super().__init__(
            config,
            images,
            patches=stem_grid(images.size, len(config.stem)),
            width=config.width,
            depth=config.depth,
            heads=config.heads,
            mlp_ratio=config.mlp_ratio,
        )
        widths = (images.channels, *config.stem)
        stages: list[nn.Module] = [
            conv_stage(widths[i], widths[i + 1]) for i in range(len(config.stem))
        ]
        if config.stem[-1] != config.width:
            stages.append(nn.Conv2d(config.stem[-1], config.width, 1))
        self.halvings = len(config.stem)
        self.trunk = nn.Sequential(*stages)

    def embed_patches(self, images: Tensor) -> Tensor:
        """Return the trunk's feature map (n, D, h, w)."""
        self.grid(min(images.shape[-2:]))
        cells: Tensor = self.trunk(images)
        return cells

    def grid(self, size: int) -> tuple[int, int]:
        """Return the cells of the trunk's map; every stage halves the side, rounding down."""
        return stem_grid(size, self.halvings)


def stem_grid(size: int, halvings: int) -> tuple[int, int]:
    """Return the square grid after `halvings` poolings by 2; raises ConfigError at zero."""
    side = size >> halvings
    if not side:
        raise ConfigError(
            f"conv_vit with {halvings} stages needs images of at least {1 << halvings} pixels, "
            f"got {size}; use a shorter `stem`"
        )
    return side, side

"""Vision Transformer (Dosovitskiy et al., ICLR 2021) with masked patches, on timm's blocks.

The sizes are those of DeiT and DINO; `micro` and `nano` train on a CPU. Images of another size
than the recipe's (local crops, larger evaluation images) get interpolated positions.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple, Self

import torch
from pydantic import Field, model_validator
from timm.layers.patch_embed import PatchEmbed
from torch import Tensor

from fsl.backbones import BACKBONES
from fsl.backbones.presets import put_over
from fsl.backbones.pretrained import Family, load_pretrained
from fsl.backbones.transformer import TransformerBackbone, TransformerConfig, resize_matrix
from fsl.errors import ConfigError
from fsl.images import ImageSpec


class Shape(NamedTuple):
    """What a size name stands for."""

    width: int
    depth: int
    heads: int
    patch: int


SIZES = {
    "micro": Shape(64, 3, 2, 4),
    "nano": Shape(128, 6, 4, 4),
    "tiny": Shape(192, 12, 3, 16),
    "small": Shape(384, 12, 6, 16),
    "base": Shape(768, 12, 12, 16),
    "large": Shape(1024, 24, 16, 16),
}


class ViTConfig(TransformerConfig):
    """Settings of `ViT`."""

    name: Literal["vit"] = "vit"
    size: Literal["micro", "nano", "tiny", "small", "base", "large"] = "small"
    """Preset of width, depth, heads and patch: micro 64/3/2/4, nano 128/6/4/4, tiny 192/12/3/16,
    small 384/12/6/16, base 768/12/12/16, large 1024/24/16/16."""
    width: Annotated[int, Field(ge=8, le=4096)] | None = None
    """Width of a token; default: the preset's."""
    depth: Annotated[int, Field(ge=1, le=64)] | None = None
    """Number of blocks; default: the preset's."""
    heads: Annotated[int, Field(ge=1, le=64)] | None = None
    """Attention heads per block; must divide the width; default: the preset's."""
    patch: Annotated[int, Field(ge=1, le=64)] | None = None
    """Side of a patch in pixels; must divide the image size; default: the preset's."""
    pretrained: str | None = None
    """Weights to start from: a timm model's name (downloaded when not in the local cache) or the
    path of a .safetensors, .pt or .pth file; null for random weights. A file does not tell its
    number of heads: set that as it was."""

    @property
    def shape(self) -> Shape:
        """The preset with the explicit settings put over it."""
        return put_over(SIZES[self.size], self)

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> Self:
        if self.shape.width % self.shape.heads:
            raise ValueError(
                f"width {self.shape.width} is not a multiple of heads {self.shape.heads}"
            )
        return self


@BACKBONES.register("vit")
class ViT(TransformerBackbone):
    """Patches by a strided convolution, then transformer blocks."""

    Config = ViTConfig

    def __init__(self, config: ViTConfig, images: ImageSpec) -> None:
        width, depth, heads, patch = config.shape
        super().__init__(
            config,
            images,
            patches=patch_grid(images.size, patch),
            width=width,
            depth=depth,
            heads=heads,
        )
        self.patch = patch
        self.patch_embed = PatchEmbed(images.size, patch, images.channels, width)
        if config.pretrained is not None:
            load_pretrained(self, config.pretrained, PUBLISHED)

    def embed_patches(self, images: Tensor) -> Tensor:
        """Return the projected patches (n, D, h, w)."""
        for side in images.shape[-2:]:
            patch_grid(side, self.patch)
        cells: Tensor = self.patch_embed.proj(images)
        return cells

    def grid(self, size: int) -> tuple[int, int]:
        """Return the patch grid of square images of side `size`, a multiple of the patch side."""
        return patch_grid(size, self.patch)


def patch_grid(size: int, patch: int) -> tuple[int, int]:
    """Return (size / patch, size / patch); raises ConfigError unless it is whole."""
    if size < patch or size % patch:
        near = max(patch, round(size / patch) * patch)
        raise ConfigError(
            f"image size {size} is not a multiple of the ViT's patch side {patch}; "
            f"use size {near} or another `patch`"
        )
    return size // patch, size // patch


def with_our_grid(state: dict[str, Tensor], backbone: ViT) -> dict[str, Tensor]:
    """Return the weights with the position table resized to the backbone's grid."""
    table = state.get("pos_embed")
    if table is None or table.dim() != 3 or table.shape[1:] == backbone.pos_embed.shape[1:]:
        return state
    side = round((table.shape[1] - 1) ** 0.5)
    if side < 1 or side * side != table.shape[1] - 1:
        return state  # reported as a wrong shape
    resized = resize_matrix((side, side), backbone.patches).to(table.dtype) @ table[:, 1:]
    return {**state, "pos_embed": torch.cat([table[:, :1], resized], 1)}


def other_heads(model: Any, backbone: ViT) -> str:
    """Return what to say if the numbers of attention heads differ, which no shape tells."""
    heads, own = model.blocks[0].attn.num_heads, backbone.config.shape.heads
    return "" if heads == own else f"has {heads} attention heads there, {own} here; set `heads`"


PUBLISHED = Family(
    title="ViT",
    modules=frozenset({"vision_transformer", "deit"}),
    names=("vit_*", "deit_*"),
    pixels="patch_embed.proj.weight",
    settings="size, width, depth and patch",
    adapt=with_our_grid,
    complaint=other_heads,
)
"""What `pretrained` can be."""

"""Swin Transformer (Liu et al., ICCV 2021), timm's.

Attention stays inside of windows, which every second block shifts by half; between stages 2 x 2
cells become one of twice the width. There is no class token: the cells of the last map, after
the norm, are the patch tokens, their mean the features.

Letters in shapes: n images, D width, N = h x w cells.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import Field, model_validator
from timm.layers.pos_embed_rel import resize_rel_pos_bias_table_simple
from timm.models.swin_transformer import SwinTransformer
from torch import Tensor

from fsl.backbones import BACKBONES, BackboneConfig, Layers, Tap
from fsl.backbones.presets import put_over
from fsl.backbones.pretrained import Family, load_pretrained
from fsl.backbones.residual import MapBackbone
from fsl.backbones.taps import cells_of_channels_last, map_taps
from fsl.errors import ConfigError
from fsl.images import ImageSpec
from fsl.search_space import Uniform

Count = Annotated[int, Field(ge=1, le=64)]
MERGING = re.compile(r"layers\.(\d+)\.downsample")
PerStage = Annotated[tuple[Count, ...], Field(min_length=1, max_length=6)]


class Shape(NamedTuple):
    """What a size name stands for; depths and heads are those of the stages."""

    width: int
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    patch: int
    window: int


SIZES = {
    "micro": Shape(32, (1, 1, 2), (1, 2, 4), 2, 4),
    "tiny": Shape(96, (2, 2, 6, 2), (3, 6, 12, 24), 4, 7),
}


class SwinConfig(BackboneConfig):
    """Settings of `Swin`."""

    name: Literal["swin"] = "swin"
    size: Literal["micro", "tiny"] = "tiny"
    """Preset of width, depths, heads, patch and window: micro (4 x 4 cells at 32 pixels) 32, 1 1 2,
    1 2 4, 2, 4; tiny 96, 2 2 6 2, 3 6 12 24, 4, 7."""
    width: Annotated[int, Field(ge=1, le=2048)] | None = None
    """Channels of the first stage, each later one has twice as many; default: the preset's."""
    depths: PerStage | None = None
    """Number of blocks of each stage; default: the preset's."""
    heads: PerStage | None = None
    """Attention heads per block of each stage; must divide its width; default: the preset's."""
    patch: Annotated[int, Field(ge=1, le=64)] | None = None
    """Side of a patch in pixels; must divide the image size; default: the preset's."""
    window: Annotated[int, Field(ge=1, le=64)] | None = None
    """Side of a window in cells, at most the map's at the recipe's image size; default: the
    preset's."""
    drop_path: Annotated[float, Field(ge=0, lt=1), Uniform(0.0, 0.3)] = 0.2
    """Stochastic depth: probability of skipping the last block; linear from 0 at the first."""
    pretrained: str | None = None
    """Weights to start from: a timm model's name (downloaded when not in the local cache) or the
    path of a .safetensors, .pt or .pth file; null for random weights."""

    @property
    def shape(self) -> Shape:
        """The preset with the explicit settings put over it."""
        return put_over(SIZES[self.size], self)

    @model_validator(mode="after")
    def _heads_divide_the_widths(self) -> Self:
        width, depths, heads = self.shape[:3]
        if len(depths) != len(heads):
            raise ValueError(
                f"depths {depths} are of {len(depths)} stages, heads {heads} of {len(heads)}"
            )
        for stage, count in enumerate(heads):
            if (width << stage) % count:
                raise ValueError(
                    f"heads {count} of stage {stage + 1} do not divide its width {width << stage}"
                )
        return self


@BACKBONES.register("swin")
class Swin(MapBackbone):
    """Shifted windows over a pyramid of maps; features are the mean of the normed last map."""

    Config = SwinConfig

    def __init__(self, config: SwinConfig, images: ImageSpec) -> None:
        super().__init__(config, images)
        self.shape = shape = config.shape
        self.grid(images.size)
        network = SwinTransformer(
            images.size,
            shape.patch,
            images.channels,
            num_classes=0,
            embed_dim=shape.width,
            depths=shape.depths,
            num_heads=shape.heads,
            window_size=shape.window,
            strict_img_size=False,
            drop_path_rate=config.drop_path,
        )
        self.features = network.num_features
        # Without `network` around them, parameters have timm's names.
        self.patch_embed = network.patch_embed
        self.layers, self.norm = network.layers, network.norm
        if config.pretrained is not None:
            load_pretrained(self, config.pretrained, PUBLISHED)

    def cells(self, images: Tensor) -> Tensor:
        """Return the last map after the norm (n, D, h, w)."""
        for side in images.shape[-2:]:
            self.grid(side)
        cells: Tensor = self.norm(self.layers(self.patch_embed(images)))  # (n, h, w, D)
        return cells.permute(0, 3, 1, 2)

    def grid(self, size: int) -> tuple[int, int]:
        """Return the cells of the last map; each merging rounds up."""
        patch = self.shape.patch
        if size < patch or size % patch:
            near = max(patch, round(size / patch) * patch)
            raise ConfigError(
                f"image size {size} is not a multiple of Swin's patch side {patch}; "
                f"use size {near} or another `patch`"
            )
        side = -(-size // (patch << (len(self.shape.depths) - 1)))
        return side, side

    def taps(self, layers: Layers = "last") -> tuple[Tap, ...]:
        """Return taps on maps before the final norm.

        Those of the stages come after the merging of cells that belongs to the next stage here,
        as in the original: at 224 pixels the sides are 28, 14, 7 and 7.
        """
        stages: list[Any] = list(self.layers.children())
        widths = [self.shape.width << stage for stage in range(len(stages))]
        if layers == "blocks":
            blocks = [block for stage in stages for block in stage.blocks]
            of_blocks = [widths[i] for i, stage in enumerate(stages) for _ in stage.blocks]
            return map_taps(blocks, of_blocks, cells_of_channels_last)
        last = map_taps(stages[-1:], widths[-1:], cells_of_channels_last)
        if layers == "last":
            return last
        mergings = [stage.downsample for stage in stages[1:]]
        return (*map_taps(mergings, widths[1:], cells_of_channels_last), *last)


def with_our_names_and_windows(state: dict[str, Tensor], backbone: Swin) -> dict[str, Tensor]:
    """Return the weights under timm's names, with position tables for the backbone's windows.

    In files of the authors a merging belongs to the stage before it, and indices are stored.
    """
    own = backbone.state_dict()
    theirs = "layers.0.downsample.reduction.weight" in state
    adapted = {}
    for key, value in state.items():
        if key.endswith(("relative_position_index", "attn_mask")):
            continue
        name = MERGING.sub(one_later, key) if theirs else key
        is_table = name.endswith("relative_position_bias_table") and name in own
        adapted[name] = in_window(value, own[name]) if is_table else value
    return adapted


def one_later(match: re.Match[str]) -> str:
    """Return the name of the merging of the next stage."""
    return f"layers.{int(match[1]) + 1}.downsample"


def in_window(table: Tensor, own: Tensor) -> Tensor:
    """Return a table (cells, heads) of relative positions, resized to `own` if heads agree."""
    if table.shape == own.shape or table.shape[1:] != own.shape[1:]:
        return table  # the latter is reported as a wrong shape
    side = (round(len(own) ** 0.5) + 1) // 2  # of the window: the table has 2 side - 1 squared
    resized: Tensor = resize_rel_pos_bias_table_simple(table, (side, side), tuple(own.shape))
    return resized


PUBLISHED = Family(
    title="Swin",
    modules=frozenset({"swin_transformer"}),
    names=("swin_*",),
    pixels="patch_embed.proj.weight",
    settings="size, width, depths, heads, patch and window",
    adapt=with_our_names_and_windows,
)
"""What `pretrained` can be."""

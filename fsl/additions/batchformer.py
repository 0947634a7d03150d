"""BatchFormer (Hou, Yu, Tao; CVPR 2022): samples of a batch attend to each other in training.

One transformer encoder layer runs over the batch axis. Its output stands below the features as
further rows with the same labels, and the method learns from both with the same classifier, so
the layer can be left out when the method answers. BatchFormerV2 (Hou et al., 2022) does so inside
the network, at every token: from there on the batch has twice the rows.

Letters in shapes: N samples, L tokens, C width.
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import Annotated, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from fsl.additions import ADDITIONS, Addition, AdditionConfig
from fsl.additions.hooks import replace
from fsl.backbones import Tap, TokenBackbone
from fsl.backbones.taps import cells_of_map
from fsl.errors import ConfigError
from fsl.images import ImageSpec
from fsl.modules.batch_attention import BatchAttention, Scope
from fsl.search_space import Choice, IntRange, Uniform


class BatchFormerConfig(AdditionConfig):
    """Settings of `BatchFormer`; the defaults are those of the paper."""

    name: Literal["batchformer"] = "batchformer"
    heads: Annotated[int, Field(ge=1, le=64), Choice(1, 2, 4, 8)] = 4
    """Attention heads; must divide the width of the features."""
    layers: Annotated[int, Field(ge=1, le=32), IntRange(1, 4)] = 1
    """Encoder layers."""
    dropout: Annotated[float, Field(ge=0, lt=1), Uniform(0.0, 0.7)] = 0.5
    """Dropout in the layer, at four places."""
    share: Annotated[bool, Choice(False, True)] = True
    """Learn from plain and transformed features, with one classifier. False: from transformed ones
    only; the features that answer later were then never classified (for ablation)."""
    scope: Annotated[Scope, Choice("device", "global")] = "device"
    """Which samples attend to each other: those of one worker (and micro-batch), or of all
    workers."""
    loss_scale: Annotated[float, Field(gt=0, le=100), Choice(1.0, 3.0)] = 1.0
    """The method's loss is multiplied by this; the released long-tail code has 3 in effect."""
    after_blocks: Annotated[tuple[int, ...], Field(min_length=1, max_length=64)] | None = None
    """BatchFormerV2: after which blocks of the network, from 0, each with layers of its own. Null:
    on the final features. Published: [8] of DeiT's 12 on ImageNet."""
    frozen: bool = False
    """Do not train the layers, as happens in the released MoCo v3 code."""

    @field_validator("after_blocks")
    @classmethod
    def _rising(cls, value: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if value and (value[0] < 0 or any(b <= a for a, b in pairwise(value))):
            raise ValueError("number the blocks from 0, each once, in rising order")
        return value


@ADDITIONS.register("batchformer")
class BatchFormer(Addition):
    """Lets the samples of a batch attend to each other while the method trains."""

    Config = BatchFormerConfig
    adds_rows = True
    config: BatchFormerConfig

    def __init__(self, config: BatchFormerConfig, backbone: nn.Module, images: ImageSpec) -> None:
        super().__init__(config, backbone, images)
        self.scale, self.adds_rows_inside = config.loss_scale, config.after_blocks is not None
        if config.after_blocks is None:
            widths: list[int] = [backbone.features]  # type: ignore[list-item]
        else:
            taps = chosen_blocks(backbone, config.after_blocks)
            widths = [tap.features for tap in taps]
            for number, tap in enumerate(taps):
                replace(tap, partial(self._inside, number, tap.cells is cells_of_map))
        self.encoders = nn.ModuleList(
            BatchAttention(
                width,
                heads=config.heads,
                layers=config.layers,
                dropout=config.dropout,
                scope=config.scope,
            )
            for width in widths
        )
        if config.frozen:
            self.requires_grad_(False)

    def mix(self, features: Tensor) -> Tensor:
        """Return in training features (N, C) and below them the transformed ones, (2N, C).

        Without `share` only the transformed ones, (N, C); in evaluation the features.
        """
        if not self.training or self.config.after_blocks is not None:
            return features
        return self._joined(0, features)

    def _joined(self, number: int, rows: Tensor) -> Tensor:
        mixed = self._transformed(number, rows)
        return torch.cat([rows, mixed]) if self.config.share else mixed

    def _transformed(self, number: int, rows: Tensor) -> Tensor:
        """Return the rows after attention, in float32: large models diverge in less."""
        with torch.autocast(rows.device.type, enabled=False):
            mixed: Tensor = self.encoders[number](rows.float())
        return mixed.to(rows.dtype)

    def _inside(self, number: int, channels_first: bool, output: Tensor) -> Tensor:
        """Return a block's output (N, ..., C) as two streams, (2N, ..., C), in training."""
        if not self.training:
            return output
        rows = output.movedim(1, -1) if channels_first else output
        if number == 0:
            rows = self._joined(number, rows)
        elif self.config.share:  # the plain stream stays plain
            plain, mixed = rows.chunk(2)
            rows = torch.cat([plain, self._transformed(number, mixed)])
        else:
            rows = self._transformed(number, rows)
        return rows.movedim(-1, 1) if channels_first else rows


def chosen_blocks(backbone: nn.Module, numbers: tuple[int, ...]) -> list[Tap]:
    """Return the taps of these blocks.

    Raises:
        ConfigError: the backbone has no blocks of tokens, or fewer.
    """
    if not isinstance(backbone, TokenBackbone):
        raise ConfigError(
            f"additions.batchformer.after_blocks: {type(backbone).__name__} has no blocks of "
            "tokens; use vit, or leave after_blocks out"
        )
    try:
        taps = backbone.taps("blocks")
    except ConfigError:
        raise ConfigError(
            f"additions.batchformer.after_blocks: {type(backbone).__name__} does not tell its "
            "blocks; use vit or swin, or leave after_blocks out"
        ) from None
    if numbers[-1] >= len(taps):
        raise ConfigError(
            f"additions.batchformer.after_blocks: {list(numbers)}, but the network has the blocks "
            f"0 to {len(taps) - 1}"
        )
    return [taps[number] for number in numbers]

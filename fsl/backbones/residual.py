"""What the networks without class token share: the cells of the last map are the patch tokens.

Their mean is the class token. Masked patches are not supported.

Letters in shapes: n images, D width, N = h x w cells.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated

from pydantic import Field
from torch import Tensor

from fsl.backbones import TokenBackbone, Tokens
from fsl.errors import ConfigError

Channels = Annotated[int, Field(ge=1, le=2048)]
Widths = tuple[Channels, Channels, Channels, Channels]
"""Channels of the four stages."""


class MapBackbone(TokenBackbone):
    """A network whose last map is its tokens."""

    has_attention = False
    hides_patches = False

    @abstractmethod
    def cells(self, images: Tensor) -> Tensor:
        """Return the last map (n, D, h, w)."""

    def tokens(
        self, images: Tensor, masks: Tensor | None = None, attention: bool = False
    ) -> Tokens:
        """Return the mean of the last map and its cells; there is no attention to return."""
        del attention
        if masks is not None:
            raise ConfigError(
                f"backbone {self.config.name!r} cannot hide masked patches; for methods that mask "
                "use vit, conv_vit, or conv4 with `pool: mean`"
            )
        patches = self.cells(images).flatten(2).mT  # (n, N, D)
        return Tokens(patches.mean(1), patches, None)

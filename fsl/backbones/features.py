"""No network: the "images" are feature vectors, of one pixel with D channels each.

For methods that learn on top of a frozen network (AWGIM), from a table of its features.

Letters in shapes: n vectors, D features.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from fsl.backbones import BACKBONES, Backbone, BackboneConfig
from fsl.errors import ConfigError
from fsl.images import ImageSpec


class FeaturesConfig(BackboneConfig):
    """Settings of `Features`."""

    name: Literal["features"] = "features"
    size: Annotated[int, Field(ge=1, le=1 << 20)] | None = None
    """Length of a vector; null: that of the feature table."""


@BACKBONES.register("features")
class Features(Backbone):
    """Hands feature vectors on."""

    Config = FeaturesConfig

    def __init__(self, config: FeaturesConfig, images: ImageSpec) -> None:
        super().__init__(config, images)
        if config.size is None:
            raise ConfigError(
                "size: null stands for the length of the feature table's vectors, which a train "
                "stage fills in; outside of one set it, e.g. size: 640"
            )
        self.features = config.size

    def forward(self, images: Tensor) -> Tensor:
        """Return the vectors, (n, D, 1, 1) -> (n, D)."""
        if images.shape[1:] != (self.features, 1, 1):
            raise ConfigError(
                f"backbone features: got images of shape {tuple(images.shape[1:])}, not vectors of "
                f"length {self.features}; give the stage a feature table"
            )
        return images.flatten(1)

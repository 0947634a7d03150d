"""What the pixels are: colour mode and normalisation, named in the recipe.

The normalisation is never guessed from a path; it is part of the settings and of checkpoints.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from fsl.config import Section

Side = Annotated[int, Field(ge=8, le=1024)]

STATISTICS: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar_fs": (
        (129.37731888 / 255, 124.10583864 / 255, 112.47758569 / 255),
        (68.20947949 / 255, 65.43124043 / 255, 70.45866994 / 255),
    ),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
"""Mean and standard deviation per RGB channel of pixels in [0, 1]. `cifar_fs` (also FC100) are
the figures of the SMKD release."""


class ImageSpec(Section):
    """How decoded images look to a network."""

    mode: Literal["rgb", "grey"] = "rgb"
    """Three channels, or one."""
    normalisation: Literal["imagenet", "cifar_fs", "half"] = "imagenet"
    """Statistics subtracted and divided by, per channel. `grey` uses their mean over channels."""
    size: Side = 224
    """Side in pixels of evaluation images (after the centre crop)."""
    resize: Side | None = None
    """Side the shorter edge is resized to before the centre crop; default size * 8 / 7."""

    @property
    def channels(self) -> int:
        """1 or 3."""
        return 3 if self.mode == "rgb" else 1

    @property
    def resize_to(self) -> int:
        """The shorter edge before the centre crop."""
        return self.resize or round(self.size * 8 / 7)

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation, each (C,), of pixels in [0, 1]."""
        mean, std = (torch.tensor(values) for values in STATISTICS[self.normalisation])
        return (mean, std) if self.mode == "rgb" else (mean.mean()[None], std.mean()[None])


class ShownImages(Section):
    """Another size at which a trained network is shown images."""

    size: Side
    """Side in pixels (after the centre crop). A `vit` resizes its positions: e.g. 320 after
    training on 224."""
    resize: Side | None = None
    """Side the shorter edge is resized to before the centre crop; default size * 8 / 7."""

    def put_on(self, images: ImageSpec) -> ImageSpec:
        """Return how a network that was trained on `images` sees them at this size."""
        return images.model_copy(update={"size": self.size, "resize": self.resize})

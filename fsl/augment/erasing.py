"""Random erasing (Zhong et al., AAAI 2020): a rectangle of a view becomes noise.

Letters in shapes: V views, B images, C channels, S side of a view.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor

from fsl.augment.draws import Slot, Stream, hashed
from fsl.config import Section
from fsl.search_space import Uniform

Share = Annotated[float, Field(gt=0, le=1)]


class ErasingConfig(Section):
    """Settings of random erasing; the defaults are those of the DeiT and Swin recipes."""

    probability: Annotated[float, Field(ge=0, le=1), Uniform(0.0, 0.5)] = 0.25
    """How often a rectangle of a view is erased."""
    area: tuple[Share, Share] = (0.02, 1 / 3)
    """Range of the part of the view that the rectangle covers."""
    aspect: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (0.3, 3.3)
    """Range of its height / width; drawn on a log scale."""
    fill: Literal["noise", "mean"] = "noise"
    """`noise`: normal numbers in every pixel. `mean`: the mean of the normalisation."""

    @model_validator(mode="after")
    def _ranges_run_upwards(self) -> Self:
        for name in ("area", "aspect"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name}: the range [{low}, {high}] runs backwards; swap the two")
        return self


def erase_(
    views: Tensor, u: NDArray[np.float64], seeds: NDArray[np.uint64], config: ErasingConfig
) -> None:
    """Erase a rectangle of some views in place.

    Args:
        views: normalised (V, B, C, S, S).
        u: uniform numbers (B, V, PER_VIEW).
        seeds: of the images (B,); the noise depends on them.
        config: how often, and how large.
    """
    side = views.shape[-1]
    low, high = config.area
    area = (low + (high - low) * u[..., Slot.ERASE + 1]) * side**2
    narrow, wide = np.log(config.aspect[0]), np.log(config.aspect[1])
    aspect = np.exp(narrow + (wide - narrow) * u[..., Slot.ERASE + 2])
    heights = np.clip(np.sqrt(area * aspect).round(), 1, side).astype(int)
    widths = np.clip(np.sqrt(area / aspect).round(), 1, side).astype(int)
    tops = (u[..., Slot.ERASE + 3] * (side - heights + 1)).astype(int)
    lefts = (u[..., Slot.ERASE + 4] * (side - widths + 1)).astype(int)
    for image, view in np.argwhere(u[..., Slot.ERASE] < config.probability):
        top, left = tops[image, view], lefts[image, view]
        bottom, right = top + heights[image, view], left + widths[image, view]
        hole = views[view, image, :, top:bottom, left:right]
        if config.fill == "mean":
            hole.zero_()
        else:
            seed = hashed(seeds[image : image + 1], Stream.NOISE, np.array([view], np.uint64))
            hole.copy_(torch.randn(hole.shape, generator=generator(int(seed[0, 0]))))


def generator(seed: int) -> torch.Generator:
    """Return torch's generator of a 64-bit seed."""
    return torch.Generator().manual_seed(seed >> 1)

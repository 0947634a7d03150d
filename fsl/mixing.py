"""Mixup (Zhang et al., ICLR 2018) and CutMix (Yun et al., ICCV 2019) of a training batch.

Every image is mixed with that at the opposite place of the batch, all in the same proportion; their
labels are mixed alike. Drawn from torch's generator, which a training step seeds.

Letters in shapes: B images, C channels, H height, W width, K classes.
"""

from __future__ import annotations

from typing import Annotated, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from fsl.config import Section
from fsl.search_space import Uniform

Strength = Annotated[float, Field(ge=0, le=10), Uniform(0.0, 1.0)]


class MixingConfig(Section):
    """Settings of mixing; the defaults are those of the DeiT and Swin recipes."""

    mixup: Strength = 0.8
    """Parameter alpha of the Beta distribution of Mixup's proportion; 0 never mixes that way."""
    cutmix: Strength = 1.0
    """The same of CutMix."""
    probability: Annotated[float, Field(ge=0, le=1)] = 1.0
    """How often a batch is mixed at all."""
    switch: Annotated[float, Field(ge=0, le=1)] = 0.5
    """How often it is CutMix, where both have a strength."""

    @model_validator(mode="after")
    def _some_strength(self) -> Self:
        if not self.mixup and not self.cutmix:
            raise ValueError("mixup and cutmix are both 0, so nothing is mixed; remove the section")
        if "switch" in self.model_fields_set and not (self.mixup and self.cutmix):
            raise ValueError("switch: chooses between mixup and cutmix, and one is 0; remove it")
        return self


def mixed(images: Tensor, config: MixingConfig) -> tuple[Tensor, float]:
    """Return mixed images (B, C, H, W), and the share of each image's own label.

    The other share belongs to the label at the opposite place (`mixed_targets`).
    """
    draws = torch.rand(4).tolist()
    if draws[0] >= config.probability:
        return images, 1.0
    cut = config.cutmix > 0 and (not config.mixup or draws[1] < config.switch)
    alpha = config.cutmix if cut else config.mixup
    share = float(torch.distributions.Beta(alpha, alpha).sample())
    other = images.flip(0)
    if not cut:
        return images.lerp(other, 1 - share), share
    top, bottom = _span(images.shape[-2], share, draws[2])
    left, right = _span(images.shape[-1], share, draws[3])
    pasted = images.clone()
    pasted[..., top:bottom, left:right] = other[..., top:bottom, left:right]
    covered = (bottom - top) * (right - left) / (images.shape[-2] * images.shape[-1])
    return pasted, 1 - covered


def mixed_targets(labels: Tensor, classes: int, share: float) -> Tensor:
    """Return the probabilities (B, K) of labels (B,) after `mixed` told their share."""
    own = F.one_hot(labels, classes).float()
    return own.lerp(own.flip(0), 1 - share)


def _span(side: int, share: float, place: float) -> tuple[int, int]:
    """Return begin and end of the pasted square along an axis; its middle is anywhere."""
    half = side * (1 - share) ** 0.5 / 2
    middle = place * side
    return max(0, round(middle - half)), min(side, round(middle + half))

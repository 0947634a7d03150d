"""RandAugment (Cubuk et al., NeurIPS 2020): some of fifteen changes of an image, timm's.

timm draws from the generators of Python and NumPy; here they are seeded per view and put back, so
that a view is a function of its seed alone.

Letters in shapes: V views, C channels, S side of a view.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Annotated, Any

import numpy as np
import torch
from PIL import Image
from pydantic import Field
from timm.data.auto_augment import (
    RandAugment,
    posterize,
    rand_augment_choices,
    rand_augment_ops,
)
from torch import Tensor

from fsl.config import Section
from fsl.search_space import IntRange, Uniform

COLOURS = 3
WORD = 1 << 32


class RandAugmentConfig(Section):
    """Settings of RandAugment; the defaults are `rand-m9-mstd0.5-inc1`, as in DeiT and Swin."""

    magnitude: Annotated[float, Field(ge=0, le=10), Uniform(3.0, 10.0)] = 9.0
    """Strength of a change, of 10."""
    spread: Annotated[float, Field(ge=0, le=10)] = 0.5
    """Standard deviation of the strength."""
    changes: Annotated[int, Field(ge=1, le=8), IntRange(1, 4)] = 2
    """Changes of a view; each is left out every second time."""
    increasing: bool = True
    """A larger magnitude is a stronger change, for all of them."""


def rand_augmented(
    views: Tensor, seeds: Sequence[int], config: RandAugmentConfig, mean: Tensor
) -> Tensor:
    """Return changed views, float32 (V, C, S, S) of 0..255.

    Args:
        views: of one image, of 0..255; grey ones are changed as colour images of equal channels.
        seeds: one per view.
        config: what changes.
        mean: of the normalisation (C,) in [0, 1]; fills what comes into view from outside.
    """
    fill = tuple(round(255 * value) for value in mean.tolist())
    change = changer(config, fill if len(fill) == COLOURS else fill * COLOURS)
    channels = views.shape[1]
    done = torch.empty_like(views)
    for number, seed in enumerate(seeds):
        pixels = views[number].round().clamp(0, 255).to(torch.uint8).expand(COLOURS, -1, -1)
        image = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
        with seeded(seed):
            changed = np.asarray(change(image))
        done[number] = torch.from_numpy(changed.copy()).permute(2, 0, 1)[:channels]
    return done


@lru_cache(maxsize=8)
def changer(config: RandAugmentConfig, fill: tuple[int, ...]) -> Any:
    """Return timm's transform of a PIL image."""
    kinds = rand_augment_choices("default", increasing=config.increasing)
    strength = {"magnitude_std": config.spread, "img_mean": fill}
    changes = rand_augment_ops(config.magnitude, 0.5, strength, kinds)
    for change in changes:
        if change.aug_fn is posterize:
            change.aug_fn = posterized
    return RandAugment(changes, config.changes)  # type: ignore[no-untyped-call]


def posterized(image: Image.Image, bits: int, **settings: Any) -> Image.Image:
    """Keep one bit where timm asks for none, which Pillow now refuses (and was a black image)."""
    done: Image.Image = posterize(image, max(bits, 1), **settings)  # type: ignore[no-untyped-call]
    return done


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the generators of Python and NumPy, and put both back."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        random.seed(seed)
        np.random.seed(seed % WORD)
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)

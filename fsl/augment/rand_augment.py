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
from timm.data.auto_augment import rand_augment_transform
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
    text = (
        f"rand-m{config.magnitude:g}-n{config.changes}-mstd{config.spread:g}"
        f"-inc{int(config.increasing)}"
    )
    return rand_augment_transform(text, {"translate_const": 100, "img_mean": fill})


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

"""Block-wise patch masks (BEiT style): which patches of a view the student does not see.

A mask is a function of its seed. Cells are bits of one integer, so an attempt costs a few integer
operations; a generator seeded and consumed in the published order gives the published masks.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable
from functools import lru_cache
from typing import Annotated, Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from fsl.config import Section

ATTEMPTS = 10
"""Tries to place a block before a mask is left as it is."""


class BlockMaskConfig(Section):
    """Settings of the patch masks of global views."""

    ratios: tuple[Annotated[float, Field(ge=0, lt=1)], ...] = (0.0, 0.3)
    """One entry is chosen per view, equally likely: half of the views stay unmasked."""
    spreads: tuple[Annotated[float, Field(ge=0, lt=1)], ...] = (0.0, 0.2)
    """The entry's ratio is drawn within this distance of it."""
    shape: Literal["block", "rand"] = "block"
    """Rectangles, or single patches anywhere."""
    min_aspect: Annotated[float, Field(gt=0, le=1)] = 0.3
    """Smallest height to width ratio of a block; the largest is its inverse."""
    start_epoch: Annotated[int, Field(ge=0)] = 0
    """First epoch with masks."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not self.ratios or len(self.ratios) != len(self.spreads):
            raise ValueError(
                f"ratios and spreads need one entry each per choice, got {len(self.ratios)} and "
                f"{len(self.spreads)}"
            )
        for ratio, spread in zip(self.ratios, self.spreads, strict=True):
            if spread > ratio or ratio + spread > 1:
                raise ValueError(f"ratio {ratio} ± {spread} leaves [0, 1]; lower the spread")
        return self


def block_masks(
    seeds: Iterable[int], height: int, width: int, config: BlockMaskConfig, epoch: int | None = None
) -> Tensor:
    """Return one mask per seed, bool (n, height, width), True = hidden.

    Args:
        seeds: one integer per image and view; equal seeds give equal masks.
        height: rows of the patch grid.
        width: columns of the patch grid.
        config: shape and sizes.
        epoch: current epoch; before `config.start_epoch` nothing is masked. None = started.
    """
    if epoch is not None and epoch < config.start_epoch:
        return torch.zeros(len(list(seeds)), height, width, dtype=torch.bool)
    cells = [draw_mask(random.Random(int(seed)), height, width, config) for seed in seeds]
    count = height * width
    size = -(-count // 8)
    packed = np.frombuffer(b"".join(mask.to_bytes(size, "little") for mask in cells), np.uint8)
    bits = np.unpackbits(packed.reshape(len(cells), size), axis=1, bitorder="little")
    return torch.from_numpy(bits[:, :count].astype(bool)).view(-1, height, width)


def draw_mask(rng: random.Random, height: int, width: int, config: BlockMaskConfig) -> int:
    """Return one mask, cell (y, x) as bit y * width + x, drawing from `rng`."""
    target = _draw_ratio(rng, config) * height * width
    if config.shape == "rand":
        return sum(1 << cell for cell in rng.sample(range(height * width), int(target)))
    log_aspect = -math.log(config.min_aspect)
    mask = count = 0
    while count < target:
        block = _place_block(rng, mask, target - count, (height, width), log_aspect)
        if not block:
            break
        mask |= block
        count = mask.bit_count()
    return mask


def _draw_ratio(rng: random.Random, config: BlockMaskConfig) -> float:
    drawn = [
        rng.uniform(ratio - spread, ratio + spread) if spread > 0 else ratio
        for ratio, spread in zip(config.ratios, config.spreads, strict=True)
    ]
    return rng.choice(drawn) if len(drawn) > 1 else drawn[0]


def _place_block(
    rng: random.Random,
    mask: int,
    remaining: float,
    grid: tuple[int, int],
    log_aspect: float,
) -> int:
    """Return the bits of a block that covers 1 to `remaining` new cells, or 0 after ten tries."""
    height, width = grid
    lowest = (min(grid) // 3) ** 2
    for _ in range(ATTEMPTS):
        # With little left the interval is reversed, not clamped, as published.
        area = rng.uniform(lowest, remaining)
        aspect = math.exp(rng.uniform(-log_aspect, log_aspect))
        rows, columns = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if rows >= height or columns >= width:
            continue
        top, left = rng.randint(0, height - rows), rng.randint(0, width - columns)
        block = _rectangle(rows, columns, width) << (top * width + left)
        if 0 < (block & ~mask).bit_count() <= remaining:
            return block
    return 0


@lru_cache(maxsize=4096)
def _rectangle(rows: int, columns: int, width: int) -> int:
    """Return the bits of a rectangle in the corner (0, 0)."""
    row = (1 << columns) - 1
    return sum(row << (y * width) for y in range(rows))

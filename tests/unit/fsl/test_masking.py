"""Masks are functions of their seeds; see tests/parity for what they look like."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from fsl.config import build
from fsl.errors import ConfigError
from fsl.masking import BlockMaskConfig, block_masks

SHAPES = pytest.mark.parametrize("shape", ["block", "rand"])


@SHAPES
def test_a_mask_depends_on_its_own_seed_only(shape: str) -> None:
    config = BlockMaskConfig(shape=shape)
    seeds = [2**62 + 5, 17, 3, 17]
    masks = block_masks(seeds, 14, 14, config)
    assert masks.shape == (4, 14, 14)
    assert masks.dtype == torch.bool
    assert torch.equal(masks[1], masks[3])
    assert torch.equal(block_masks(seeds[2:3], 14, 14, config)[0], masks[2])
    assert len({tuple(m.flatten().tolist()) for m in block_masks(range(100), 14, 14, config)}) > 40


@SHAPES
def test_the_global_generator_is_left_alone(shape: str) -> None:
    random.seed(3)
    state, torch_state = random.getstate(), torch.random.get_rng_state()
    block_masks(range(20), 8, 8, BlockMaskConfig(shape=shape))
    assert random.getstate() == state
    assert torch.equal(torch.random.get_rng_state(), torch_state)


def test_nothing_is_masked_before_the_start_epoch() -> None:
    config = BlockMaskConfig(ratios=(0.3,), spreads=(0.0,), start_epoch=2)
    assert not block_masks(range(5), 8, 8, config, epoch=1).any()
    assert block_masks(range(5), 8, 8, config, epoch=2).flatten(1).any(1).all()


@pytest.mark.parametrize("grid", [(3, 5), (4, 4), (14, 14), (1, 7)])
@SHAPES
def test_the_drawn_ratio_is_never_exceeded(shape: str, grid: tuple[int, int]) -> None:
    config = BlockMaskConfig(ratios=(0.5,), spreads=(0.0,), shape=shape)
    masks = block_masks(range(200), *grid, config)
    assert masks.shape == (200, *grid)
    assert masks.flatten(1).sum(1).max() <= 0.5 * grid[0] * grid[1]


def test_no_views_give_no_masks() -> None:
    assert block_masks([], 4, 4, BlockMaskConfig()).shape == (0, 4, 4)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"ratios": [0.3]}, "one entry each"),
        ({"ratios": [], "spreads": []}, "one entry each"),
        ({"ratios": [0.1, 0.9], "spreads": [0.2, 0.0]}, "leaves"),
        ({"shape": "blok"}, "shape"),
        ({"min_aspect": 0}, "min_aspect"),
    ],
)
def test_impossible_settings_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(BlockMaskConfig, values)

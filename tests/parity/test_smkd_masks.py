"""Masks: bit for bit in the published draw order, and the statistics of 20,000 seeded draws."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fsl.masking import BlockMaskConfig, block_masks, draw_mask

if TYPE_CHECKING:
    Archive = Any

DRAWS = 20_000
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
SETTINGS = pytest.mark.parametrize("setting", range(5))


def settings(archive: Archive, number: int) -> tuple[BlockMaskConfig, int, int]:
    key = f"cfg{number}_"
    config = BlockMaskConfig(
        ratios=tuple(np.atleast_1d(archive.array(key + "ratio")).tolist()),
        spreads=tuple(np.atleast_1d(archive.array(key + "var")).tolist()),
        shape=str(archive.array(key + "shape")),
    )
    height, width = archive.array(key + "grid").tolist()
    return config, height, width


def components(mask: np.ndarray) -> int:
    """Number of 4-connected components."""
    open_cells = set(zip(*np.nonzero(mask), strict=True))
    found = 0
    while open_cells:
        found += 1
        stack = [open_cells.pop()]
        while stack:
            y, x = stack.pop()
            near = {(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)} & open_cells
            open_cells -= near
            stack += near
    return found


@SETTINGS
@pytest.mark.archive("smkd.masks")
def test_published_draw_order_gives_the_published_masks(archive: Archive, setting: int) -> None:
    config, height, width = settings(archive, setting)
    if config.shape == "rand":
        pytest.skip("the published `rand` shape draws from numpy's global generator")
    expected = archive.array(f"cfg{setting}_first_masks")
    rng = random.Random(archive.integer(f"cfg{setting}_seed"))
    for mask in expected:
        bits = draw_mask(rng, height, width, config)
        cells = [bool(bits >> cell & 1) for cell in range(height * width)]
        assert np.array_equal(np.reshape(cells, (height, width)), mask)


@SETTINGS
@pytest.mark.archive("smkd.masks")
def test_seeded_masks_have_the_published_statistics(archive: Archive, setting: int) -> None:
    config, height, width = settings(archive, setting)
    masks: Tensor = block_masks(range(DRAWS), height, width, config)
    key = f"cfg{setting}_"
    ratio = masks.flatten(1).double().mean(1)
    assert ratio.mean().item() == pytest.approx(archive.number(key + "mean_ratio"), abs=0.005)
    unmasked = (ratio == 0).double().mean().item()
    assert unmasked == pytest.approx(archive.number(key + "frac_unmasked"), abs=0.015)
    quantiles = ratio[ratio > 0].quantile(torch.tensor(QUANTILES).double())
    tolerance = max(0.015, 1.001 / (height * width))  # ratios are whole cells
    torch.testing.assert_close(quantiles, archive[key + "q"], atol=tolerance, rtol=0)
    frequency = masks.double().mean(0)
    centre = frequency[height // 2, width // 2].item()
    assert centre == pytest.approx(archive.number(key + "centre_freq"), abs=0.02)
    assert frequency[0, 0].item() == pytest.approx(archive.number(key + "corner_freq"), abs=0.02)
    expected_map = archive[key + "freq_map"].double()
    torch.testing.assert_close(frequency, expected_map, atol=0.025, rtol=0)
    counted = [components(mask) for mask in masks[ratio > 0][:2000].numpy()]
    tolerance = 0.08 if config.shape == "block" else 0.4  # 24 components, sampled
    assert np.mean(counted) == pytest.approx(archive.number(key + "mean_components"), abs=tolerance)

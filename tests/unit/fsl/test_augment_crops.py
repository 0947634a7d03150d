"""Random-resized boxes, random numbers, cutting, and warps."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms import RandomResizedCrop

from fsl.augment.affine import stroke_powers, view_transforms, warp_views
from fsl.augment.config import AffineJitter
from fsl.augment.crops import Boxes, channels_last, crop_boxes, cut_views
from fsl.augment.draws import Slot, as_seeds, derived_seeds, uniforms

ASPECT = (3 / 4, 4 / 3)


def boxes_of(height: int, width: int, count: int, scale: tuple[float, float]) -> Boxes:
    u = uniforms(np.arange(count, dtype=np.uint64), 1, 1)
    sizes = np.full(count, height), np.full(count, width)
    return crop_boxes(*sizes, u, scale, ASPECT)


@pytest.mark.parametrize("scale", [(0.4, 1.0), (0.05, 0.4), (0.3, 0.3)])
def test_crops_cover_the_set_part_of_the_image_evenly(scale: tuple[float, float]) -> None:
    boxes = boxes_of(400, 400, 4000, scale)
    share = boxes.height * boxes.width / 400**2
    assert share.min() > scale[0] - 0.01
    assert share.max() < scale[1] + 0.01
    torch.manual_seed(0)
    image = torch.empty(3, 400, 400)
    theirs = [RandomResizedCrop.get_params(image, list(scale), list(ASPECT)) for _ in range(2000)]
    expected = np.mean([height * width for _, _, height, width in theirs]) / 400**2
    assert share.mean() == pytest.approx(expected, rel=0.03)
    ratio = boxes.width / boxes.height
    assert np.log(ratio).mean() == pytest.approx(0, abs=0.02)
    assert 0.7 < ratio.min() < ratio.max() < 1.4


@pytest.mark.parametrize(("height", "width"), [(1, 1000), (1000, 1), (1, 1), (375, 500), (7, 3)])
def test_crops_lie_inside_images_of_any_shape(height: int, width: int) -> None:
    boxes = boxes_of(height, width, 300, (0.05, 1.0))
    for table in boxes[:2]:
        assert table.min() >= 0
    for table in boxes[2:]:
        assert table.min() >= 1
    assert (boxes.top + boxes.height).max() <= height
    assert (boxes.left + boxes.width).max() <= width


def test_an_image_too_long_for_any_attempt_gives_its_central_crop() -> None:
    boxes = boxes_of(1, 1000, 50, (0.4, 1.0))
    assert set(boxes.width.ravel()) == {1}
    assert set(boxes.left.ravel()) == {(1000 - 1) // 2}


def test_random_numbers_are_uniform_uncorrelated_and_differ_by_stream() -> None:
    u = uniforms(np.arange(3000, dtype=np.uint64), 1, 2)
    assert u.shape == (3000, 2, 64)
    assert 0 <= u.min() < u.max() < 1
    np.testing.assert_allclose(u.mean((0, 1)), 0.5, atol=0.03)
    np.testing.assert_allclose(u.std((0, 1)), np.sqrt(1 / 12), atol=0.02)
    correlation = np.corrcoef(u.reshape(3000, -1).T) - np.eye(128)
    assert np.abs(correlation).max() < 0.1
    other = uniforms(np.arange(3000, dtype=np.uint64), 2, 2)
    assert abs(np.corrcoef(u.ravel(), other.ravel())[0, 1]) < 0.01


def test_seeds_up_to_63_bits_are_taken_and_derived_ones_fit_too() -> None:
    seeds = as_seeds([0, 1, 2**63 - 1])
    children = derived_seeds(seeds, 3, 4)
    assert len(set(children.ravel().tolist())) == 12
    assert children.max() < 2**63


def test_more_views_leave_the_numbers_of_the_first_ones_alone() -> None:
    seeds = np.arange(5, dtype=np.uint64)
    np.testing.assert_array_equal(uniforms(seeds, 1, 3), uniforms(seeds, 1, 7)[:, :3])


def noise(height: int, width: int, channels: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (channels, height, width), generator=generator).byte()


def test_a_cut_view_is_pillows_resized_crop_up_to_one_level() -> None:
    image = noise(90, 120)
    u = uniforms(np.arange(1, dtype=np.uint64), 1, 6)
    boxes = crop_boxes(np.array([90]), np.array([120]), u, (0.05, 1.0), ASPECT)
    flips = u[..., Slot.FLIP] < 0.5
    assert flips.any()
    assert not flips.all()
    views = cut_views(channels_last(image), boxes, 0, flips, 32)
    for view in range(6):
        top, left, height, width = (int(table[0, view]) for table in boxes)
        crop = image[:, top : top + height, left : left + width].permute(1, 2, 0).numpy()
        scaled = Image.fromarray(crop).resize((32, 32), Image.Resampling.BICUBIC)
        expected = torch.from_numpy(np.array(scaled)).permute(2, 0, 1)
        expected = expected.flip(-1) if flips[0, view] else expected
        assert (views[view] - expected.float()).abs().max() <= 1


def warp(
    image: torch.Tensor, jitter: AffineJitter, u: NDArray[np.float64], flip: bool = False
) -> torch.Tensor:
    """Return the warp of the whole image, (C, S, S)."""
    height, width = image.shape[-2:]
    whole = Boxes(*(np.full((1, 1), value) for value in (0, 0, height, width)))
    maps = view_transforms(whole, np.full((1, 1), flip), u, jitter, (height, width))
    return warp_views(image[None].float(), maps, height)[0, 0]


def test_a_warp_without_jitter_of_the_whole_image_is_the_image() -> None:
    image, u = noise(28, 28, 1), uniforms(np.zeros(1, dtype=np.uint64), 1, 1)
    torch.testing.assert_close(warp(image, AffineJitter(), u), image.float(), atol=0.02, rtol=0)
    torch.testing.assert_close(
        warp(image, AffineJitter(), u, flip=True), image.flip(-1).float(), atol=0.02, rtol=0
    )


def test_a_full_rotation_draw_turns_the_view_by_the_set_angle() -> None:
    image, u = noise(16, 16, 1), np.full((1, 1, 64), 0.5)
    u[..., Slot.ROTATION] = 0.0  # the far end: minus the largest angle
    turned = warp(image, AffineJitter(rotation=90), u)
    expected = torch.rot90(image, 1, (1, 2)).float()
    other = torch.rot90(image, -1, (1, 2)).float()
    nearest = min((turned - expected).abs().max(), (turned - other).abs().max())
    assert nearest < 0.02


def test_translation_moves_by_a_part_of_the_crop_and_repeats_the_edge() -> None:
    image, u = noise(16, 16, 1), np.full((1, 1, 64), 0.5)
    u[..., Slot.SHIFT] = 1.0  # along x, to the far end
    moved = warp(image, AffineJitter(translate=0.25), u)
    torch.testing.assert_close(moved[..., :12], image[..., 4:].float(), atol=0.02, rtol=0)
    edge = image[..., -1:].float().expand(-1, -1, 4)
    torch.testing.assert_close(moved[..., 12:], edge, atol=0.02, rtol=0)


def test_stroke_powers_span_the_set_range_evenly_on_a_log_scale() -> None:
    u = uniforms(np.arange(4000, dtype=np.uint64), 1, 1)
    powers = stroke_powers(u, AffineJitter(stroke=3))
    assert 1 / 3 <= powers.min() < 0.36
    assert 2.8 < powers.max() <= 3
    assert np.log(powers).mean() == pytest.approx(0, abs=0.04)
    quartiles = np.quantile(np.log(powers), [0, 0.25, 0.5, 0.75, 1])
    for low, high in pairwise(quartiles):
        assert high - low == pytest.approx(np.log(3) / 2, abs=0.06)

from __future__ import annotations

import colorsys
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fsl.augment import simclr_ops
from fsl.augment.simclr_ops import blur_taps, blurred, enlarged_crops

WITH_STRENGTH = [
    simclr_ops.brightened,
    simclr_ops.contrasted,
    simclr_ops.saturated,
    simclr_ops.hue_turned,
]


def through_hsv(image: Tensor, factor: float, turn: float) -> Tensor:
    """Pixel after pixel with the standard library."""
    pixels = []
    for red, green, blue in image.flatten(1).T.tolist():
        hue, saturation, value = colorsys.rgb_to_hsv(red, green, blue)
        changed = (hue + turn) % 1, min(1.0, saturation * factor), value
        pixels.append(colorsys.hsv_to_rgb(*changed))
    return torch.tensor(pixels).T.reshape(image.shape)


def test_saturation_and_hue_act_in_hsv() -> None:
    images = torch.rand(3, 3, 5, 4)
    images[0, :, 0, 0], images[0, :, 0, 1] = 0.0, 0.5  # black and grey have no hue
    factors, turns = torch.tensor([0.3, 1.0, 1.7]), torch.tensor([-0.2, 0.05, 0.19])
    saturated, turned = simclr_ops.saturated(images, factors), simclr_ops.hue_turned(images, turns)
    for row, image in enumerate(images):
        torch.testing.assert_close(saturated[row], through_hsv(image, float(factors[row]), 0.0))
        torch.testing.assert_close(turned[row], through_hsv(image, 1.0, float(turns[row])))


def test_saturation_is_at_most_one_and_black_stays_without_colour() -> None:
    images = torch.tensor([[0.8, 0.4, 0.2], [-0.1, -0.2, -0.3]]).reshape(2, 3, 1, 1)
    changed = simclr_ops.saturated(images, torch.tensor([100.0, 100.0]))
    torch.testing.assert_close(changed[0].flatten(), torch.tensor([0.8, 0.8 - 0.4 * 4 / 3, 0.0]))
    torch.testing.assert_close(changed[1].flatten(), torch.full((3,), -0.1))


def test_contrast_is_about_the_mean_of_each_channel() -> None:
    images = torch.rand(2, 3, 6, 6)
    changed = simclr_ops.contrasted(images, torch.tensor([0.5, 1.5]))
    torch.testing.assert_close(changed.mean((-2, -1)), images.mean((-2, -1)))
    deviations = images.std((-2, -1)) * torch.tensor([[0.5], [1.5]])
    torch.testing.assert_close(changed.std((-2, -1)), deviations)


def test_grey_is_the_luma_in_every_channel() -> None:
    images = torch.rand(2, 3, 4, 4)
    grey = simclr_ops.greyed(images)
    expected = 0.2989 * images[:, 0] + 0.587 * images[:, 1] + 0.114 * images[:, 2]
    for channel in range(3):
        torch.testing.assert_close(grey[:, channel], expected)


def test_colour_operations_leave_grey_images_as_they_are() -> None:
    images, strength = torch.rand(2, 1, 4, 4), torch.tensor([0.5, 0.7])
    assert torch.equal(simclr_ops.saturated(images, strength), images)
    assert torch.equal(simclr_ops.hue_turned(images, strength), images)
    assert torch.equal(simclr_ops.greyed(images), images)


@pytest.mark.parametrize("operation", WITH_STRENGTH)
def test_each_image_has_its_own_strength(operation: Callable[[Tensor, Tensor], Tensor]) -> None:
    images, strength = torch.rand(3, 3, 6, 6), torch.tensor([0.1, 0.4, 0.9])
    whole = operation(images, strength)
    assert not torch.allclose(whole, images)
    for row in range(3):
        alone = operation(images[row : row + 1], strength[row : row + 1])
        torch.testing.assert_close(whole[row], alone[0])


@pytest.mark.parametrize(("height", "taps"), [(224, 23), (84, 9), (32, 3), (28, 3), (16, 1)])
def test_the_blur_has_a_tenth_as_many_taps_as_the_view_has_pixels(height: int, taps: int) -> None:
    assert blur_taps(height) == taps


def test_blur_is_a_convolution_with_black_outside() -> None:
    images, sigma = torch.rand(2, 3, 12, 9), torch.tensor([0.6, 1.9])
    actual = blurred(images, sigma, 5)
    for row in range(2):
        line = torch.exp(-torch.arange(-2.0, 3.0).square() / (2 * sigma[row] ** 2))
        kernel = line[:, None] * line / line.sum() ** 2
        expected = F.conv2d(images[row, :, None], kernel[None, None], padding=2)[:, 0]
        torch.testing.assert_close(actual[row], expected)
    assert blurred(torch.ones(1, 1, 9, 9), torch.tensor([2.0]), 5)[0, 0, 0, 0] < 0.6


def test_a_crop_of_the_whole_image_at_its_own_size_is_the_image() -> None:
    images = torch.rand(2, 3, 8, 8)
    same = enlarged_crops(images, torch.zeros(2, 2).long(), torch.full((2, 2), 8), 8)
    torch.testing.assert_close(same, images)


def test_enlarged_crops_pass_through_their_pixels_and_see_nothing_outside() -> None:
    images = torch.rand(2, 3, 10, 12)
    starts, lengths = torch.tensor([[1, 2], [5, 0]]), torch.tensor([[4, 8], [4, 4]])
    crops = enlarged_crops(images, starts, lengths, 8)
    torch.testing.assert_close(crops[0, :, ::2], images[0, :, 1:5, 2:10])
    torch.testing.assert_close(crops[1, :, ::2, ::2], images[1, :, 5:9, 0:4])
    outside = images.clone()
    outside[0, :, 5:], outside[0, :, :1], outside[0, :, :, 10:] = 7.0, 7.0, 7.0
    assert torch.equal(enlarged_crops(outside, starts, lengths, 8)[0], crops[0])


def test_enlarging_an_even_image_leaves_it_even() -> None:
    image = torch.full((1, 1, 6, 6), 0.4)
    large = enlarged_crops(image, torch.zeros(1, 2).long(), torch.full((1, 2), 6), 17)
    torch.testing.assert_close(large, torch.full((1, 1, 17, 17), 0.4))

"""Fused colours against torchvision's chain, blur against Pillow's, solarisation, normalisation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as TF
from PIL import Image, ImageFilter
from torch import Tensor

from fsl.augment.config import ColourJitter, SingleViewConfig
from fsl.augment.draws import PER_VIEW, Slot, uniforms
from fsl.augment.photometric import (
    LUMA,
    Photometrics,
    blur_rows,
    colour_maps,
    hue_rotation,
    mix_channels,
)
from fsl.images import ImageSpec

DRAWS = 60


def smooth_picture(side: int = 48) -> Tensor:
    """Return a smooth picture in [0, 1], about as colourful as photographs, (1, 3, side, side)."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(1, 3, side // 8, side // 8, generator=generator)
    noise = 0.7 * noise.mean(1, keepdim=True) + 0.3 * noise
    return torch.nn.functional.interpolate(noise, size=(side, side), mode="bicubic").clamp(0, 1)


def fused(picture: Tensor, jitter: ColourJitter, number: int, grayscale: float = 0.0) -> Tensor:
    u = uniforms(np.arange(DRAWS, dtype=np.uint64), 1, 1)[number : number + 1]
    own, of_mean = (
        torch.from_numpy(maps[0]).float() for maps in colour_maps(u, jitter, grayscale, 3)
    )
    bias = (of_mean * picture.mean((-1, -2))[:, None]).sum(-1)
    return mix_channels(picture, own, bias).clamp(0, 1)


def chained(picture: Tensor, jitter: ColourJitter, number: int) -> Tensor:
    """Return the picture after torchvision's steps, with the same factors and order."""
    u = uniforms(np.arange(DRAWS, dtype=np.uint64), 1, 1)[number, 0]
    signed = 2 * u[Slot.FACTORS : Slot.FACTORS + 4] - 1
    factors = [
        1 + jitter.brightness * signed[0],
        1 + jitter.contrast * signed[1],
        1 + jitter.saturation * signed[2],
        jitter.hue * signed[3],
    ]
    steps = (TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation, TF.adjust_hue)
    for step in u[Slot.ORDER : Slot.ORDER + 4].argsort():
        picture = steps[step](picture, float(factors[step]))
    return picture


@pytest.mark.parametrize(("hue", "bound"), [(0.0, 0.004), (0.1, 0.02)])
def test_fused_colours_stay_close_to_torchvisions_chain(hue: float, bound: float) -> None:
    # The trials of this design saw 0.001 and, because YIQ keeps luma and HSV does not, 0.021 on
    # photographs. The more saturated the picture, the more the two kinds of hue differ.
    picture, jitter = smooth_picture(), ColourJitter(probability=1, hue=hue)
    differences = [
        (fused(picture, jitter, n) - chained(picture, jitter, n)).abs().mean().item()
        for n in range(DRAWS)
    ]
    assert np.mean(differences) < bound


def test_the_hue_turns_the_same_way_as_torchvisions() -> None:
    picture = smooth_picture()
    none = torch.zeros(1, 3)

    def turned(turn: float) -> Tensor:
        maps = torch.from_numpy(hue_rotation(np.array([turn]))).float()
        return mix_channels(picture, maps, none).clamp(0, 1)

    expected = TF.adjust_hue(picture, 0.08)
    right, wrong = ((turned(t) - expected).abs().mean() for t in (0.08, -0.08))
    assert right < 0.6 * wrong


def test_a_turned_hue_keeps_the_luma_and_greys() -> None:
    maps = hue_rotation(np.linspace(-0.5, 0.5, 7))
    np.testing.assert_allclose(LUMA @ maps, np.broadcast_to(LUMA, (7, 3)), atol=1e-5)
    np.testing.assert_allclose(maps @ np.ones(3), np.ones((7, 3)), atol=1e-5)


def test_a_grayscale_view_is_the_luma_of_the_picture() -> None:
    picture = smooth_picture()
    grey = fused(picture, ColourJitter(probability=0), 0, grayscale=1.0)
    expected = (picture * torch.tensor(LUMA).float()[:, None, None]).sum(1, keepdim=True)
    torch.testing.assert_close(grey, expected.expand(-1, 3, -1, -1))


def test_a_grey_image_takes_brightness_and_contrast_only() -> None:
    u = uniforms(np.arange(DRAWS, dtype=np.uint64), 1, 1)
    plain = ColourJitter(probability=1, brightness=0, contrast=0, saturation=1, hue=0.5)
    own, of_mean = colour_maps(u, plain, 1.0, 1)
    assert (own == 1).all()
    assert (of_mean == 0).all()
    own, of_mean = colour_maps(u, ColourJitter(probability=1, brightness=0), 0.0, 1)
    np.testing.assert_allclose(own + of_mean, 1)  # contrast leaves the mean where it is
    assert own.std() > 0.1


def test_colours_are_jittered_and_drained_as_often_as_set() -> None:
    u = uniforms(np.arange(4000, dtype=np.uint64), 1, 1)
    own, _ = colour_maps(u, ColourJitter(probability=0.8), 0.0, 3)
    changed = np.abs(own - np.eye(3)).max((-1, -2)) > 1e-9
    assert changed.mean() == pytest.approx(0.8, abs=0.03)
    own, _ = colour_maps(u, ColourJitter(probability=0), 0.2, 3)
    assert (np.ptp(own, axis=-2).max(-1) < 1e-12).mean() == pytest.approx(0.2, abs=0.03)


@pytest.mark.parametrize("sigma", [0.3, 1.0, 2.0])
def test_blur_matches_pillows_within_a_grey_level_or_so(sigma: float) -> None:
    pixels = (smooth_picture() * 255).round()
    array = pixels[0].permute(1, 2, 0).numpy().astype(np.uint8)
    expected = np.asarray(Image.fromarray(array).filter(ImageFilter.GaussianBlur(sigma)))
    blurred = pixels.clone()
    blur_rows(blurred, np.array([sigma]))
    difference = blurred[0].permute(1, 2, 0).numpy() - expected
    assert np.abs(difference).mean() / 255 < 0.004


def test_blur_keeps_constants_and_leaves_other_rows_alone() -> None:
    pixels = torch.rand(5, 1, 9, 3, generator=torch.Generator().manual_seed(1))
    pixels[2] = 0.25
    before = pixels.clone()
    blur_rows(pixels, np.array([0.0, 2.0, 1.9, 0.0, 0.4]))
    assert torch.equal(pixels[[0, 3]], before[[0, 3]])
    torch.testing.assert_close(pixels[2], before[2])
    assert not torch.equal(pixels[1], before[1])
    assert not torch.equal(pixels[4], before[4])


def view_of(levels: Tensor, settings: SingleViewConfig) -> Tensor:
    """Return grey levels after the photometric part, back on the scale of 0..255."""
    mean, std = ImageSpec(mode="grey").statistics()
    u = uniforms(np.zeros(1, dtype=np.uint64), 1, 1)
    assert u.shape == (1, 1, PER_VIEW)
    drawn = Photometrics.draw(u, settings, settings.kind(levels.shape[-1]), mean, std)
    out = torch.empty_like(levels)
    drawn.apply(levels.clone(), 0, out)
    return (out * std + mean) * 255


def test_solarising_inverts_levels_from_the_threshold_on() -> None:
    levels = torch.arange(256, dtype=torch.float32).view(1, 1, 16, 16)
    off = ColourJitter(probability=0)
    solarised = view_of(levels, SingleViewConfig(jitter=off, solarize=1, solarize_threshold=128))
    expected = torch.where(levels >= 128, 255 - levels, levels)
    torch.testing.assert_close(solarised, expected, atol=1e-3, rtol=0)


def test_pixels_are_clamped_to_black_and_white() -> None:
    levels = torch.arange(256, dtype=torch.float32).view(1, 1, 16, 16)
    bright = ColourJitter(probability=1, brightness=1, contrast=1)
    changed = view_of(levels, SingleViewConfig(jitter=bright))
    assert changed.min() > -1e-3
    assert changed.max() < 255 + 1e-3

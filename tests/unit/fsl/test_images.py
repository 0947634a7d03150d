"""ImageSpec: channels, resize rule, statistics."""

from __future__ import annotations

import pytest
import torch

from fsl.config import build
from fsl.errors import ConfigError
from fsl.images import ImageSpec


def test_evaluation_resizes_by_eight_sevenths() -> None:
    assert ImageSpec().resize_to == 256
    assert ImageSpec(size=84).resize_to == 96
    assert ImageSpec(size=320, resize=360).resize_to == 360


def test_imagenet_statistics_are_the_usual_ones() -> None:
    mean, std = ImageSpec().statistics()
    torch.testing.assert_close(mean, torch.tensor([0.485, 0.456, 0.406]))
    torch.testing.assert_close(std, torch.tensor([0.229, 0.224, 0.225]))


def test_grey_images_have_one_channel_with_the_mean_statistics() -> None:
    spec = ImageSpec(mode="grey")
    mean, std = spec.statistics()
    assert spec.channels == 1
    torch.testing.assert_close(mean, torch.tensor([0.449]))
    torch.testing.assert_close(std, torch.tensor([0.226]))


@pytest.mark.parametrize("name", ["imagenet", "cifar_fs", "half"])
def test_statistics_are_those_of_pixels_between_0_and_1(name: str) -> None:
    mean, std = build(ImageSpec, {"normalisation": name}).statistics()
    for values in (mean, std):
        assert values.shape == (3,)
        assert bool(((values > 0.1) & (values < 0.6)).all())


@pytest.mark.parametrize(
    ("key", "value"), [("size", 4), ("size", 2048), ("mode", "cmyk"), ("normalisation", "none")]
)
def test_values_out_of_range_are_refused(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"^{key}: Input should be"):
        build(ImageSpec, {key: value})

"""SimCLR episodes: which image stands where, and the image operations."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

from fsl.augment import simclr_ops
from fsl.augment.simclr_episodes import query_sources

if TYPE_CHECKING:
    Archive = Any

OPERATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "brightness_additive": simclr_ops.brightened,
    "contrast": simclr_ops.contrasted,
    "saturation": simclr_ops.saturated,
    "hue": simclr_ops.hue_turned,
}


@pytest.mark.archive("ctx.simclr_relabel")
def test_support_images_become_classes_and_queries(archive: Archive) -> None:
    support, query = archive["in/support_label"], archive["in/query_label"]
    ways = int(support.max()) + 1
    sources = query_sources(support, query, ways)
    assert torch.equal(sources, archive["out/query_source_support_index"])
    assert torch.equal(sources, archive["out/query_label"].long())
    places = torch.arange(len(support))
    assert torch.equal(places, archive["out/support_source_index"])
    assert torch.equal(places, archive["out/support_label"].long())
    offset = archive.integer("cfg/class_id_offset")
    assert torch.equal(support[sources] + offset, archive["out/query_class_id"].long())


@pytest.mark.archive("ctx.simclr_aug_ops")
def test_colour_operations(archive: Archive) -> None:
    image, done = channel_first(archive["in/image"]), 0
    for name, operation in OPERATIONS.items():
        for value, expected in archive.under(f"out/{name}/").items():
            close(operation(image, torch.tensor([float(value)])), expected, name)
            done += 1
    close(simclr_ops.greyed(image), archive["out/grayscale"], "grayscale")
    assert done > 0


@pytest.mark.archive("ctx.simclr_aug_ops")
def test_blur(archive: Archive) -> None:
    image, cases = channel_first(archive["in/image"]), archive.under("out/blur/")
    for name, expected in cases.items():  # "k5_sigma0.7": 5 is a tenth of the image's height
        kernel, sigma = name.removeprefix("k").split("_sigma")
        taps = simclr_ops.blur_taps(10 * int(kernel))
        close(simclr_ops.blurred(image, torch.tensor([float(sigma)]), taps), expected, name)
    assert cases


@pytest.mark.archive("ctx.simclr_aug_ops")
def test_bicubic_crop(archive: Archive) -> None:
    # TensorFlow looks its weights up in a table of 1024 places: a coarser tolerance.
    image, box = channel_first(archive["in/image"]), archive["cfg/crop_y_x_h_w"]
    expected = archive["out/crop_bicubic"]
    crop = simclr_ops.enlarged_crops(image, box[None, :2], box[None, 2:], len(expected))
    torch.testing.assert_close(channel_last(crop), expected, rtol=0, atol=1e-3)


def channel_first(image: Tensor) -> Tensor:
    return image.permute(2, 0, 1)[None]


def channel_last(images: Tensor) -> Tensor:
    return images[0].permute(1, 2, 0)


def close(actual: Tensor, expected: Tensor, name: str) -> None:
    actual = channel_last(actual)
    torch.testing.assert_close(actual, expected, rtol=0, atol=2e-5, msg=lambda m: f"{name}: {m}")

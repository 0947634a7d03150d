"""Decoding: the pixels Pillow sees, the channels asked for, the place in every error."""

from __future__ import annotations

import io
from typing import Literal

import numpy as np
import pytest
import torch
from PIL import Image

from data_shards import decode
from data_shards.decode import decode_image, image_size
from fsl.errors import ShardError

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 10, 3), dtype=np.uint8)
RGB = Image.fromarray(PIXELS)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


IMAGES = {
    "png": encoded(RGB, "PNG"),
    "grey png": encoded(RGB.convert("L"), "PNG"),
    "1-bit png": encoded(RGB.convert("1"), "PNG"),
    "palette png": encoded(RGB.quantize(8), "PNG"),
    "transparent png": encoded(RGB.convert("RGBA"), "PNG"),
    "grey and transparent png": encoded(RGB.convert("LA"), "PNG"),
    "jpeg": encoded(RGB, "JPEG"),
    "grey jpeg": encoded(RGB.convert("L"), "JPEG"),
    "cmyk jpeg": encoded(RGB.convert("CMYK"), "JPEG"),
    "gif": encoded(RGB, "GIF"),
    "webp": encoded(RGB, "WEBP", lossless=True),
    "bmp": encoded(RGB, "BMP"),
    "tiff": encoded(RGB, "TIFF"),
}


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("mode", ["rgb", "grey"])
def test_pixels_equal_those_of_pillow(name: str, mode: Literal["rgb", "grey"]) -> None:
    with Image.open(io.BytesIO(IMAGES[name])) as image:
        expected = np.asarray(image.convert("RGB" if mode == "rgb" else "L"))
    channels = 3 if mode == "rgb" else 1
    pixels = decode_image(IMAGES[name], mode, "here")
    assert pixels.dtype == torch.uint8
    assert pixels.shape == (channels, 12, 10)
    assert pixels.permute(1, 2, 0).is_contiguous()
    shaped = torch.from_numpy(expected.reshape(12, 10, channels).copy()).permute(2, 0, 1)
    # grey from a coloured file is luma by two roundings of the same formula
    tolerance = 0 if mode == "rgb" else 5 if name == "jpeg" else 1
    assert (pixels.int() - shaped.int()).abs().max() <= tolerance


@pytest.mark.parametrize("name", ["png", "jpeg", "grey jpeg"])
def test_pillow_stands_in_when_torchvision_has_no_decoder(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = decode_image(IMAGES[name], "rgb", "here")
    monkeypatch.setattr(decode, "HAS_OPERATOR", False)
    assert torch.equal(decode_image(IMAGES[name], "rgb", "here"), expected)


@pytest.mark.parametrize("mode", ["rgb", "grey"])
def test_16_bit_grey_is_scaled_not_clipped(mode: Literal["rgb", "grey"]) -> None:
    wide = np.arange(120, dtype=np.uint16).reshape(12, 10) * 512
    data = encoded(Image.fromarray(wide), "PNG")
    pixels = decode_image(data, mode, "here")
    assert pixels.dtype == torch.uint8
    assert torch.equal(pixels[0], torch.from_numpy((wide >> 8).astype(np.uint8)))


def test_the_first_picture_of_an_animation_is_taken() -> None:
    data = encoded(RGB, "GIF", save_all=True, append_images=[RGB.rotate(180)])
    assert torch.equal(decode_image(data, "rgb", ""), decode_image(IMAGES["gif"], "rgb", ""))


@pytest.mark.parametrize("mode", ["rgb", "grey"])
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no image",
        bytes(300),
        IMAGES["jpeg"][:100],
        IMAGES["jpeg"][:-60],
        IMAGES["png"][:30],
        IMAGES["png"][:-100],
        IMAGES["bmp"][:-50],
        IMAGES["png"][:60] + bytes(90) + IMAGES["png"][150:],
    ],
    ids=[
        "empty",
        "text",
        "zeros",
        "jpeg header",
        "truncated jpeg",
        "png header",
        "truncated png",
        "truncated bmp",
        "zeroed stretch",
    ],
)
def test_damaged_bytes_name_the_place(data: bytes, mode: Literal["rgb", "grey"]) -> None:
    with pytest.raises(ShardError, match=rf"a\.tar: sample 'k': not a readable .*{len(data)} byt"):
        decode_image(data, mode, "a.tar: sample 'k'")


def test_an_image_that_would_fill_the_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ShardError, match="here: not a readable image"):
        decode_image(IMAGES["bmp"], "rgb", "here")


def test_the_size_is_width_and_height() -> None:
    assert image_size(IMAGES["jpeg"], "here") == (10, 12)
    with pytest.raises(ShardError, match="here: not a readable image"):
        image_size(b"x", "here")

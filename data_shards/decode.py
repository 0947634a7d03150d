"""Encoded bytes to a uint8 tensor; every error names the shard and the key.

torchvision decodes JPEG (1.3 to 3.3 times as fast as Pillow in shared trials). Everything else goes
to Pillow: torchvision 0.29 ends the process with a segmentation fault on a damaged PNG (seen with a
wrong checksum, bad compressed data and missing rows), and a worker must survive a bad file. The
colour mode is always forced, because about one in fifty photographs is grey.

torchvision 0.29 deprecates its Python wrapper, which now warns for every image; the operator below
it is called directly, and where a later version has dropped it, Pillow decodes everything.

Letters in shapes: C channels, H height, W width.
"""

from __future__ import annotations

import io
import warnings
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.io import ImageReadMode

from data_shards.pillow_images import UNREADABLE, eight_bits
from fsl.errors import ShardError

JPEG_START = b"\xff\xd8\xff"
MODES = {"rgb": ImageReadMode.RGB.value, "grey": ImageReadMode.GRAY.value}
HAS_OPERATOR = hasattr(torch.ops.image, "decode_image")
PILLOW_MODES = {"rgb": "RGB", "grey": "L"}


def decode_image(data: bytes, mode: Literal["rgb", "grey"], where: str) -> Tensor:
    """Return the pixels, uint8 (C, H, W) with C = 3 for "rgb" and 1 for "grey".

    The memory stays in the order H, W, C (channels last), which resizing is fastest with.
    Transparency is dropped; of an animation the first picture is taken.

    Args:
        data: an encoded image.
        mode: the channels wanted, whatever the file has.
        where: shard and key, for the message of an error.

    Raises:
        ShardError: the bytes are no image, or a damaged one.
    """
    try:
        if HAS_OPERATOR and data.startswith(JPEG_START):
            encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
            pixels: Tensor = torch.ops.image.decode_image(encoded, MODES[mode], False)
            return pixels  # (C, H, W)
        return _with_pillow(data, mode)
    except (RuntimeError, *UNREADABLE, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split("\n")[0].split()) or type(error).__name__
        raise ShardError(
            f"{where}: not a readable image ({len(data)} bytes): {reason}; "
            "replace it at the source and write the shards again"
        ) from None


def image_size(data: bytes, where: str) -> tuple[int, int]:
    """Return width and height from the header alone; raises ShardError."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.size
    except (*UNREADABLE, Image.DecompressionBombError):
        raise ShardError(f"{where}: not a readable image ({len(data)} bytes)") from None


def _with_pillow(data: bytes, mode: Literal["rgb", "grey"]) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(io.BytesIO(data)) as opened:
                image = _opaque(eight_bits(opened)).convert(PILLOW_MODES[mode])
        except Image.DecompressionBombWarning as bomb:
            raise ValueError(str(bomb)) from None
    pixels = torch.from_numpy(np.array(image))  # (H, W) or (H, W, 3)
    return pixels[None] if mode == "grey" else pixels.permute(2, 0, 1)


def _opaque(image: Image.Image) -> Image.Image:
    """Return the image without a colour that means transparent, which Pillow would warn of."""
    return image.convert("RGBA") if "transparency" in image.info else image

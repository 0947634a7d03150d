"""An encoded image before it is packed: decoded once in full, and none that training refuses.

A damaged file costs a message now instead of a failure in the middle of a training run.
"""

from __future__ import annotations

import io
import math
from typing import NamedTuple

from PIL import Image

from data_shards.pillow_images import JPEGS, UNREADABLE
from fsl.errors import ShardError


class EncodedImage(NamedTuple):
    """A checked image."""

    content: bytes
    ext: str
    width: int
    height: int


def checked_image(content: bytes, where: str) -> EncodedImage:
    """Return the image with its format and size; raises ShardError."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            kind, (width, height) = image.format, image.size
            _refuse_what_training_refuses(kind, width, height, where)
            image.load()
    except UNREADABLE as error:
        raise ShardError(f"{where}: not a readable image: {error}") from None
    except Image.DecompressionBombError as error:
        raise ShardError(f"{where}: {error}; shrink or leave it out") from None
    return EncodedImage(content, "png" if kind == "PNG" else "jpg", width, height)


def _refuse_what_training_refuses(kind: str | None, width: int, height: int, where: str) -> None:
    if kind not in (*JPEGS, "PNG") or max(width, height) >= 2**15:
        raise ShardError(
            f"{where}: {kind} of {width} x {height}; expected JPEG or PNG below 32768 pixels"
        )
    limit = Image.MAX_IMAGE_PIXELS or math.inf
    if kind == "PNG" and width * height > limit:
        raise ShardError(
            f"{where}: {width} x {height} pixels, more than {limit} in a PNG are not decoded; "
            "set `resize`, or shrink it"
        )

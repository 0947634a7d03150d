"""Images as Pillow opens them: what it cannot read, what it would spoil, which way is up."""

from __future__ import annotations

import struct

import numpy as np
from PIL import Image, ImageOps

JPEGS = ("JPEG", "MPO")
"""What Pillow calls JPEG files; MPO is one with several pictures, as phones make them."""
UNREADABLE = (OSError, SyntaxError, ValueError)
"""What Pillow raises on damaged bytes."""


def eight_bits(image: Image.Image) -> Image.Image:
    """Return the image with 8-bit channels; Pillow itself clips 16-bit grey to white."""
    if not image.mode.startswith("I"):
        return image
    return Image.fromarray((np.asarray(image).astype(np.int64) >> 8).astype(np.uint8))


def upright(image: Image.Image) -> Image.Image:
    """Return the image turned as its EXIF says, or as it is stored if the EXIF cannot be read."""
    image.load()
    try:
        return ImageOps.exif_transpose(image)
    except (SyntaxError, ValueError, TypeError, struct.error):
        return image

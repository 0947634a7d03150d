"""Random-resized crops (Szegedy et al., CVPR 2015): boxes, and cutting them out.

The boxes follow torchvision's rule: up to ten attempts at an area and an aspect ratio, then the
largest central crop within the aspect range.

Letters in shapes: B images, V views, C channels, S side of a view.
"""

from __future__ import annotations

from math import log
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from fsl.augment.draws import Slot

ATTEMPTS = 10


class Boxes(NamedTuple):
    """Crops in whole pixels, each (B, V) int64."""

    top: NDArray[np.int64]
    left: NDArray[np.int64]
    height: NDArray[np.int64]
    width: NDArray[np.int64]


def crop_boxes(
    heights: NDArray[np.int64],
    widths: NDArray[np.int64],
    u: NDArray[np.float64],
    scale: tuple[float, float],
    aspect: tuple[float, float],
) -> Boxes:
    """Return a box for every view, image sizes (B,), (B,) and numbers u (B, V, PER_VIEW)."""
    tall, wide = heights[:, None, None], widths[:, None, None]
    low, high = scale
    area = tall * wide * (low + (high - low) * u[..., Slot.AREA : Slot.AREA + ATTEMPTS])
    low, high = log(aspect[0]), log(aspect[1])
    ratio = np.exp(low + (high - low) * u[..., Slot.ASPECT : Slot.ASPECT + ATTEMPTS])
    width = np.rint(np.sqrt(area * ratio)).astype(np.int64)  # (B, V, ATTEMPTS)
    height = np.rint(np.sqrt(area / ratio)).astype(np.int64)
    fits = (width > 0) & (width <= wide) & (height > 0) & (height <= tall)
    first = fits.argmax(-1)[..., None]
    central = _central(heights, widths, aspect)
    chosen = fits.any(-1)
    height = np.where(chosen, np.take_along_axis(height, first, -1)[..., 0], central[0][:, None])
    width = np.where(chosen, np.take_along_axis(width, first, -1)[..., 0], central[1][:, None])
    spare_y, spare_x = heights[:, None] - height, widths[:, None] - width
    top = np.where(chosen, (u[..., Slot.TOP] * (spare_y + 1)).astype(np.int64), spare_y // 2)
    left = np.where(chosen, (u[..., Slot.LEFT] * (spare_x + 1)).astype(np.int64), spare_x // 2)
    return Boxes(top, left, height, width)


def _central(
    heights: NDArray[np.int64], widths: NDArray[np.int64], aspect: tuple[float, float]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return height and width of the largest crop within the aspect range, each (B,)."""
    height = np.minimum(heights, np.rint(widths / aspect[0]).astype(np.int64))
    width = np.minimum(widths, np.rint(heights * aspect[1]).astype(np.int64))
    return np.maximum(height, 1), np.maximum(width, 1)


def resized(image: Tensor, height: int, width: int) -> Tensor:
    """Return a uint8 image (C, H, W) at another size, bicubic and antialiased.

    Wants channels_last memory for speed; the result has it. A size that already fits is returned
    as it is.
    """
    if image.shape[-2:] == (height, width):
        return image
    scaled = F.interpolate(image[None], size=(height, width), mode="bicubic", antialias=True)
    return scaled[0]


def channels_last(image: Tensor) -> Tensor:
    """Return the image (C, H, W) with its channels next to each other in memory."""
    return image.permute(1, 2, 0).contiguous().permute(2, 0, 1)


def cut_views(image: Tensor, boxes: Boxes, row: int, flips: NDArray[np.bool_], size: int) -> Tensor:
    """Return the views of image number `row`, uint8 (C, H, W) -> float32 (V, C, S, S) of 0..255.

    Args:
        image: channels_last.
        boxes: of all images.
        row: which image of `boxes` this is.
        flips: (B, V), which views are mirrored.
        size: S.
    """
    views = flips.shape[1]
    pixels = torch.empty((views, image.shape[0], size, size), dtype=torch.float32)
    for view in range(views):
        top, left = boxes.top[row, view], boxes.left[row, view]
        bottom, right = top + boxes.height[row, view], left + boxes.width[row, view]
        crop = resized(image[:, top:bottom, left:right], size, size)
        pixels[view] = crop.flip(-1) if flips[row, view] else crop
    return pixels

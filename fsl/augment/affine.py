"""Crop, turn, shear, shift, stretch and flip of small images in one bilinear sampling.

All views of a kind of all images of one size are sampled by a single `grid_sample`.

Letters in shapes: B images, V views, C channels, S side of a view.
"""

from __future__ import annotations

from math import log, radians

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from fsl.augment.config import AffineJitter
from fsl.augment.crops import Boxes
from fsl.augment.draws import Slot


def view_transforms(
    boxes: Boxes,
    flips: NDArray[np.bool_],
    u: NDArray[np.float64],
    jitter: AffineJitter,
    extent: tuple[int, int],
) -> NDArray[np.float32]:
    """Return maps from view to image coordinates, (B, V, 2, 3) for rows x, y and points (x, y, 1).

    Coordinates run from -1 to 1 over the view and over the image, whose height and width are
    `extent`; -1 and 1 are the outer edges of the outermost pixels.
    """
    height, width = extent
    angle = radians(jitter.rotation) * _signed(u[..., Slot.ROTATION])
    cos, sin = np.cos(angle), np.sin(angle)
    slope = jitter.shear * _signed(u[..., Slot.SHEAR : Slot.SHEAR + 2])
    stretch = np.exp(log(1 + jitter.scale) * _signed(u[..., Slot.STRETCH : Slot.STRETCH + 2]))
    shift = 2 * jitter.translate * _signed(u[..., Slot.SHIFT : Slot.SHIFT + 2])
    mirror = np.where(flips, -1.0, 1.0)
    # Turn o shear o mirror within the view's square, then onto the crop, then onto the image.
    linear = np.stack(
        [
            np.stack([mirror * (cos - sin * slope[..., 1]), cos * slope[..., 0] - sin], -1),
            np.stack([mirror * (sin + cos * slope[..., 1]), sin * slope[..., 0] + cos], -1),
        ],
        -2,
    )  # (B, V, 2, 2)
    share = np.stack([boxes.width / width, boxes.height / height], -1)  # (B, V, 2)
    corner = np.stack([boxes.left / width, boxes.top / height], -1)
    centre = 2 * corner + share - 1 + shift * share
    return np.concatenate([linear * (share * stretch)[..., None], centre[..., None]], -1).astype(
        np.float32
    )


def _signed(u: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return numbers in [0, 1) spread over [-1, 1)."""
    return 2 * u - 1


def warp_views(images: Tensor, transforms: NDArray[np.float32], size: int) -> Tensor:
    """Return the sampled views, float32 (B, C, H, W) and (B, V, 2, 3) -> (V, B, C, S, S)."""
    count, views = transforms.shape[:2]
    theta = torch.from_numpy(transforms)[..., None, None]  # (B, V, 2, 3, 1, 1)
    axis = (2 * torch.arange(size, dtype=torch.float32) + 1) / size - 1
    # Written out, not a matrix product: products may round differently for other batch sizes.
    grid = theta[..., 0, :, :] * axis + theta[..., 1, :, :] * axis[:, None] + theta[..., 2, :, :]
    grid = grid.permute(0, 1, 3, 4, 2).reshape(count, views * size, size, 2)
    sampled = F.grid_sample(
        images, grid, mode="bilinear", padding_mode="border", align_corners=False
    )  # (B, C, V*S, S)
    split = sampled.view(count, -1, views, size, size)
    return split.permute(2, 0, 1, 3, 4).contiguous()


def stroke_powers(u: NDArray[np.float64], jitter: AffineJitter) -> NDArray[np.float32]:
    """Return the exponent of every view's pixels, numbers (B, V, PER_VIEW) -> (B, V)."""
    powers: NDArray[np.float64] = np.exp(log(jitter.stroke) * _signed(u[..., Slot.STROKE]))
    return powers.astype(np.float32)

"""Tensors as inline PNG, with patches greyed out or heated.

Letters: C channels, H height, W width, h x w patch grid.
"""

from __future__ import annotations

import base64
import io

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from fsl.images import ImageSpec

HEAT = torch.tensor([0.93, 0.32, 0.10])
VEIL = torch.tensor([0.45, 0.50, 0.58])


def png(pixels: Tensor, smallest: int = 96, largest: int = 256) -> str:
    """Return pixels in [0, 1] (C, H, W) as a data URI, tiny ones enlarged in whole steps."""
    rgb = pixels.expand(3, -1, -1) if pixels.shape[0] == 1 else pixels
    array = (rgb.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    image = Image.fromarray(np.ascontiguousarray(array))
    side = min(image.size)
    if side < smallest:
        factor = -(-smallest // side)
        size = image.width * factor, image.height * factor
        image = image.resize(size, Image.Resampling.NEAREST)
    image.thumbnail((largest, largest))
    stream = io.BytesIO()
    image.save(stream, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def unnormalised(images: Tensor, spec: ImageSpec) -> Tensor:
    """Return what a network sees as pixels in [0, 1], (..., C, H, W)."""
    mean, std = spec.statistics()
    return (images.cpu().float() * std[:, None, None] + mean[:, None, None]).clamp(0, 1)


def hidden(pixels: Tensor, mask: Tensor) -> Tensor:
    """Return (3, H, W) with the masked cells (h, w) under a veil."""
    cover = _spread(mask.float(), pixels)
    return _rgb(pixels) * (1 - 0.85 * cover) + 0.85 * cover * VEIL[:, None, None]


def heated(pixels: Tensor, weights: Tensor) -> Tensor:
    """Return (3, H, W) with cells coloured by weight (h, w), the largest most."""
    span = (weights.max() - weights.min()).clamp_min(1e-12)
    heat = 0.8 * _spread((weights - weights.min()) / span, pixels)
    return _rgb(pixels) * (1 - heat) + heat * HEAT[:, None, None]


def _spread(cells: Tensor, pixels: Tensor) -> Tensor:
    """Cells (h, w) -> (1, H, W)."""
    return F.interpolate(cells[None, None].float(), size=pixels.shape[-2:], mode="nearest")[0]


def _rgb(pixels: Tensor) -> Tensor:
    return pixels.expand(3, -1, -1) if pixels.shape[0] == 1 else pixels

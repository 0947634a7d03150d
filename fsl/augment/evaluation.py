"""Evaluation images: shorter edge resized, centre crop, normalised. Nothing is random."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fsl.augment.crops import channels_last, resized
from fsl.errors import FewShotError
from fsl.images import ImageSpec


def evaluation_images(images: Sequence[Tensor] | Tensor, spec: ImageSpec) -> Tensor:
    """Return decoded images as a network sees them, uint8 (C, H, W) each -> (B, C, S, S).

    The shorter edge becomes `spec.resize_to` (bicubic, antialiased), then the central
    `spec.size` square is taken. Images that are already squares of `spec.size` are left as they
    are, unless the recipe sets `resize`. Feature vectors, one tensor (B, D, 1, 1), are left alone.
    """
    if isinstance(images, Tensor):
        return images
    mean, std = spec.statistics()
    gain, shift = 1 / (255 * std), -mean / std
    out = torch.empty((len(images), spec.channels, spec.size, spec.size))
    for number, image in enumerate(images):
        check_image(image, number, spec)
        crop = _central(image, spec)
        torch.addcmul(shift[:, None, None], crop.float(), gain[:, None, None], out=out[number])
    return out


def check_image(image: Tensor, number: int, spec: ImageSpec) -> None:
    """Raise FewShotError unless the image is uint8 (C, H, W) with the C of `spec` and a pixel."""
    fits = image.dim() == 3 and image.shape[0] == spec.channels and image.numel() > 0
    if image.dtype != torch.uint8 or not fits:
        raise FewShotError(
            f"image {number} of the batch is {image.dtype} {tuple(image.shape)}; "
            f"images.mode {spec.mode!r} needs torch.uint8 ({spec.channels}, height, width): "
            "decode it in that mode"
        )


def _central(image: Tensor, spec: ImageSpec) -> Tensor:
    height, width = image.shape[-2:]
    if spec.resize is None and height == width == spec.size:
        return image
    edge = max(spec.resize_to, spec.size)
    shorter = min(height, width)
    height, width = edge * height // shorter, edge * width // shorter  # rounded as torchvision does
    scaled = resized(channels_last(image), height, width)
    top, left = round((height - spec.size) / 2), round((width - spec.size) / 2)
    return scaled[:, top : top + spec.size, left : left + spec.size]

"""Image operations as SimCLR's TensorFlow code does them, each image with its own strength.

They differ from the usual ones: brightness is added, contrast is about the mean of each channel,
saturation and hue act in HSV, the blur takes pixels outside of the image as black, and bicubic
enlarging has its samples at pixel corners. Saturation, hue and grey leave grey images as they are.

Letters in shapes: B images, C channels (1 or 3), H height, W width, S side of a view.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LUMA = (0.2989, 0.5870, 0.1140)  # TensorFlow's digits
_CUBIC = -0.75  # slope of the bicubic kernel at distance 1


def brightened(pixels: Tensor, delta: Tensor) -> Tensor:
    """Return pixels plus delta, (B, C, H, W) and (B,)."""
    return pixels + _per_image(delta)


def contrasted(pixels: Tensor, factor: Tensor) -> Tensor:
    """Return pixels with their distance to the channel's mean times factor, (B, C, H, W), (B,)."""
    return torch.lerp(pixels.mean((-2, -1), keepdim=True), pixels, _per_image(factor))


def saturated(pixels: Tensor, factor: Tensor) -> Tensor:
    """Return pixels with their HSV saturation times factor, at most 1, (B, C, H, W) and (B,)."""
    if pixels.shape[1] == 1:
        return pixels
    value, chroma = _value_and_chroma(pixels)
    most = value / chroma.clamp_min(1e-12)  # the factor at which saturation is 1
    factor = torch.minimum(_per_image(factor), most).clamp_min(0)
    return value - (value - pixels) * factor


def hue_turned(pixels: Tensor, turn: Tensor) -> Tensor:
    """Return pixels with their HSV hue moved by parts of the circle, (B, C, H, W) and (B,)."""
    if pixels.shape[1] == 1:
        return pixels
    value, chroma = _value_and_chroma(pixels)
    red, green, blue = pixels[:, :1], pixels[:, 1:2], pixels[:, 2:]
    sixths = torch.where(
        red == value,
        green - blue,
        torch.where(green == value, 2 * chroma + blue - red, 4 * chroma + red - green),
    ) / chroma.clamp_min(1e-12)  # (B, 1, H, W), 0..6 from red
    corner = torch.tensor([5.0, 3.0, 1.0], device=pixels.device)[:, None, None]
    place = (sixths + 6 * _per_image(turn) + corner) % 6  # (B, 3, H, W)
    return value - chroma * torch.minimum(place, 4 - place).clamp_(0, 1)


def greyed(pixels: Tensor) -> Tensor:
    """Return pixels whose channels are all the luma, (B, C, H, W)."""
    if pixels.shape[1] == 1:
        return pixels
    luma = torch.tensor(LUMA, device=pixels.device)[:, None, None]
    return (pixels * luma).sum(1, keepdim=True).expand_as(pixels)


def blurred(pixels: Tensor, sigma: Tensor, taps: int) -> Tensor:
    """Return pixels after a Gaussian filter of an odd number of taps, (B, C, H, W) and (B,).

    Outside is black, so edges darken.
    """
    half = taps // 2
    distance = torch.arange(half + 1, device=pixels.device)[:, None]
    weights = (-0.5 * (distance / sigma).square()).exp()  # (half + 1, B)
    weights = weights / (2 * weights.sum(0) - weights[0])
    for axis in (2, 3):
        margin = (half, half, 0, 0) if axis == 3 else (0, 0, half, half)
        padded, length = F.pad(pixels, margin), pixels.shape[axis]
        pixels = pixels * _per_image(weights[0])
        for step in range(1, half + 1):
            pair = padded.narrow(axis, half - step, length) + padded.narrow(
                axis, half + step, length
            )
            pixels.addcmul_(pair, _per_image(weights[step]))
    return pixels


def blur_taps(height: int) -> int:
    """Return the number of taps for images of a height: a tenth of it, made odd; 23 at 224."""
    return 2 * (height // 10 // 2) + 1


def enlarged_crops(pixels: Tensor, starts: Tensor, lengths: Tensor, size: int) -> Tensor:
    """Return crops at another size, bicubic, (B, C, H, W) -> (B, C, S, S).

    Meant for crops not larger than S: nothing is averaged.

    Args:
        pixels: the images.
        starts: (B, 2) top and left of each crop.
        lengths: (B, 2) height and width of each crop.
        size: S.
    """
    for axis in (0, 1):
        pixels = _stretched(pixels, starts[:, axis], lengths[:, axis], size, 2 + axis)
    return pixels


def _stretched(pixels: Tensor, start: Tensor, length: Tensor, size: int, axis: int) -> Tensor:
    """Return pixels start..start+length of one axis at `size` places."""
    place = torch.arange(size, device=pixels.device) * (length / size)[:, None]  # (B, S)
    before = place.floor()
    nearest = _cubic_weights(place - before)  # (4, B, S)
    last = length[:, None] - 1
    shape = [*pixels.shape]
    shape[axis] = size
    total = pixels.new_zeros(shape)
    for tap, weight in enumerate(nearest):
        index = (before.long() + (tap - 1)).clamp_min(0).minimum(last) + start[:, None]
        taken = pixels.gather(axis, _along(index, axis).expand(shape))
        total.addcmul_(taken, _along(weight, axis))
    return total


def _cubic_weights(rest: Tensor) -> Tensor:
    """Return the weights of the four pixels around places `rest` after the second, (4, B, S)."""
    near = torch.stack([rest, 1 - rest])  # distances to the second and third
    inner = ((_CUBIC + 2) * near - (_CUBIC + 3)) * near.square() + 1
    far = near + 1
    outer = ((_CUBIC * far - 5 * _CUBIC) * far + 8 * _CUBIC) * far - 4 * _CUBIC
    return torch.stack([outer[0], inner[0], inner[1], outer[1]])


def _along(table: Tensor, axis: int) -> Tensor:
    """Return a table (B, S) that broadcasts over images (B, C, H, W) along one of their axes."""
    return table[:, None, :, None] if axis == 2 else table[:, None, None, :]


def _per_image(values: Tensor) -> Tensor:
    return values[:, None, None, None]


def _value_and_chroma(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest channel and its distance to the smallest, each (B, 1, H, W)."""
    value = pixels.amax(1, keepdim=True)
    return value, value - pixels.amin(1, keepdim=True)

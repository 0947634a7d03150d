"""Colour jitter, grey, normalisation as one affine map per view; blur and solarisation.

Brightness, contrast, saturation, hue (a rotation in YIQ) and grey are linear in the pixel and in
the view's mean colour, so any order of them is y = M x + N mean(x). Pixels are clamped once, at
the end, where the usual chain clamps after each step.

Letters in shapes: n views, V views of an image, B images, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import pi

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from fsl.augment.config import ColourJitter, ViewKind, ViewSettings
from fsl.augment.draws import Slot

LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, as PIL's mode L
TO_YIQ = np.array([LUMA, [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]])
FROM_YIQ = np.linalg.inv(TO_YIQ)
_OPERATIONS = 4
_CONTRAST = 1

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Photometrics:
    """What happens to the colours of the views of some images."""

    own: Tensor  # (B, V, C, C): M, on pixels of 0..255
    mean: Tensor  # (B, V, C, C): N
    uses_mean: bool
    offset: Tensor  # (C,)
    limits: tuple[tuple[float, float], ...]  # black and white of each channel, normalised
    blur: Floats  # (B, V): standard deviation in pixels, 0 for none
    solarise: NDArray[np.bool_]  # (B, V)
    threshold: int  # of 255

    @classmethod
    def draw(
        cls, u: Floats, settings: ViewSettings, kind: ViewKind, mean: Tensor, std: Tensor
    ) -> Photometrics:
        """Return the maps for numbers u (B, V, PER_VIEW); mean and std (C,) normalise."""
        channels = len(mean)
        own, of_mean = colour_maps(u, settings.jitter, settings.grayscale, channels)
        gain = 1 / (255 * std.double().numpy())[:, None]  # (C, 1)
        low, high = settings.blur_radius
        radius = low + (high - low) * u[..., Slot.RADIUS]
        black, white = (-mean / std).tolist(), ((1 - mean) / std).tolist()
        return cls(
            own=torch.from_numpy((gain * own).astype(np.float32)),
            mean=torch.from_numpy((gain * of_mean).astype(np.float32)),
            uses_mean=bool(settings.jitter.contrast > 0 and settings.jitter.probability > 0),
            offset=-mean / std,
            limits=tuple(zip(black, white, strict=True)),
            blur=np.where(u[..., Slot.BLUR] < np.array(kind.blur), radius, 0.0),
            solarise=u[..., Slot.SOLARISE] < np.array(kind.solarise),
            threshold=settings.solarize_threshold,
        )

    def apply(self, pixels: Tensor, image: int | slice, out: Tensor) -> None:
        """Write normalised views to `out`; `pixels` are used up.

        Args:
            pixels: float32 (n, C, H, W) of 0..255, view-major.
            image: which images of this batch the views belong to: one, or all.
            out: (n, C, H, W), may be a strided part of the batch.
        """
        blur_rows(pixels, _view_major(self.blur, image))
        own = self._rows(self.own, image)  # (n, C, C)
        bias = self.offset.expand(len(own), -1)  # (n, C)
        if self.uses_mean:
            means = pixels.sum(-1).sum(-1, dtype=torch.float64) / pixels[0, 0].numel()
            of_mean = self._rows(self.mean, image)
            bias = bias + (of_mean * means.float()[:, None]).sum(-1)
        mixed = mix_channels(pixels, own, bias)
        for channel, (black, white) in enumerate(self.limits):
            torch.clamp(mixed[:, channel], black, white, out=out[:, channel])
        for row in np.flatnonzero(_view_major(self.solarise, image)).tolist():
            self._solarise(out[row])

    def _rows(self, maps: Tensor, image: int | slice) -> Tensor:
        chosen = maps[image]
        return chosen if chosen.dim() == 3 else chosen.transpose(0, 1).flatten(0, 1)

    def _solarise(self, view: Tensor) -> None:
        for channel, (black, white) in zip(view, self.limits, strict=True):
            # Half a level lower, so that rounding cannot move pixels off the threshold.
            bound = black + (white - black) * (self.threshold - 0.5) / 255
            channel.copy_(torch.where(channel >= bound, black + white - channel, channel))


def _view_major(table: NDArray[np.generic], image: int | slice) -> NDArray[np.generic]:
    """Return the rows of one image (V,), or of several in view-major order (V*B,)."""
    return table[image].T.reshape(-1)


def colour_maps(
    u: Floats, jitter: ColourJitter, grayscale: float, channels: int
) -> tuple[Floats, Floats]:
    """Return M and N, each (B, V, C, C): a pixel x becomes M x + N mean(x)."""
    shape = u.shape[:-1]
    flat = u.reshape(-1, u.shape[-1])
    eye = np.eye(channels)
    luma = LUMA if channels == 3 else np.ones(1)
    grey = np.ones((channels, 1)) * luma  # every channel becomes the luma
    factors = _factors(flat, jitter)
    steps = np.empty((_OPERATIONS, len(flat), channels, channels))
    steps[:2] = factors[:, :2].T[..., None, None] * eye
    steps[2] = factors[:, 2, None, None] * eye + (1 - factors[:, 2, None, None]) * grey
    steps[3] = hue_rotation(factors[:, 3]) if channels == 3 else eye
    order = flat[:, Slot.ORDER : Slot.ORDER + _OPERATIONS].argsort(-1, kind="stable")
    own = np.broadcast_to(eye, steps.shape[1:])
    of_mean = np.zeros_like(own)
    rows = np.arange(len(flat))
    for place in range(_OPERATIONS):
        chosen = order[:, place]
        pull = np.where(chosen == _CONTRAST, 1 - factors[:, _CONTRAST], 0.0)[:, None, None]
        centre = _times(grey, own + of_mean)
        step = steps[chosen, rows]
        own, of_mean = _times(step, own), _times(step, of_mean) + pull * centre
    drained = (flat[:, Slot.GREY] < grayscale)[:, None, None]
    own = np.where(drained, _times(grey, own), own)
    of_mean = np.where(drained, _times(grey, of_mean), of_mean)
    return own.reshape(*shape, channels, channels), of_mean.reshape(*shape, channels, channels)


def _factors(flat: Floats, jitter: ColourJitter) -> Floats:
    """Return brightness, contrast, saturation factors and hue turn, (n, 4); 1, 1, 1, 0 is none."""
    spread = np.array([jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue])
    neutral = np.array([1.0, 1.0, 1.0, 0.0])
    signed = 2 * flat[:, Slot.FACTORS : Slot.FACTORS + _OPERATIONS] - 1
    jittered = flat[:, Slot.JITTER, None] < jitter.probability
    factors: Floats = np.where(jittered, neutral + spread * signed, neutral)
    return factors


def hue_rotation(turn: Floats) -> Floats:
    """Return RGB maps that turn the hue by a part of the circle at constant luma, (n, 3, 3)."""
    cos, sin = np.cos(2 * pi * turn)[:, None, None], np.sin(2 * pi * turn)[:, None, None]
    kept = np.outer(FROM_YIQ[:, 0], TO_YIQ[0])
    same = np.outer(FROM_YIQ[:, 1], TO_YIQ[1]) + np.outer(FROM_YIQ[:, 2], TO_YIQ[2])
    cross = np.outer(FROM_YIQ[:, 1], TO_YIQ[2]) - np.outer(FROM_YIQ[:, 2], TO_YIQ[1])
    maps: Floats = kept + cos * same + sin * cross
    return maps


def _times(left: Floats, right: Floats) -> Floats:
    """Return stacked matrix products, written out so that rounding is the same for any n."""
    terms = left[..., :, :, None] * right[..., None, :, :]
    product: Floats = terms[..., 0, :]
    for k in range(1, terms.shape[-2]):
        product = product + terms[..., k, :]
    return product


def mix_channels(pixels: Tensor, maps: Tensor, bias: Tensor) -> Tensor:
    """Return maps x + bias for every pixel, (n, C, H, W), (n, C, C), (n, C) -> (n, C, H, W).

    Adds up column by column: a matrix product may round differently for another n.
    """
    columns = maps[..., None, None]  # (n, C, C, 1, 1)
    mixed = torch.addcmul(bias[..., None, None], pixels[:, :1], columns[:, :, 0])
    for k in range(1, pixels.shape[1]):
        mixed.addcmul_(pixels[:, k : k + 1], columns[:, :, k])
    return mixed


def blur_rows(pixels: Tensor, sigmas: NDArray[np.generic]) -> None:
    """Blur the views (n, C, H, W) whose standard deviation in sigmas (n,) is positive, in place.

    Separable, cut at three standard deviations, edges repeated. Views that need equally many
    taps go together.
    """
    reach = np.ceil(3 * sigmas.astype(np.float64)).astype(np.int64)
    for half in np.unique(reach[reach > 0]).tolist():
        rows = np.flatnonzero(reach == half)
        taps = _gaussian_taps(sigmas[rows].astype(np.float64), half)
        # One row is a slice and needs no copy; several are gathered and put back.
        index = slice(rows[0], rows[0] + 1) if len(rows) == 1 else torch.from_numpy(rows)
        chosen = pixels[index]
        for axis in (2, 3):
            _blur_along(chosen, taps, axis)
        if len(rows) > 1:
            pixels[index] = chosen


def _gaussian_taps(sigmas: Floats, half: int) -> Tensor:
    """Return the weights of distances 0..half, (n,) -> (half + 1, n, 1, 1, 1)."""
    distance = np.arange(half + 1)[:, None]
    weights = np.exp(-0.5 * (distance / sigmas) ** 2)
    weights /= 2 * weights.sum(0) - weights[0]
    return torch.from_numpy(weights.astype(np.float32))[..., None, None, None]


def _blur_along(pixels: Tensor, taps: Tensor, axis: int) -> None:
    """Filter views (n, C, H, W) along one axis, in place.

    Shifted sums: here several times faster than a grouped convolution, whose rounding moreover
    could depend on n.
    """
    half, length = len(taps) - 1, pixels.shape[axis]
    margin = (half, half, 0, 0) if axis == 3 else (0, 0, half, half)
    padded = F.pad(pixels, margin, mode="replicate")
    pair = torch.empty_like(pixels)
    pixels.mul_(taps[0])
    for step in range(1, half + 1):
        before, after = (padded.narrow(axis, half + way * step, length) for way in (-1, 1))
        torch.add(before, after, out=pair)
        pixels.addcmul_(pair, taps[step])

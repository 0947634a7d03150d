"""SimCLR episodes (CrossTransformers; Doersch, Gupta, Zisserman; NeurIPS 2020).

A task is turned into one of telling images apart: every support image becomes a class of its own,
some of them come again as queries, and support and queries are changed at random, each by itself.
Head and loss stay as they are. The changes follow SimCLR (Chen, Kornblith, Norouzi, Hinton; ICML
2020): crop, flip, colours, grey, and for queries blur.

Letters in shapes: S support images, Q queries, B images, C channels, N side of a view.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Annotated, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor

from fsl.augment import simclr_ops
from fsl.augment.affine import stroke_powers, view_transforms, warp_views
from fsl.augment.config import AffineJitter, Fraction, Probability
from fsl.augment.crops import Boxes, channels_last, crop_boxes, resized
from fsl.augment.draws import Slot, as_seeds, uniforms
from fsl.augment.evaluation import check_image
from fsl.batchers import EpisodeLayout
from fsl.config import Section
from fsl.errors import ConfigError
from fsl.images import ImageSpec
from fsl.search_space import Choice, Uniform
from fsl.types import Episode

BLOCK = 64
"""Images that are changed together: bounds the memory of an episode of hundreds."""


class EpisodeStream(IntEnum):
    """Independent sequences of one seed, beside those of `draws.Stream`."""

    SUPPORT = 11
    QUERY = 12


class SimCLREpisodeConfig(Section):
    """How the images of a SimCLR episode are changed. 0 switches an operation off.

    Images are first made square, without keeping their shape.
    """

    scale: Annotated[tuple[Fraction, Fraction], Choice((0.08, 1.0), (0.2, 1.0), (0.5, 1.0))] = (
        0.08,
        1.0,
    )
    """Range of the part of the image's area that a view covers."""
    aspect: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (3 / 4, 4 / 3)
    """Range of width / height of a crop before it is made square; drawn on a log scale."""
    flip: Annotated[Probability, Choice(0.0, 0.5)] = 0.5
    """How often a view is mirrored left to right. Use 0 for glyphs."""
    jitter: Annotated[Probability, Uniform(0.0, 1.0)] = 0.8
    """How often the four next changes are made, in random order."""
    brightness: Annotated[float, Field(ge=0, le=1), Uniform(0.0, 0.8)] = 0.8
    """A number from [-value, value] is added to pixels of [0, 1]."""
    contrast: Annotated[float, Field(ge=0, le=1), Uniform(0.0, 0.8)] = 0.8
    """The distance to the channel's mean is multiplied by a factor from [1 - value, 1 + value]."""
    saturation: Annotated[float, Field(ge=0, le=1), Uniform(0.0, 0.8)] = 0.8
    """The saturation is multiplied likewise. No effect on grey images."""
    hue: Annotated[float, Field(ge=0, le=0.5), Uniform(0.0, 0.2)] = 0.2
    """The hue is turned by a part from [-value, value] of the circle. No effect on grey images."""
    grayscale: Annotated[Probability, Uniform(0.0, 0.5)] = 0.2
    """How often a view loses its colours."""
    blur: Annotated[Probability, Choice(0.0, 0.5, 1.0)] = 1.0
    """How often a query is blurred; support images never are. Outside of the image is black."""
    blur_radius: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(le=16)]] = (0.1, 2.0)
    """Range of the standard deviation of the blur, in pixels of the view. The filter has about a
    tenth as many taps as the view has pixels, so views below 20 pixels are not blurred."""
    affine: AffineJitter | None = None
    """Warp for small images such as glyphs, in place of the bicubic crop. The colours change as
    above: glyphs may want `jitter`, `blur` and `flip` of 0."""

    @model_validator(mode="after")
    def _ranges_run_upwards(self) -> Self:
        for name in ("scale", "aspect", "blur_radius"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name}: the range [{low}, {high}] runs backwards; swap the two")
        return self


def simclr_episode(
    images: Sequence[Tensor] | Tensor,
    layout: EpisodeLayout,
    seeds: Sequence[int],
    spec: ImageSpec,
    settings: SimCLREpisodeConfig,
) -> Episode:
    """Return one task turned into a SimCLR episode: S ways, one shot, T = 1.

    Args:
        images: the support images, then the queries, which are not looked at: decoded, uint8
            (C, H, W), sizes may differ.
        layout: of one task.
        seeds: a 63-bit seed of each image; all that is random comes from the support's.
        spec: colour mode, normalisation and side of the views.
        settings: how the images are changed.
    """
    if isinstance(images, Tensor):
        raise ConfigError(
            "SimCLR episodes change images, but this split has feature vectors; train without them"
        )
    tasks, shown = layout.support_labels.shape
    if tasks != 1:
        raise ValueError(f"a SimCLR episode is made of 1 task, not of {tasks}: shapes would differ")
    labels = torch.arange(shown)
    sources = query_sources(layout.support_labels[0], layout.query_labels[0], layout.ways)
    squares, keys = squared(images[:shown], spec), as_seeds(seeds[:shown])
    support = simclr_views(squares, keys, EpisodeStream.SUPPORT, spec, settings)
    query = simclr_views(
        squares[sources], keys[sources.numpy()], EpisodeStream.QUERY, spec, settings
    )
    return Episode(support[None], labels[None], query[None], sources[None], ways=shown)


def query_sources(support_labels: Tensor, query_labels: Tensor, ways: int) -> Tensor:
    """Return which support images come again as queries, in order; also the queries' labels, (Q,).

    Of a class with m queries it is the first m support images, or all if there are fewer.

    Args:
        support_labels: (S,).
        query_labels: labels of the queries that the task had.
        ways: number of classes that the task had.
    """
    wanted = torch.bincount(query_labels, minlength=ways)  # (W,)
    so_far = F.one_hot(support_labels, ways).cumsum(0)  # (S, W)
    number = so_far.gather(1, support_labels[:, None])[:, 0]  # (S,) within the class, from 1
    return (number <= wanted[support_labels]).nonzero()[:, 0]


def squared(images: Sequence[Tensor], spec: ImageSpec) -> Tensor:
    """Return decoded images as squares of the spec's side, uint8 (B, C, N, N)."""
    out = torch.empty((len(images), spec.channels, spec.size, spec.size), dtype=torch.uint8)
    for number, image in enumerate(images):  # their sizes differ
        check_image(image, number, spec)
        out[number] = resized(channels_last(image), spec.size, spec.size)
    return out


def simclr_views(
    squares: Tensor,
    seeds: NDArray[np.uint64],
    stream: EpisodeStream,
    spec: ImageSpec,
    settings: SimCLREpisodeConfig,
) -> Tensor:
    """Return a normalised view of each square image, uint8 (B, C, N, N) -> float32.

    Args:
        squares: the images.
        seeds: (B,).
        stream: which numbers of the seeds to take. Only queries are blurred.
        spec: normalisation.
        settings: how the images are changed.
    """
    u = uniforms(seeds, stream, 1)  # (B, 1, PER_VIEW)
    out = torch.empty(squares.shape)
    mean, std = (values[:, None, None] for values in spec.statistics())
    for start in range(0, len(squares), BLOCK):
        rows = slice(start, start + BLOCK)
        views = _cropped(squares[rows].float() / 255, u[rows], settings)
        views = _recoloured(views, u[rows, 0], settings).clamp_(0, 1)
        if stream is EpisodeStream.QUERY:
            views = _blurred(views, u[rows, 0], settings)
        torch.div(views - mean, std, out=out[rows])
    return out


def _cropped(pixels: Tensor, u: NDArray[np.float64], settings: SimCLREpisodeConfig) -> Tensor:
    """Return crops of the images' own size, some mirrored, (B, C, N, N) and (B, 1, PER_VIEW)."""
    size = pixels.shape[-1]
    sides = np.full(len(pixels), size)
    boxes = crop_boxes(sides, sides, u, settings.scale, settings.aspect)
    flips = u[..., Slot.FLIP] < settings.flip
    if settings.affine is not None:
        return _warped(pixels, boxes, flips, u, settings.affine)
    top, left, height, width = (torch.from_numpy(each[:, 0]) for each in boxes)
    starts, lengths = torch.stack([top, left], 1), torch.stack([height, width], 1)
    views = simclr_ops.enlarged_crops(pixels, starts, lengths, size)
    return torch.where(torch.from_numpy(flips)[..., None, None], views.flip(-1), views)


def _warped(
    pixels: Tensor,
    boxes: Boxes,
    flips: NDArray[np.bool_],
    u: NDArray[np.float64],
    jitter: AffineJitter,
) -> Tensor:
    size = pixels.shape[-1]
    views = warp_views(pixels, view_transforms(boxes, flips, u, jitter, (size, size)), size)[0]
    powers = torch.from_numpy(stroke_powers(u, jitter))[..., None, None]  # (B, 1, 1, 1)
    return views.clamp_(0, 1).pow_(powers)


def _recoloured(pixels: Tensor, u: NDArray[np.float64], settings: SimCLREpisodeConfig) -> Tensor:
    """Return images after colour jitter and grey, (B, C, N, N) and (B, PER_VIEW)."""
    signed = torch.from_numpy((2 * u[:, Slot.FACTORS : Slot.FACTORS + 4] - 1).astype(np.float32))
    changes = (
        (simclr_ops.brightened, settings.brightness, 0),
        (simclr_ops.contrasted, settings.contrast, 1),
        (simclr_ops.saturated, settings.saturation, 1),
        (simclr_ops.hue_turned, settings.hue, 0),
    )
    order = u[:, Slot.ORDER : Slot.ORDER + len(changes)].argsort(-1, kind="stable")  # (B, 4)
    chosen = u[:, Slot.JITTER] < settings.jitter
    for place in range(len(changes)):
        for number, (change, spread, neutral) in enumerate(changes):
            rows = _rows(chosen & (order[:, place] == number))
            if spread and len(rows):
                strength = neutral + spread * signed[rows, number]
                pixels[rows] = change(pixels[rows], strength).clamp_(0, 1)
    rows = _rows(u[:, Slot.GREY] < settings.grayscale)
    pixels[rows] = simclr_ops.greyed(pixels[rows])
    return pixels


def _blurred(pixels: Tensor, u: NDArray[np.float64], settings: SimCLREpisodeConfig) -> Tensor:
    """Return images of which some are blurred, (B, C, N, N) and (B, PER_VIEW)."""
    low, high = settings.blur_radius
    rows = _rows(u[:, Slot.BLUR] < settings.blur)
    sigma = torch.from_numpy((low + (high - low) * u[:, Slot.RADIUS]).astype(np.float32))[rows]
    taps = simclr_ops.blur_taps(pixels.shape[-2])
    pixels[rows] = simclr_ops.blurred(pixels[rows], sigma, taps)
    return pixels


def _rows(chosen: NDArray[np.bool_]) -> Tensor:
    return torch.from_numpy(np.flatnonzero(chosen))

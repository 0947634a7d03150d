"""All views of one kind, of a batch of decoded images, in view-major order.

Letters in shapes: B images, V views, C channels, S side of a view.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fsl.augment.affine import stroke_powers, view_transforms, warp_views
from fsl.augment.config import AffineJitter, ViewKind, ViewSettings
from fsl.augment.crops import Boxes, channels_last, crop_boxes, cut_views
from fsl.augment.draws import Slot, Stream, derived_seeds, hashed, uniforms
from fsl.augment.erasing import erase_
from fsl.augment.photometric import Photometrics
from fsl.augment.rand_augment import rand_augmented
from fsl.images import ImageSpec


def prepared(
    images: Sequence[Tensor], labels: Sequence[int], class_seed: int, settings: ViewSettings
) -> list[Tensor]:
    """Return the images turned as the settings say, in the memory layout that is cut fastest."""
    turns, mirrored = class_orientations(labels, class_seed)
    if settings.mirrors:
        pairs = zip(images, mirrored.tolist(), strict=True)
        images = [image.flip(2) if mirror else image for image, mirror in pairs]
    if settings.quarter_turns:
        turned = zip(images, turns.tolist(), strict=True)
        images = [torch.rot90(image, turn, (1, 2)) if turn else image for image, turn in turned]
    return [channels_last(image) for image in images] if settings.affine is None else list(images)


def class_orientations(
    labels: Sequence[int], class_seed: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return quarter turns 0..3 and whether it is mirrored of every image, (B,) each.

    Both are functions of the image's class and of a seed that all images of an epoch, or of a
    task, have in common.
    """
    classes = np.asarray(labels, dtype=np.int64).astype(np.uint64)
    bits = hashed(classes, Stream.TURNS, np.array([class_seed], dtype=np.uint64))[:, 0]
    turns = (bits >> np.uint64(62)).astype(np.int64)
    return turns, (bits >> np.uint64(61)) & np.uint64(1) == 1


def make_views(
    images: Sequence[Tensor],
    seeds: NDArray[np.uint64],
    stream: Stream,
    *,
    kind: ViewKind,
    settings: ViewSettings,
    spec: ImageSpec,
) -> Tensor:
    """Return normalised views (V*B, C, S, S), view-major, of `prepared` images."""
    count, size = len(images), kind.size
    # NumPy asks for huge pages, torch does not: page faults took a tenth of the time otherwise.
    shape = (kind.views, count, spec.channels, size, size)
    out = torch.from_numpy(np.empty(shape, dtype=np.float32))
    if out.numel() == 0:
        return out.flatten(0, 1)
    u = uniforms(seeds, stream, kind.views)
    heights, widths = (np.array([image.shape[axis] for image in images]) for axis in (1, 2))
    boxes = crop_boxes(heights, widths, u, kind.scale, settings.aspect)
    if stream != Stream.GLOBAL_VIEWS:  # else both would have the same noise and changes
        seeds = derived_seeds(seeds, stream, 1)[:, 0]
    drawn = Drawn(u, seeds, boxes, u[..., Slot.FLIP] < settings.flip)
    fill = _cut_all if settings.affine is None else _warp_all
    fill(out, images, drawn, kind=kind, settings=settings, spec=spec)
    if settings.erasing is not None:
        erase_(out, u, seeds, settings.erasing)
    return out.flatten(0, 1)


class Drawn(NamedTuple):
    """What chance decided about the views."""

    u: NDArray[np.float64]  # (B, V, PER_VIEW)
    seeds: NDArray[np.uint64]  # (B,)
    boxes: Boxes
    flips: NDArray[np.bool_]  # (B, V)


def _cut_all(
    out: Tensor,
    images: Sequence[Tensor],
    drawn: Drawn,
    *,
    kind: ViewKind,
    settings: ViewSettings,
    spec: ImageSpec,
) -> None:
    """Write the views (V, B, C, S, S), cut out of one image after the other."""
    mean, std = spec.statistics()
    colours = Photometrics.draw(drawn.u, settings, kind, mean, std)
    changes = derived_seeds(drawn.seeds, Stream.CHANGES, kind.views).tolist()  # (B, V)
    for row, image in enumerate(images):
        views = cut_views(image, drawn.boxes, row, drawn.flips, kind.size)
        if settings.rand_augment is not None:
            views = rand_augmented(views, changes[row], settings.rand_augment, mean)
        colours.apply(views, row, out[:, row])


def _warp_all(
    out: Tensor,
    images: Sequence[Tensor],
    drawn: Drawn,
    *,
    kind: ViewKind,
    settings: ViewSettings,
    spec: ImageSpec,
) -> None:
    """Write the views (V, B, C, S, S), warped out of all images of one size at once."""
    assert settings.affine is not None
    mean, std = spec.statistics()
    sizes = [(image.shape[1], image.shape[2]) for image in images]
    for height_width in sorted(set(sizes)):
        rows = np.array([row for row, own in enumerate(sizes) if own == height_width])
        same = torch.stack([images[row] for row in rows.tolist()]).float()  # (b, C, H, W)
        part = Boxes(*(table[rows] for table in drawn.boxes))
        flips, u = drawn.flips[rows], drawn.u[rows]
        pixels = _warped(same, part, flips, u, jitter=settings.affine, size=kind.size)
        colours = Photometrics.draw(u, settings, kind, mean, std)
        done = torch.empty_like(pixels).flatten(0, 1)
        colours.apply(pixels.flatten(0, 1), slice(None), done)
        out[:, torch.from_numpy(rows)] = done.view_as(pixels)


def _warped(
    images: Tensor,
    boxes: Boxes,
    flips: NDArray[np.bool_],
    u: NDArray[np.float64],
    *,
    jitter: AffineJitter,
    size: int,
) -> Tensor:
    """Return warped views of equally large images, (B, C, H, W) -> (V, B, C, S, S) of 0..255."""
    height, width = images.shape[-2:]
    pixels = warp_views(images, view_transforms(boxes, flips, u, jitter, (height, width)), size)
    if jitter.stroke > 1:
        powers = torch.from_numpy(stroke_powers(u, jitter).T.copy())[..., None, None, None]
        pixels.div_(255).clamp_(0, 1).pow_(powers).mul_(255)
    return pixels

"""Dense relative localization: how far apart are two cells of a feature map?

From "Efficient Training of Visual Transformers with Small-Size Datasets" (Liu, Sangineto, Bi,
Sebe, Lepri, De Nadai; NeurIPS 2021), called DRLoc. Pairs of cells are drawn from the final grid of
every image; a small MLP (`fsl.modules.relative_location_head`) sees the features of both and
predicts the offset of their rows and of their columns.

A cell of an H x W grid is one number, row * W + column. Offsets are first member less second.

Letters in shapes: B images, M pairs per image, H and W rows and columns of the grid, L = H * W
cells, n classes of one axis.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Grid = tuple[int, int]
"""Rows and columns of a feature map."""
AxisLogits = tuple[Tensor, Tensor]
"""Logits of the row offset (B, M, n) and of the column offset (B, M, n); n may differ."""
TargetScale = Literal["cell", "span", "unit"]

VARIANCE_FLOOR = 1e-8
VARIANCE_WEIGHT = 0.001


def random_pairs(
    images: int,
    pairs: int,
    grid: Grid,
    *,
    device: torch.device | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return cells (B, M, 2) int64, all drawn uniformly and independently, with replacement.

    A pair may repeat, or hold one cell twice; there may be more pairs than cells.

    Args:
        images: B.
        pairs: M.
        grid: (H, W).
        device: where the pairs are drawn and stay; a generator must be of the same device.
        generator: None for torch's own.
    """
    rows, columns = grid
    shape = (images, pairs, 2)
    return torch.randint(rows * columns, shape, device=device, generator=generator)


def permutation_pairs(
    images: int,
    grid: Grid,
    *,
    device: torch.device | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return cells (B, L, 2) int64: each cell, row by row, with a cell of a random permutation.

    Every image has a permutation of its own. For the arguments see `random_pairs`.
    """
    cells = grid[0] * grid[1]
    second = torch.rand(images, cells, device=device, generator=generator).argsort(1)
    first = torch.arange(cells, device=device).expand_as(second)
    return torch.stack([first, second], -1)


def pair_offsets(pairs: Tensor, grid: Grid) -> Tensor:
    """Return rows and columns from the second member to the first, (B, M, 2) -> (B, M, 2) int64."""
    columns = grid[1]
    row = pairs.div(columns, rounding_mode="floor")
    places = torch.stack([row, pairs - row * columns], -1)  # (B, M, member, axis)
    return places[:, :, 0] - places[:, :, 1]


def offset_classes(grid: Grid, *, signed: bool = False) -> tuple[int, int]:
    """Return how many offsets there are per axis: the side, or with signs 2 * side - 1.

    The paper counts 2 * side + 1, but its two outermost classes cannot occur.
    """
    rows, columns = grid
    return (2 * rows - 1, 2 * columns - 1) if signed else (rows, columns)


def class_targets(pairs: Tensor, grid: Grid, *, signed: bool = False) -> Tensor:
    """Return the class of each offset, from 0: |d|, or with signs d + side - 1.

    Args:
        pairs: cells (B, M, 2).
        grid: (H, W).
        signed: tell left from right and up from down.

    Returns:
        int64 (B, M, 2), rows first.
    """
    distance = pair_offsets(pairs, grid)
    if not signed:
        return distance.abs()
    return torch.stack([distance[..., axis] + (side - 1) for axis, side in enumerate(grid)], -1)


def location_targets(
    pairs: Tensor, grid: Grid, *, signed: bool = False, scale: TargetScale = "cell"
) -> Tensor:
    """Return what the L1 head has to predict, float32 (B, M, 2), rows first.

    Args:
        pairs: cells (B, M, 2).
        grid: (H, W); each axis is scaled by its own side.
        signed: tell left from right and up from down.
        scale: "cell" counts cells, signed ones from the most negative offset (the authors' runs);
            "span" divides that by its largest value; "unit" is the offset itself divided by the
            side (the paper's t_u and t_v), signed between -1 and 1.
    """
    if scale == "unit":
        distance = pair_offsets(pairs, grid)
        counts, largest = distance if signed else distance.abs(), grid
    else:
        counts = class_targets(pairs, grid, signed=signed)
        rows, columns = offset_classes(grid, signed=signed)
        largest = (rows - 1, columns - 1) if scale == "span" else (1, 1)
    # One cell in an axis: all its offsets are 0, whatever they are divided by.
    axes = [counts[..., axis] / max(1, size) for axis, size in enumerate(largest)]
    return torch.stack(axes, -1).float()


def location_l1(predictions: Tensor, targets: Tensor) -> Tensor:
    """Return the mean absolute error () over images, pairs and both axes, in float32.

    The paper's loss is a sum over images and axes; the authors' code and this take the mean.

    Args:
        predictions: (B, M, 2), rows first.
        targets: (B, M, 2) of `location_targets`.
    """
    return (predictions.float() - targets.float()).abs().mean()


def location_cross_entropy(logits: AxisLogits, targets: Tensor) -> Tensor:
    """Return the cross-entropy () of offsets as classes, in float32.

    Mean over images and pairs, sum over the two axes.

    Args:
        logits: of rows and columns, (B, M, n) each.
        targets: int64 (B, M, 2) of `class_targets`.
    """
    rows, columns = (
        F.cross_entropy(axis.float().flatten(0, 1), target.flatten())
        for axis, target in zip(logits, targets.unbind(-1), strict=True)
    )
    return rows + columns


def location_gaussian(logits: AxisLogits, targets: Tensor) -> Tensor:
    """Return the loss () of offsets as Gaussians over classes, in float32.

    With the softmax's mean and variance over class numbers, each axis has (mean - target)² /
    variance + 0.001 * log(variance); mean over images and pairs, sum over the two axes. The form is
    the regression of temporal cycle consistency (Dwibedi et al.; CVPR 2019).

    Args:
        logits: of rows and columns, (B, M, n) each.
        targets: int64 (B, M, 2) of `class_targets`.
    """
    rows, columns = (
        _gaussian(axis.float(), target)
        for axis, target in zip(logits, targets.unbind(-1), strict=True)
    )
    return rows + columns


def _gaussian(logits: Tensor, target: Tensor) -> Tensor:
    """Loss () of one axis, logits (B, M, n) and targets (B, M)."""
    probabilities = logits.softmax(-1)
    # Counted from the target, a confident right answer has a mean of exactly 0.
    place = torch.arange(logits.shape[-1], device=logits.device) - target[..., None]  # (B, M, n)
    mean = (probabilities * place).sum(-1)  # (B, M)
    variance = (probabilities * (place - mean[..., None]).square()).sum(-1) + VARIANCE_FLOOR
    return (mean.square() / variance + VARIANCE_WEIGHT * variance.log()).mean()


@dataclass(frozen=True)
class LocationWeight:
    """The weight of the loss by epoch, from 0.

    "linear" rises from 0 in epoch 0 to `peak` at `warmup_epochs` and falls towards 0 at
    `total_epochs`, as the authors' code does; the paper gives a constant. A run that is stopped
    before `total_epochs` ends with a weight above 0.
    """

    peak: float
    schedule: Literal["linear", "constant"] = "linear"
    warmup_epochs: int = 20
    total_epochs: int = 300
    """Planned epochs; beyond them the weight is 0."""

    def __call__(self, epoch: float) -> float:
        """Return the weight of `epoch`."""
        if self.schedule == "constant":
            return self.peak
        if epoch < self.warmup_epochs:
            return self.peak * epoch / self.warmup_epochs
        if epoch >= self.total_epochs:
            return self.peak if epoch == self.warmup_epochs else 0.0
        left = (epoch - self.warmup_epochs) / (self.total_epochs - self.warmup_epochs)
        return self.peak * (1 - left)

"""What the two distillation stages look at: masked views, matched patches, attention.

Letters: N patches of a view on an h x w grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fsl.augment import evaluation_images
from fsl.methods.distillation import Distillation
from pipelines.model import LoadedModel
from pipelines.report.charts import COLOURS
from pipelines.report.pictures import heated, hidden, png, unnormalised

LINES = 8
SIDE, GAP = 240, 60


@dataclass(frozen=True)
class MaskedView:
    """One global view of training, whole and as the student sees it."""

    view: str
    masked: str
    ratio: float


@dataclass(frozen=True)
class Line:
    """A match, in the coordinates of the picture."""

    x1: float
    y1: float
    x2: float
    y2: float
    colour: str
    similarity: float


@dataclass(frozen=True)
class PatchMatch:
    """Two images of a class, their best matching patches, and where the class token looks."""

    left: str
    right: str
    left_attention: str | None
    right_attention: str | None
    lines: list[Line]
    cell: tuple[float, float]
    grid: tuple[int, int]


def masked_views(model: LoadedModel, images: Sequence[Tensor], seed: int = 0) -> list[MaskedView]:
    """Return the first global view of each image and its mask, as training drew such views."""
    method = model.method
    if not isinstance(method, Distillation):
        return []
    batcher = method.batcher(model.config.method, model.images, method.backbone.grid)
    epoch = model.config.optim.epochs - 1
    candidates = range(seed, seed + 8)
    for first in candidates:  # half of all views have no mask: take seeds that show some
        seeds = [1000 * first + number for number in range(len(images))]
        batch = batcher(list(images), [0] * len(images), seeds, epoch)
        masks = batch.masks[: len(images)]
        if int(masks.flatten(1).any(1).sum()) > len(images) // 2:
            break
    pixels = unnormalised(batch.global_views[: len(images)], model.images)
    return [
        MaskedView(png(view), png(hidden(view, mask)), float(mask.float().mean()))
        for view, mask in zip(pixels, masks, strict=True)
    ]


@torch.no_grad()
def patch_match(model: LoadedModel, images: Sequence[Tensor]) -> PatchMatch | None:
    """Return the matches between two images of a class; None without a patch teacher."""
    method: Any = model.method
    if not isinstance(method, Distillation):
        return None
    batch = evaluation_images(images, model.images)  # (2, C, S, S)
    tokens = method.teacher_backbone.tokens(batch, attention=True)
    height, width = method.teacher_backbone.grid(model.images.size)
    first, second = F.normalize(tokens.patches.float(), dim=-1)  # (N, D) each
    pixels = unnormalised(batch, model.images)
    attended: list[str | None] = [None, None]
    if tokens.attention is not None:
        weights = tokens.attention.float().mean(1).view(2, height, width)
        attended = [png(heated(p, w)) for p, w in zip(pixels, weights, strict=True)]
    return PatchMatch(
        left=png(pixels[0]),
        right=png(pixels[1]),
        left_attention=attended[0],
        right_attention=attended[1],
        lines=_lines(first @ second.mT, _marked(pixels, height, width), width, height),
        cell=(SIDE / width, SIDE / height),
        grid=(height, width),
    )


def _marked(pixels: Tensor, height: int, width: int) -> Tensor:
    """How much there is to see in each patch: standard deviation of its pixels, (2, N)."""
    grey = pixels.mean(1, keepdim=True)
    mean = F.adaptive_avg_pool2d(grey, (height, width))
    square = F.adaptive_avg_pool2d(grey.square(), (height, width))
    return (square - mean.square()).clamp_min(0).sqrt().flatten(1)


def _lines(similarity: Tensor, contrast: Tensor, width: int, height: int) -> list[Line]:
    """Return the best mutual matches (N, N), between patches with something in them if possible."""
    forth, back = similarity.argmax(1), similarity.argmax(0)
    mutual = back[forth] == torch.arange(len(forth))
    seen = contrast[0] > 0.25 * contrast[0].max()
    chosen = mutual & seen if int((mutual & seen).sum()) >= 3 else mutual
    rows = chosen.nonzero()[:, 0]
    values = similarity[rows, forth[rows]]
    best = rows[values.argsort(descending=True)[:LINES]]
    lines = []
    for number, row in enumerate(best.tolist()):
        column = int(forth[row])
        lines.append(
            Line(
                x1=(row % width + 0.5) * SIDE / width,
                y1=(row // width + 0.5) * SIDE / height,
                x2=SIDE + GAP + (column % width + 0.5) * SIDE / width,
                y2=(column // width + 0.5) * SIDE / height,
                colour=COLOURS[number % len(COLOURS)],
                similarity=float(similarity[row, column]),
            )
        )
    return lines

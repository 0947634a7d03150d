"""The MLP of dense relative localization (DRLoc; Liu et al., NeurIPS 2021).

It reads the features of two cells of one image, next to each other, and predicts the offset of
their rows and columns, as two numbers or as two distributions over classes. Pairs, targets and
losses are in `fsl.losses.relative_location`.

The first layer is linear in both members: where an image has clearly fewer cells than pairs, both
halves of it are applied to every cell once, and pairs add up what they need.

Letters in shapes: B images, L cells, C features, M pairs per image, D hidden width, n classes of
one axis.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fsl.losses.relative_location import AxisLogits, Grid

GATHER_COST = 40
"""Products of a pair, per output and half, that must be saved to pay for adding up projections.

Break-even measured by `benchmarks/drloc_head.py` at C = 192; wider features break even earlier.
"""


def pair_linear(tokens: Tensor, pairs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return a linear layer of the two members of each pair, next to each other, (B, M, D).

    Args:
        tokens: features of all cells (B, L, C).
        pairs: cells (B, M, 2).
        weight: (D, 2C); the first C columns belong to the first member.
        bias: (D,).
    """
    (_, cells, features), count = tokens.shape, pairs.shape[1]
    projects = projects_first(cells, count, features)
    layer = project_then_gather if projects else gather_then_project
    return layer(tokens, pairs, weight, bias)


def projects_first(cells: int, pairs: int, features: int) -> bool:
    """Return whether projecting all cells of an image saves more products than adding costs."""
    return features * (pairs - cells) > GATHER_COST * pairs


def project_then_gather(tokens: Tensor, pairs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return `pair_linear` with both halves of the layer applied to each cell once."""
    (images, cells, features), hidden = tokens.shape, len(weight)
    halves = weight.view(hidden, 2, features).transpose(0, 1).reshape(-1, features)  # (2D, C)
    projected = F.linear(tokens, halves, F.pad(bias, (hidden, 0)))  # (B, L, 2D)
    member = torch.arange(2, device=pairs.device)
    rows = 2 * _rows(pairs, cells) + member  # (B, M, 2) of (B * L * 2, D)
    total = F.embedding_bag(rows.view(-1, 2), projected.reshape(-1, hidden), mode="sum")
    return total.view(images, -1, hidden)


def gather_then_project(tokens: Tensor, pairs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return `pair_linear` with the layer applied to each pair."""
    images, cells, features = tokens.shape
    rows = _rows(pairs, cells)
    members = F.embedding(rows, tokens.reshape(-1, features))  # (B, M, 2, C)
    return F.linear(members.view(images, -1, 2 * features), weight, bias)


def _rows(pairs: Tensor, cells: int) -> Tensor:
    """Number the cells of all images of a batch, (B, M, 2)."""
    images = torch.arange(len(pairs), device=pairs.device)
    return pairs + cells * images[:, None, None]


class LocationRegressor(nn.Module):
    """Two offsets per pair: Linear(2C, D) - ReLU - Linear(D, D) - ReLU - Linear(D, 2).

    Args:
        features: C.
        hidden: D.
        init_std: weights start as a truncated normal of this deviation and biases at 0 (0.02 in
            the authors' Swin and T2T-ViT); None keeps torch's defaults (their other backbones).
    """

    def __init__(self, features: int, hidden: int = 512, *, init_std: float | None = None) -> None:
        super().__init__()
        self.first = nn.Linear(2 * features, hidden)
        self.second = nn.Linear(hidden, hidden)
        self.offsets = nn.Linear(hidden, 2)
        _initialize(self, init_std)

    def forward(self, tokens: Tensor, pairs: Tensor) -> Tensor:
        """Return row and column offsets (B, M, 2) of features (B, L, C) and cells (B, M, 2)."""
        x = F.relu(pair_linear(tokens, pairs, self.first.weight, self.first.bias))  # (B, M, D)
        x = F.relu(self.second(x))
        with torch.autocast(x.device.type, enabled=False):  # bfloat16 would round to .03 of 7 cells
            offsets: Tensor = self.offsets(x.to(self.offsets.weight.dtype))
        return offsets


class LocationClassifier(nn.Module):
    """Logits of the two offsets' classes: three layers, then one linear layer per axis.

    Linear(2C, D) - ReLU - Linear(D, D) - ReLU - Linear(D, D), without an activation after the
    last; for cross-entropy and the Gaussian loss.

    Args:
        features: C.
        classes: n of rows and of columns, see `offset_classes`; more are never targets (the
            authors' weights have those of a side of 14 for most backbones).
        hidden: D.
        init_std: see `LocationRegressor`.
    """

    def __init__(
        self,
        features: int,
        classes: tuple[int, int],
        hidden: int = 512,
        *,
        init_std: float | None = None,
    ) -> None:
        super().__init__()
        self.first = nn.Linear(2 * features, hidden)
        self.second = nn.Linear(hidden, hidden)
        self.third = nn.Linear(hidden, hidden)
        self.rows = nn.Linear(hidden, classes[0])
        self.columns = nn.Linear(hidden, classes[1])
        _initialize(self, init_std)

    def forward(self, tokens: Tensor, pairs: Tensor) -> AxisLogits:
        """Return logits of rows and columns, (B, M, n) each."""
        x = F.relu(pair_linear(tokens, pairs, self.first.weight, self.first.bias))  # (B, M, D)
        x = self.third(F.relu(self.second(x)))
        return self.rows(x), self.columns(x)


def _initialize(head: nn.Module, std: float | None) -> None:
    if std is None:
        return
    for layer in head.children():
        assert isinstance(layer, nn.Linear)
        nn.init.trunc_normal_(layer.weight, std=std)
        nn.init.zeros_(layer.bias)


def pool_grid(tokens: Tensor, grid: Grid) -> tuple[Tensor, Grid]:
    """Return cells of half the resolution and their grid, (n, L, C) -> (n, L', C).

    Averages over 3 x 3 cells around every second one; outside the grid nothing is counted. 14 x 14
    cells become 7 x 7, as the authors do with CvT and T2T-ViT.

    Args:
        tokens: (n, H * W, C), row by row.
        grid: (H, W).
    """
    maps = tokens.reshape(len(tokens), *grid, -1).movedim(-1, 1)  # (n, C, H, W)
    pooled = F.avg_pool2d(maps, 3, stride=2, padding=1, count_include_pad=False)
    return pooled.flatten(2).mT, (pooled.shape[2], pooled.shape[3])

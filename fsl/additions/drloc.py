"""Dense relative localization (DRLoc; Liu et al., NeurIPS 2021) on any method with a token grid.

While the method trains, the backbone's last maps are seen as they pass by; pairs of cells are
drawn from each, and a small MLP has to say how far apart they are. Nothing of it is left when the
method answers. Losses and targets: `fsl.losses.relative_location`.

Where a step passes views of several sizes through the network (local crops), only those with the
largest grid count. Pairs are drawn on the device, anew for every image and pass.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Literal, Self, TypeAlias

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from fsl.additions import ADDITIONS, Addition, AdditionConfig
from fsl.additions.hooks import listen
from fsl.backbones import Layers, TokenBackbone
from fsl.errors import ConfigError
from fsl.images import ImageSpec
from fsl.losses.relative_location import (
    Grid,
    LocationWeight,
    TargetScale,
    class_targets,
    location_cross_entropy,
    location_gaussian,
    location_l1,
    location_targets,
    offset_classes,
    permutation_pairs,
    random_pairs,
)
from fsl.modules.relative_location_head import LocationClassifier, LocationRegressor, pool_grid
from fsl.search_space import Choice, IntRange, Uniform
from fsl.types import Progress, StepOutput

Seen: TypeAlias = tuple[Tensor, Grid]
"""Cells (n, N, D) of one pass, and their grid."""


class DRLocConfig(AdditionConfig):
    """Settings of `DRLoc`; the defaults are those of the released runs."""

    name: Literal["drloc"] = "drloc"
    weight: Annotated[float, Field(ge=0, le=100), Uniform(0.01, 2.0, log=True)] = 0.5
    """Weight of the loss at its highest (lambda). It goes with `target_scale`: 0.5 in cells is 3.5
    in units on a 7 x 7 grid. Published: 0.5 for Swin-T, 0.1 for CvT-13 and T2T-ViT-14."""
    pairs: Annotated[int, Field(ge=1, le=65536), IntRange(8, 256, log=True)] = 64
    """Pairs of cells per image (m)."""
    sampling: Literal["random", "permutation"] = "random"
    """`random`: both cells uniformly, with replacement. `permutation`: every cell once, with a cell
    of a random permutation; then `pairs` is not used."""
    loss: Annotated[
        Literal["l1", "cross_entropy", "gaussian"], Choice("l1", "cross_entropy", "gaussian")
    ] = "l1"
    """`l1`: offsets as numbers. `cross_entropy`: as classes. `gaussian`: mean and variance over
    the classes (L_reg)."""
    signed: Annotated[bool, Choice(False, True)] = False
    """Tell left from right and up from down; false: distances only."""
    target_scale: TargetScale = "cell"
    """Unit of l1's targets. `cell`: cells (the released runs). `unit`: divided by the grid's side
    (the paper). `span`: divided by the largest offset."""
    layers: Annotated[Layers, Choice("last", "stages", "blocks")] = "last"
    """Maps that are used: the last, or those of all stages or blocks ("very dense"), each with an
    MLP and pairs of its own; the losses are added."""
    hidden: Annotated[int, Field(ge=1, le=4096), Choice(128, 256, 512)] = 512
    """Hidden width of the MLP."""
    init_std: Annotated[float, Field(gt=0, le=1)] | None = 0.02
    """Spread of the MLP's first weights; null: torch's own, as published for CvT, ViT, ResNet."""
    pool: bool | None = None
    """Halve the grid by average pooling first; null: as published for the backbone (CvT and
    T2T-ViT)."""
    schedule: Annotated[Literal["linear", "constant"], Choice("linear", "constant")] = "linear"
    """`linear`: the weight rises from 0 in epoch 0, then falls (the released runs). `constant`: as
    in the paper; then `warmup_epochs` and `schedule_epochs` are not used."""
    warmup_epochs: Annotated[int, Field(ge=0), IntRange(0, 20)] = 20
    """Epochs of rise."""
    schedule_epochs: Annotated[int, Field(ge=1)] | None = None
    """Epoch in which the weight would reach 0 again; null: the stage's epochs. The released runs
    have 300 and end after 100 (`optim.epochs`)."""

    @model_validator(mode="after")
    def _settings_agree(self) -> Self:
        if self.target_scale != "cell" and self.loss != "l1":
            raise ValueError(
                f"target_scale: {self.target_scale} is for numbers, and loss {self.loss} counts "
                "classes of whole cells; remove it, or use loss: l1"
            )
        if self.schedule_epochs is not None and self.schedule_epochs < self.warmup_epochs:
            raise ValueError(
                f"schedule_epochs {self.schedule_epochs} is below warmup_epochs "
                f"{self.warmup_epochs}; lower warmup_epochs"
            )
        return self

    def check_epochs(self, epochs: int) -> None:
        """Refuse a rise of the weight that does not end within the run."""
        if self.schedule == "linear" and self.warmup_epochs >= epochs:
            raise ConfigError(
                f"additions.drloc.warmup_epochs: {self.warmup_epochs}, but the stage has {epochs} "
                f"epochs, so the weight would never reach {self.weight:g}; lower it, or use "
                "schedule: constant"
            )

    @property
    def unit(self) -> str:
        """What the loss is counted in, for the names of metrics: l1_cell, cross_entropy, ..."""
        return f"l1_{self.target_scale}" if self.loss == "l1" else self.loss


@ADDITIONS.register("drloc")
class DRLoc(Addition):
    """Adds a loss: tell from two tokens how far apart they are in the image."""

    Config = DRLocConfig
    config: DRLocConfig

    def __init__(self, config: DRLocConfig, backbone: nn.Module, images: ImageSpec) -> None:
        super().__init__(config, backbone, images)
        if not isinstance(backbone, TokenBackbone):
            raise ConfigError(
                f"additions.drloc needs a backbone with a grid of tokens, "
                f"{type(backbone).__name__} has none; use swin, vit or resnet12, for example"
            )
        taps = backbone.taps(config.layers)
        self._pooled = [tap.pooled if config.pool is None else config.pool for tap in taps]
        self._seen: list[list[Seen]] = [[] for _ in taps]
        self._watching = True
        for number, tap in enumerate(taps):
            listen(tap, partial(self._see, number, tap.cells))
        grids: list[Grid | None] = [None] * len(taps)
        if config.loss != "l1":
            grids = self._grids(backbone, images)
        self.heads = nn.ModuleList(
            self._head(tap.features, grid) for tap, grid in zip(taps, grids, strict=True)
        )
        self._grid_of_head = grids
        self._weight = config.weight

    def _head(self, features: int, grid: Grid | None) -> nn.Module:
        hidden, std = self.config.hidden, self.config.init_std
        if grid is None:
            return LocationRegressor(features, hidden, init_std=std)
        classes = offset_classes(grid, signed=self.config.signed)
        return LocationClassifier(features, classes, hidden, init_std=std)

    def _grids(self, backbone: TokenBackbone, images: ImageSpec) -> list[Grid | None]:
        """Return the grids of all taps at the recipe's image size, from a pass of one image."""
        was_training = backbone.training
        backbone.eval()
        place = next(backbone.parameters()).device
        with torch.no_grad():
            backbone(torch.zeros(1, images.channels, images.size, images.size, device=place))
        backbone.train(was_training)
        grids: list[Grid | None] = [self._largest(number)[1] for number in range(len(self._seen))]
        self.begin()
        return grids

    def _see(self, number: int, cells: Callable[[Tensor], Seen], tensor: Tensor) -> None:
        """Note one map of a training pass; not what backward computes again (checkpoint_blocks)."""
        if self.training and self._watching:
            self._seen[number].append(cells(tensor))

    def begin(self) -> None:
        """Forget the maps of earlier passes, watch those to come."""
        self._forget()
        self._watching = True

    def _forget(self) -> None:
        for seen in self._seen:
            seen.clear()

    def before_step(self, progress: Progress) -> None:
        """Set the weight of the epoch."""
        config = self.config
        total = config.schedule_epochs or progress.epochs
        weight = LocationWeight(config.weight, config.schedule, config.warmup_epochs, total)
        self._weight = weight(progress.epoch)

    def extra(self) -> StepOutput | None:
        """Return the weighted loss of the maps seen, and the loss itself for the log."""
        if not self.training:
            return None
        losses = [self._loss(number) for number in range(len(self.heads))]
        self._forget()  # the maps hold the whole graph
        self._watching = False
        loss = torch.stack(losses).sum()
        weight = torch.full_like(loss.detach(), self._weight)
        metrics = {f"drloc_{self.config.unit}": loss.detach(), "drloc_weight": weight}
        return StepOutput(self._weight * loss, metrics)

    def _largest(self, number: int) -> Seen:
        """Return the cells of one tap, of the passes with the largest grid, as one batch."""
        seen = largest(self._seen[number])
        return pool_grid(*seen) if self._pooled[number] else seen

    def _loss(self, number: int) -> Tensor:
        """Return the loss () of the maps of one tap."""
        cells, grid = self._largest(number)
        expected = self._grid_of_head[number]
        if expected is not None and grid != expected:
            raise ConfigError(
                f"additions.drloc: loss {self.config.loss} was made for {expected[0]} x "
                f"{expected[1]} cells, those of images.size, and training images have {grid[0]} x "
                f"{grid[1]}; make images.size the size of the training views, or use loss: l1"
            )
        pairs = self._pairs(len(cells), grid, cells.device)
        predicted: Any = self.heads[number](cells, pairs)
        signed = self.config.signed
        if self.config.loss == "l1":
            scale = self.config.target_scale
            return location_l1(predicted, location_targets(pairs, grid, signed=signed, scale=scale))
        of_classes = location_gaussian if self.config.loss == "gaussian" else location_cross_entropy
        return of_classes(predicted, class_targets(pairs, grid, signed=signed))

    def _pairs(self, images: int, grid: Grid, device: torch.device) -> Tensor:
        if self.config.sampling == "permutation":
            return permutation_pairs(images, grid, device=device)
        return random_pairs(images, self.config.pairs, grid, device=device)


def largest(seen: list[Seen]) -> Seen:
    """Return the cells of the passes with the largest grid, as one batch.

    Raises:
        ConfigError: nothing was seen: the method passed no image through the backbone.
    """
    if not seen:
        raise ConfigError(
            "additions.drloc: the method passed no image through the backbone it rides on; use it "
            "with a method that trains the backbone"
        )
    grid = max((grid for _, grid in seen), key=lambda grid: grid[0] * grid[1])
    return torch.cat([cells for cells, other in seen if other == grid]), grid

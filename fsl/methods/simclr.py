"""SimCLR (Chen et al., ICML 2020): two views of an image find each other among all others.

Labels are not used, unless `labels: use` makes it the supervised contrastive method (Khosla et
al., NeurIPS 2020). Both compare outputs of a projection head; the features that evaluation
compares are the backbone's. Loss and gradients do not depend on the number of processes.

Letters in shapes: B images, n = 2B views, D features, P outputs of the head.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from fsl.augment import ColourJitter, SingleViewConfig
from fsl.augment.labelled import TwoViewBatcher
from fsl.batchers import Batcher
from fsl.config import Section
from fsl.distributed import all_reduce_sum, rank
from fsl.images import ImageSpec
from fsl.losses.contrastive import contrastive_loss
from fsl.method import METHODS, Method, MethodConfig
from fsl.search_space import Choice, IntRange, Uniform
from fsl.types import MultiViewBatch, StepOutput

EPSILON = 1e-5


class ProjectorConfig(Section):
    """Settings of `Projector`."""

    layers: Annotated[int, Field(ge=2, le=3), IntRange(2, 3)] = 2
    """Linear layers, with ReLU in between."""
    hidden: Annotated[int, Field(ge=8, le=1 << 14), Choice(256, 512, 1024, 2048)] = 2048
    """Width of the hidden layers."""
    output: Annotated[int, Field(ge=4, le=4096), Choice(64, 128, 256)] = 128
    """Width of what is compared."""
    norm: Annotated[Literal["none", "batch"], Choice("none", "batch")] = "batch"
    """`batch` standardises hidden layers over the batch of all processes."""


class SimCLRConfig(MethodConfig):
    """Settings of `SimCLR`; the defaults are those of the paper on ImageNet."""

    name: Literal["simclr"] = "simclr"
    temperature: Annotated[float, Field(ge=0.001, le=10), Uniform(0.05, 1.0, log=True)] = 0.1
    """Cosine similarities are divided by this. The paper has 0.5 on small images."""
    labels: Annotated[Literal["ignore", "use"], Choice("ignore", "use")] = "ignore"
    """`ignore`: a view looks for the other view of its image. `use`: for all views of its class;
    a batch should then have several images of a class, see `data.order`."""
    head: ProjectorConfig = ProjectorConfig()
    """The projection head."""
    view: SingleViewConfig = SingleViewConfig(
        scale=(0.08, 1.0),
        jitter=ColourJitter(brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2),
        blur=0.5,
    )
    """The random views of each image."""


@METHODS.register("simclr")
class SimCLR(Method[MultiViewBatch]):
    """Contrastive learning of a backbone; evaluation compares its features with class means."""

    Config = SimCLRConfig
    batch_type = MultiViewBatch
    uses_all_parameters: ClassVar[bool] = True  # DistributedDataParallel need not search
    config: SimCLRConfig

    def __init__(self, config: SimCLRConfig, backbone: nn.Module) -> None:
        super().__init__(config, backbone)
        features: Any = backbone.features
        self.head = Projector(features, config.head)

    @classmethod
    def batcher(cls, config: SimCLRConfig, images: ImageSpec, grid_of: Any) -> Batcher:
        """Return what makes two views of each image."""
        del grid_of  # patches mean nothing to this method
        return TwoViewBatcher(images, config.view)

    def loss(self, batch: MultiViewBatch) -> StepOutput:
        """Return the contrastive loss, and how often a view's nearest is a positive."""
        projected = self.head(self.embed(batch.global_views))  # (2B, P)
        keys = batch.labels if self.config.labels == "use" else image_keys(batch)
        keys = keys.repeat(len(projected) // batch.size)  # view-major
        loss, found = contrastive_loss(projected, keys, self.config.temperature)
        return StepOutput(loss, {"accuracy": found})


def image_keys(batch: MultiViewBatch) -> Tensor:
    """Return a number (B,) for every image that no image of any process shares."""
    return torch.arange(batch.size, device=batch.labels.device) + (rank() << 32)


class Projector(nn.Module):
    """Features (n, D) -> (n, P): linear layers with batch norm and ReLU in between."""

    def __init__(self, features: int, config: ProjectorConfig) -> None:
        super().__init__()
        normed = config.norm == "batch"
        layers: list[nn.Module] = []
        for before, after in pairwise([features, *[config.hidden] * (config.layers - 1)]):
            layers.append(nn.Linear(before, after, bias=not normed))
            layers += [GlobalBatchNorm(after), nn.ReLU()] if normed else [nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(config.hidden, config.output))

    def forward(self, features: Tensor) -> Tensor:
        """Return the projected features."""
        projected: Tensor = self.layers(features)
        return projected


class GlobalBatchNorm(nn.Module):
    """Batch norm of rows (n, D) over the rows of all processes.

    Without running statistics: a projection head works in training only.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, rows: Tensor) -> Tensor:
        """Return the standardised rows, in the parameters' precision even under autocast."""
        with torch.autocast(rows.device.type, enabled=False):
            rows = rows.to(self.gain.dtype)
            sums = all_reduce_sum(F.pad(rows.sum(0), (0, 1), value=float(len(rows))))  # (D + 1,)
            count = sums[-1].detach().clamp_min(1)  # 0 where all processes only stand in
            centred = rows - sums[:-1] / count
            variance = all_reduce_sum(centred.square().sum(0)) / count  # (D,)
            return centred * (variance + EPSILON).rsqrt() * self.gain + self.bias

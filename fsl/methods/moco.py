"""MoCo v3 (Chen, Xie, He; ICCV 2021): two views of an image find each other through a slow copy.

The query of a view is made by the backbone, a projector and a predictor; its key by a copy of
backbone and projector that follows them slowly. No labels are used. Evaluation compares features
of the query branch's backbone, before the projector, as the published linear evaluation does.
Loss and gradients of the heads do not depend on the number of processes.

Letters in shapes: B images, S streams of rows (1; 2 with BatchFormer), D features, P width of
queries and keys.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from fsl.additions import Addition, AdditionConfig
from fsl.augment import SingleViewConfig
from fsl.augment.labelled import TwoViewBatcher
from fsl.batchers import Batcher
from fsl.config import Section
from fsl.images import ImageSpec
from fsl.losses.momentum_contrast import momentum_contrast_loss
from fsl.method import METHODS, Method, MethodConfig
from fsl.methods.simclr import GlobalBatchNorm
from fsl.momentum import ema_update_, make_teacher, matching_parameters
from fsl.schedules import CosineSchedule
from fsl.search_space import Choice, IntRange, Uniform
from fsl.types import MultiViewBatch, Progress, StepOutput


class MoCoHeadConfig(Section):
    """Settings of projector and predictor."""

    layers: Annotated[int, Field(ge=2, le=3), IntRange(2, 3)] = 2
    """Linear layers of the projector; the predictor has 2. The paper has 3 with a ViT."""
    hidden: Annotated[int, Field(ge=8, le=1 << 14), Choice(512, 1024, 2048, 4096)] = 4096
    """Width of the hidden layers."""
    output: Annotated[int, Field(ge=4, le=4096), Choice(64, 128, 256)] = 256
    """Width of queries and keys."""
    predictor_norm: bool = False
    """Standardise the predictor's output too, as the paper does with a ViT."""


class MoCoConfig(MethodConfig):
    """Settings of `MoCo`; the defaults are those of the paper for ResNet-50 on ImageNet."""

    name: Literal["moco"] = "moco"
    temperature: Annotated[float, Field(ge=0.001, le=10), Uniform(0.05, 1.0, log=True)] = 1.0
    """Cosine similarities are divided by this. The paper has 0.2 with a ViT."""
    momentum: Annotated[float, Field(ge=0, le=1), Uniform(0.98, 0.999)] = 0.99
    """Part of itself that the copy keeps in the first step."""
    final_momentum: Annotated[float, Field(ge=0, le=1)] = 1.0
    """The same towards the last step; half a cosine in between."""
    streams: Annotated[Literal["sum", "mean"], Choice("sum", "mean")] = "sum"
    """Where BatchFormer gives plain and transformed rows, each kind of query looks in each kind of
    key: these four losses are summed, or averaged (with `after_blocks` two: keys are plain).
    Without it there is one, and no difference."""
    head: MoCoHeadConfig = MoCoHeadConfig()
    """Projector and predictor."""
    view: SingleViewConfig = SingleViewConfig(scale=(0.2, 1.0), blur=0.55, solarize=0.1)
    """The random views of each image."""


@METHODS.register("moco")
class MoCo(Method[MultiViewBatch]):
    """Contrastive learning of a backbone against a slow copy of itself."""

    Config = MoCoConfig
    batch_type = MultiViewBatch
    uses_all_parameters: ClassVar[bool] = True  # DistributedDataParallel need not search
    takes_rows: ClassVar[bool] = True
    config: MoCoConfig

    def __init__(self, config: MoCoConfig, backbone: nn.Module) -> None:
        super().__init__(config, backbone)
        features: Any = backbone.features
        hidden, output = config.head.hidden, config.head.output
        widths = [features, *[hidden] * (config.head.layers - 1), output]
        self.projector = perceptron(widths, last_norm=True)
        self.predictor = perceptron([output, hidden, output], last_norm=config.head.predictor_norm)
        self.teacher_backbone = make_teacher(backbone)
        self.teacher_projector = make_teacher(self.projector)
        self.teacher_additions = nn.ModuleDict()
        self.momentum = config.momentum

    @classmethod
    def batcher(cls, config: MoCoConfig, images: ImageSpec, grid_of: Any) -> Batcher:
        """Return what makes two views of each image."""
        del grid_of  # patches mean nothing to this method
        return TwoViewBatcher(images, config.view)

    def loss(self, batch: MultiViewBatch) -> StepOutput:
        """Return the contrastive loss, and how often the nearest key is the right one."""
        views = torch.split(batch.global_views, batch.size)
        queries = torch.stack([self.queries(view) for view in views])  # (2, S*B, P)
        with torch.no_grad():
            keys = torch.stack([self.keys(view) for view in views])  # (2, S*B, P)
        average = self.config.streams == "mean"
        loss, found = momentum_contrast_loss(
            queries, keys, batch.size, self.config.temperature, average=average
        )
        return StepOutput(loss, {"accuracy": found})

    def queries(self, view: Tensor) -> Tensor:
        """Return the queries of one view of all images, (B, C, H, W) -> (S*B, P).

        Views go one by one, as published: what looks at the batch sees one view of an image.
        """
        predicted: Tensor = self.predictor(self.projector(self.mix(self.backbone(view))))
        return predicted

    def keys(self, view: Tensor) -> Tensor:
        """Return the keys of one view of all images, (B, C, H, W) -> (S*B, P)."""
        features = self.mix_teacher(self.teacher_backbone(view))
        projected: Tensor = self.teacher_projector(features)
        return projected

    def attach(self, additions: Mapping[str, AdditionConfig], images: ImageSpec) -> None:
        """Let `additions` ride on the query branch; what adds rows has a slow copy for the keys."""
        super().attach(additions, images)
        self.teacher_additions = nn.ModuleDict(
            {
                name: copy.deepcopy(addition).requires_grad_(False)
                for name, addition in self.riding()
                if addition.adds_rows and not addition.adds_rows_inside  # keys have one stream
            }
        )

    def mix_teacher(self, features: Tensor) -> Tensor:
        """Return what `mix` does to features of the query branch, for those of the slow copy.

        Its dropout is active, as published.
        """
        for addition in self.teacher_additions.values():
            assert isinstance(addition, Addition)
            features = addition.mix(features)
        return features

    def before_step(self, progress: Progress) -> None:
        """Set the momentum of this step."""
        config = self.config
        momentum = CosineSchedule(config.momentum, config.final_momentum, progress.total_steps)
        self.momentum = momentum(progress.step)

    def after_step(self, progress: Progress) -> None:
        """Move the copy towards the query branch."""
        del progress
        pairs: list[tuple[nn.Module, nn.Module]] = [
            (self.teacher_backbone, self.backbone),
            (self.teacher_projector, self.projector),
            *((slow, self.additions[name]) for name, slow in self.teacher_additions.items()),
        ]
        for teacher, student in pairs:
            ema_update_(*matching_parameters(teacher, student), self.momentum)


def perceptron(widths: Sequence[int], *, last_norm: bool) -> nn.Sequential:
    """Return linear layers without bias, with batch norm and ReLU in between.

    Args:
        widths: of the input, the hidden layers and the output.
        last_norm: whether the output is standardised too, without gain and bias.
    """
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after, bias=False), GlobalBatchNorm(after), nn.ReLU()]
    norm = layers[-2].requires_grad_(False)  # its gain stays 1, its bias 0
    return nn.Sequential(*layers[:-2], *([norm] if last_norm else []))

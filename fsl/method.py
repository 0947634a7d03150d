"""The contract of a few-shot method, and of the backbone under it.

A method is an `nn.Module` with a nested settings class. It turns a batch into a loss and an
episode into logits. It builds no optimizer, opens no file, logs nothing and knows no device:
the same class trains under Ray, in a notebook and in a unit test.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Generic, Self, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fsl.additions import ADDITIONS, Addition, AdditionConfig
from fsl.batchers import Batcher, EpisodeBatcher
from fsl.config import Section, tagged
from fsl.errors import ConfigError
from fsl.images import ImageSpec
from fsl.registry import Registry
from fsl.types import Episode, Progress, StepOutput

B = TypeVar("B")


class MethodConfig(Section):
    """Base of the settings of a method."""

    name: str

    def knowing(self, classes: Mapping[str, int]) -> Self:
        """Return the settings with what only the training data tell, where it was left open.

        Args:
            classes: name of each training class, in order of their numbers -> its images.
        """
        if "classes" in type(self).model_fields and getattr(self, "classes", 0) is None:
            return self.model_copy(update={"classes": len(classes)})
        return self


class Method(nn.Module, ABC, Generic[B]):
    """Base class of methods.

    Attributes:
        backbone: the network that is trained (the student, where there is a teacher).
        Config: the settings class; its fields carry docs, limits and search ranges.
        batch_type: what `loss` consumes: Episode, LabelledBatch or MultiViewBatch.
        takes_rows: whether its loss passes features through `mix`, and repeats their labels.
        freezes_backbone: whether it trains nothing of the backbone, which must then be trained.
        couples_queries: whether an answer depends on the other queries of its task; then a task
            has as many queries of each class.
        additions: what rides on it; see `fsl.additions`.
    """

    Config: ClassVar[type[MethodConfig]]
    batch_type: ClassVar[type]
    takes_rows: ClassVar[bool] = False
    freezes_backbone: ClassVar[bool] = False
    couples_queries: bool = False

    def __init__(self, config: Any, backbone: nn.Module) -> None:
        super().__init__()
        self.config = config
        self.backbone = backbone
        self.additions = nn.ModuleDict()

    def attach(self, additions: Mapping[str, AdditionConfig], images: ImageSpec) -> None:
        """Let `additions` ride on the method.

        Raises:
            ConfigError: one of them gives further rows, which this method has no use for, or it
                cannot ride on the backbone.
        """
        check_additions(additions, self.config.name)
        for name, config in additions.items():
            self.additions[name] = ADDITIONS.get(config.name)(config, self.backbone, images)

    @classmethod
    @abstractmethod
    def batcher(cls, config: Any, images: ImageSpec, grid_of: Any) -> Batcher | EpisodeBatcher:
        """Return the picklable function (decoded images, labels, seeds) -> batch.

        It runs in loader workers and is pure: the same images and seeds give the same batch.
        Methods that consume episodes return an `EpisodeBatcher`, all others a `Batcher`.
        `grid_of(size)` is the backbone's patch grid (h, w) for square images of that size.
        """

    @abstractmethod
    def loss(self, batch: B) -> StepOutput:
        """Return the training loss of one batch."""

    def forward(self, batch: B) -> StepOutput:
        """Return `loss(batch)` and what additions add to it.

        Called through DistributedDataParallel so that its hooks run.
        """
        for _, addition in self.riding():
            addition.begin()
        loss, metrics = self.loss(batch)
        for _, addition in self.riding():
            loss = loss * addition.scale
        for _, addition in self.riding():
            extra = addition.extra()
            if extra is not None:
                loss, metrics = loss + extra.loss, {**metrics, **extra.metrics}
        return StepOutput(loss, metrics)

    def mix(self, features: Tensor) -> Tensor:
        """Return the rows to learn from: features (N, D), or further ones below them (r*N, D)."""
        for _, addition in self.riding():
            features = addition.mix(features)
        return features

    def riding(self) -> Iterator[tuple[str, Addition]]:
        """Yield the additions by name."""
        for name, addition in self.additions.items():
            assert isinstance(addition, Addition)
            yield name, addition

    def begin_step(self, progress: Progress) -> None:
        """Set all schedules: the method's and those of its additions. The trainer calls it."""
        self.before_step(progress)
        for _, addition in self.riding():
            addition.before_step(progress)

    def before_step(self, progress: Progress) -> None:
        """Set what follows a schedule (temperatures, momentum). Default: nothing."""
        del progress

    def after_step(self, progress: Progress) -> None:
        """Update what follows the optimizer (an EMA teacher). Default: nothing."""
        del progress

    def frozen_parameters(self, progress: Progress) -> Sequence[nn.Parameter]:
        """Return parameters whose gradients this step drops. Default: none."""
        del progress
        return ()

    def diagnose(self, metrics: Mapping[str, float]) -> str | None:
        """Return a warning that averaged `StepOutput.metrics` call for (a collapse), or None."""
        del metrics
        return None

    def embed(self, images: Tensor) -> Tensor:
        """Return evaluation features (..., D) of images (..., C, H, W)."""
        flat: Tensor = self.backbone(images.flatten(0, -4))
        return flat.reshape(*images.shape[:-3], -1)

    def score_classes(self, images: Tensor) -> Tensor:
        """Return logits of the training classes, (n, C, H, W) -> (n, K).

        Raises:
            ConfigError: the method learns no classifier; this default.
        """
        raise ConfigError(
            f"method {self.config.name!r} learns no classifier of its training classes, so it "
            "cannot be asked for them; use supervised, or few-shot tasks"
        )

    @classmethod
    def learns_classifier(cls) -> bool:
        """Whether it can be asked for its training classes (`score_classes`)."""
        return cls.score_classes is not Method.score_classes

    def encode(self, images: Tensor) -> Tensor:
        """Return what `logits` needs of each image, (..., C, H, W) -> (..., *F).

        Default: its features. Evaluation calls it once per image, whatever the number of tasks.
        """
        return self.embed(images)

    def logits(self, support: Tensor, support_labels: Tensor, query: Tensor, ways: int) -> Tensor:
        """Return query logits (T, Q, W), float32. Default: cosine similarity to the class means.

        Args:
            support: encoded support images (T, S, *F).
            support_labels: (T, S), 0..ways-1 in any order; shots may differ between classes.
            query: encoded query images (T, Q, *F).
            ways: number of classes W.
        """
        means = class_means(support, support_labels, ways)  # (T, W, D)
        with torch.autocast(query.device.type, enabled=False):
            return F.normalize(query.float(), dim=-1) @ F.normalize(means, dim=-1).mT

    def classify(self, episode: Episode) -> Tensor:
        """Return query logits (T, Q, W) of an episode of images."""
        support, query = self.encode(episode.support_images), self.encode(episode.query_images)
        return self.logits(support, episode.support_labels, query, episode.ways)


METHODS: Registry[type[Method[Any]]] = Registry("method", "fsl.methods", "fsl.methods")
AnyMethodConfig = tagged(METHODS)
"""The settings of any registered method, chosen by `name`."""


def build_method(config: MethodConfig, backbone: nn.Module) -> Method[Any]:
    """Return the method that `config` describes, around `backbone`."""
    return METHODS.get(config.name)(config, backbone)


def check_additions(additions: Mapping[str, AdditionConfig], method: str) -> None:
    """Refuse additions that give further rows to a method that has no use for them."""
    for name, config in additions.items():
        if ADDITIONS.get(config.name).adds_rows and not METHODS.get(method).takes_rows:
            able = [other for other in METHODS.names() if METHODS.get(other).takes_rows]
            raise ConfigError(
                f"additions.{name}: method {method!r} cannot learn from the rows that it adds; it "
                f"rides on {', '.join(able)}"
            )


def class_means(features: Tensor, labels: Tensor, ways: int) -> Tensor:
    """Mean feature of each class, (T, S, D) and labels (T, S) -> (T, W, D), in float32."""
    one_hot = F.one_hot(labels, ways).to(torch.float32).mT  # (T, W, S)
    counts = one_hot.sum(-1, keepdim=True).clamp_min(1)  # (T, W, 1)
    with torch.autocast(features.device.type, enabled=False):
        return (one_hot / counts) @ features.float()

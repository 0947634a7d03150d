"""Compositional zero-shot recognition: images and pairs of attribute and object in one space.

A pair is embedded from its two parts, so pairs that were never seen have a place too. In training
an image learns to be near its own pair among all training pairs (as CompCos; Mancini et al., CVPR
2021, in the closed world).

Letters in shapes: B images, P pairs, D features, E width of the common space.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from fsl.augment import LabelledBatcher, SingleViewConfig
from fsl.batchers import Batcher
from fsl.errors import ConfigError, did_you_mean
from fsl.images import ImageSpec
from fsl.method import METHODS, Method, MethodConfig
from fsl.metrics import accuracy
from fsl.search_space import Choice, Uniform
from fsl.types import LabelledBatch, StepOutput

Pair = tuple[str, str]


class CompositionalConfig(MethodConfig):
    """Settings of `Compositional`."""

    name: Literal["compositional"] = "compositional"
    pairs: tuple[Pair, ...] | None = None
    """Attribute and object of each training class; null: from their names, `attribute object`."""
    width: Annotated[int, Field(ge=4, le=4096), Choice(64, 128, 256, 512)] = 512
    """Width of the common space."""
    temperature: Annotated[float, Field(ge=0.001, le=10), Uniform(0.02, 0.2, log=True)] = 0.05
    """Cosines are divided by this."""
    dropout: Annotated[float, Field(ge=0, lt=1), Uniform(0.0, 0.5)] = 0.3
    """Dropout in the embedding of images."""
    view: SingleViewConfig = SingleViewConfig()
    """The random view of each image."""

    def knowing(self, classes: Mapping[str, int]) -> Self:
        """Return the settings with the pairs; see `MethodConfig.knowing`."""
        pairs = tuple(pair_of(name) for name in classes)
        empty = [name for name, images in classes.items() if not images]
        if empty:
            raise ConfigError(
                f"data.select: leaves no image of {len(empty)} of the {len(pairs)} pairs, e.g. "
                f"{empty[0]!r}, and every pair of the split counts as trained; keep an image of "
                "each, or write shards without these pairs"
            )
        if self.pairs is not None and self.pairs != pairs:
            raise ConfigError(
                f"method.pairs: {len(self.pairs)} pairs are listed, others than the names of the "
                f"{len(pairs)} training classes tell; leave pairs out"
            )
        return super().knowing(classes).model_copy(update={"pairs": pairs})


@METHODS.register("compositional")
class Compositional(Method[LabelledBatch]):
    """Recognises pairs of attribute and object, also those that were never seen together."""

    Config = CompositionalConfig
    batch_type = LabelledBatch
    uses_all_parameters: ClassVar[bool] = True  # DistributedDataParallel need not search
    takes_rows = True
    config: CompositionalConfig

    def __init__(self, config: CompositionalConfig, backbone: nn.Module) -> None:
        super().__init__(config, backbone)
        if config.pairs is None:
            raise ConfigError(
                "pairs: null stands for those of the training split, which a train stage fills in; "
                "outside of one list them, e.g. [[red, apple], [green, pear]]"
            )
        features: Any = backbone.features
        self.attributes = sorted({attribute for attribute, _ in config.pairs})
        self.objects = sorted({thing for _, thing in config.pairs})
        width = config.width
        self.of_image = nn.Sequential(
            nn.Linear(features, width),
            nn.LayerNorm(width),
            nn.ReLU(),
            nn.Dropout(config.dropout),
            nn.Linear(width, width),
        )
        self.attribute_table = nn.Embedding(len(self.attributes), width)
        self.object_table = nn.Embedding(len(self.objects), width)
        self.of_pair = nn.Linear(2 * width, width)
        self.register_buffer("numbers", self.numbered(config.pairs), persistent=False)

    numbers: Tensor

    @classmethod
    def batcher(cls, config: CompositionalConfig, images: ImageSpec, grid_of: Any) -> Batcher:
        """Return what makes one view of each image."""
        del grid_of  # patches mean nothing to this method
        return LabelledBatcher(images, config.view)

    def loss(self, batch: LabelledBatch) -> StepOutput:
        """Return the cross-entropy over the training pairs, and the accuracy on them."""
        rows = self.mix(self.backbone(batch.images))  # (B, D), or (r*B, D)
        labels = batch.labels.repeat(len(rows) // len(batch.labels))
        logits = self.pair_logits(rows, self.numbers)
        plain = logits.detach()[: len(batch.labels)]
        loss = F.cross_entropy(logits, labels)
        return StepOutput(loss, {"accuracy": accuracy(plain, batch.labels)})

    def score_classes(self, images: Tensor) -> Tensor:
        """Return logits of the training pairs, (n, C, H, W) -> (n, P)."""
        return self.pair_logits(self.embed(images), self.numbers)

    def score_pairs(self, images: Tensor, numbers: Tensor) -> Tensor:
        """Return logits of any pairs, given by `numbered` (P, 2): (n, C, H, W) -> (n, P)."""
        return self.pair_logits(self.embed(images), numbers)

    def pair_logits(self, features: Tensor, numbers: Tensor) -> Tensor:
        """Return logits of pairs (P, 2) for features (B, D), (B, P), float32 under autocast too."""
        with torch.autocast(features.device.type, enabled=False):
            precise = features.to(self.of_pair.weight.dtype)
            image = F.normalize(self.of_image(precise), dim=-1)  # (B, E)
            parts = [self.attribute_table(numbers[:, 0]), self.object_table(numbers[:, 1])]
            pair = F.normalize(self.of_pair(torch.cat(parts, -1)), dim=-1)  # (P, E)
            return image @ pair.mT / self.config.temperature

    def numbered(self, pairs: Sequence[Pair]) -> Tensor:
        """Return the numbers of attributes and objects, (P, 2) int64.

        Raises:
            ConfigError: a part that no training pair has.
        """
        found = []
        for attribute, thing in pairs:
            for kind, name, known in (
                ("attribute", attribute, self.attributes),
                ("object", thing, self.objects),
            ):
                if name not in known:
                    raise ConfigError(
                        f"{kind} {name!r} is in no training pair{did_you_mean(name, known)}; pairs "
                        "can be new, their parts cannot"
                    )
            found.append((self.attributes.index(attribute), self.objects.index(thing)))
        return torch.tensor(found)


def pair_of(class_name: str) -> Pair:
    """Return attribute and object of a class named `attribute object`.

    Raises:
        ConfigError: the name has not these two parts.
    """
    attribute, space, thing = class_name.partition(" ")
    if not space or not attribute or not thing:
        raise ConfigError(
            f"class {class_name!r}: compositional needs classes named `attribute object`, with a "
            "space between the two"
        )
    return attribute, thing

"""The supervised baseline: a classifier of the training classes; its features are then compared.

Train with cross-entropy on all training classes at once, drop the classifier, and label queries
by the cosine to class means (Chen et al., ICLR 2019; Chen et al., ICCV 2021: "classifier
baseline"). The cosine classifier is that of Gidaris and Komodakis (CVPR 2018).

Letters in shapes: B images, C outputs, D features.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from fsl.augment import LabelledBatcher, SingleViewConfig
from fsl.batchers import Batcher
from fsl.errors import ConfigError
from fsl.images import ImageSpec
from fsl.losses.balanced_softmax import balanced_softmax_loss, log_counts
from fsl.method import METHODS, Method, MethodConfig
from fsl.metrics import accuracy
from fsl.mixing import MixingConfig, mixed, mixed_targets
from fsl.search_space import Choice, Uniform
from fsl.types import LabelledBatch, StepOutput

TEMPERATURES = {"cosine": 0.1, "linear": 1.0}
TURNS = 4


class SupervisedConfig(MethodConfig):
    """Settings of `Supervised`."""

    name: Literal["supervised"] = "supervised"
    classes: Annotated[int, Field(ge=2, le=1 << 20)] | None = None
    """Number of training classes; null: those of the training split."""
    turned_classes: Annotated[bool, Choice(False, True)] = False
    """Count the four quarter turns of a class as four classes: each image is turned by a random
    multiple of 90 degrees, which its label names. For glyphs; then `view.quarter_turns: false`."""
    classifier: Annotated[Literal["cosine", "linear"], Choice("cosine", "linear")] = "cosine"
    """`cosine`: features and class weights of length 1. `linear`: as they are, and a bias."""
    temperature: Annotated[float, Field(ge=0.001, le=100), Uniform(0.02, 1.0, log=True)] | None = (
        None
    )
    """The classifier's logits are divided by this; null: 0.1 for `cosine`, 1 for `linear`."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1), Uniform(0.0, 0.3)] = 0.0
    """Part of the target that is spread evenly over all classes."""
    balanced: bool = False
    """Balanced Softmax (Ren et al., NeurIPS 2020), for a long tail of classes: in training each
    logit gets the logarithm of its class's number of images."""
    class_counts: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    """With `balanced`: training images of each class; null: those of the training split."""
    mixing: MixingConfig | None = None
    """Mixup and CutMix of each batch; null: none."""
    view: SingleViewConfig = SingleViewConfig()
    """The random view of each image."""

    def knowing(self, classes: Mapping[str, int]) -> Self:
        """Return the settings with number and sizes of the classes; see `MethodConfig.knowing`."""
        known = super().knowing(classes)
        if self.balanced and self.class_counts is None:
            known = known.model_copy(update={"class_counts": tuple(classes.values())})
        return known

    @model_validator(mode="after")
    def _balance_fits(self) -> Self:
        if self.class_counts is not None and not self.balanced:
            raise ValueError("class_counts: only balanced: true uses them; remove one")
        if self.balanced and self.turned_classes:
            raise ValueError("balanced and turned_classes: true do not go together; remove one")
        return self


@METHODS.register("supervised")
class Supervised(Method[LabelledBatch]):
    """Cross-entropy over the training classes; evaluation compares features with class means."""

    Config = SupervisedConfig
    batch_type = LabelledBatch
    uses_all_parameters: ClassVar[bool] = True  # DistributedDataParallel need not search
    takes_rows = True
    config: SupervisedConfig
    log_counts: Tensor

    def __init__(self, config: SupervisedConfig, backbone: nn.Module) -> None:
        super().__init__(config, backbone)
        features: Any = backbone.features
        outputs = checked_classes(config) * (TURNS if config.turned_classes else 1)
        self.classifier = nn.Linear(features, outputs, bias=config.classifier == "linear")
        self.temperature = config.temperature or TEMPERATURES[config.classifier]
        if config.balanced:
            counts = log_counts(checked_counts(config))
            self.register_buffer("log_counts", counts, persistent=False)  # of this stage's data

    @classmethod
    def batcher(cls, config: SupervisedConfig, images: ImageSpec, grid_of: Any) -> Batcher:
        """Return what makes one view of each image and, if set, turns its class."""
        del grid_of  # patches mean nothing to this method
        return LabelledBatcher(
            images,
            config.view,
            classes=checked_classes(config),
            turned_classes=config.turned_classes,
        )

    def loss(self, batch: LabelledBatch) -> StepOutput:
        """Return the cross-entropy of a batch, and the accuracy on the training classes."""
        images, share = batch.images, 1.0
        if self.config.mixing is not None:
            images, share = mixed(images, self.config.mixing)
        rows = self.mix(self.backbone(images))  # (B, D), or (r*B, D)
        logits = self.class_logits(rows)  # (r*B, C)
        loss = self._cross_entropy(logits, batch.labels, share)
        plain = logits.detach()[: len(batch.labels)]
        return StepOutput(loss, {"accuracy": accuracy(plain, batch.labels)})

    def _cross_entropy(self, logits: Tensor, labels: Tensor, share: float) -> Tensor:
        """Return the loss () of logits (r*B, C), with the `share` of each image's own label."""
        targets = labels if share == 1 else mixed_targets(labels, logits.shape[1], share)
        targets = torch.cat([targets] * (len(logits) // len(labels)))
        smoothing = self.config.label_smoothing
        if self.config.balanced:
            counts = self.log_counts
            return balanced_softmax_loss(logits, targets, counts, label_smoothing=smoothing)
        return F.cross_entropy(logits, targets, label_smoothing=smoothing)

    def score_classes(self, images: Tensor) -> Tensor:
        """Return logits of the training classes, (n, C, H, W) -> (n, K).

        With `turned_classes`, those of the class as it stands.
        """
        logits = self.class_logits(self.embed(images))
        return logits[:, : checked_classes(self.config)]

    def class_logits(self, features: Tensor) -> Tensor:
        """Return logits of the training classes, (B, D) -> (B, C), float32 under autocast too."""
        weight, bias = self.classifier.weight, self.classifier.bias
        with torch.autocast(features.device.type, enabled=False):
            features = features.to(weight.dtype)
            if self.config.classifier == "cosine":
                features, weight = F.normalize(features, dim=-1), F.normalize(weight, dim=-1)
            return F.linear(features, weight, bias) / self.temperature


def checked_classes(config: SupervisedConfig) -> int:
    """Return the number of training classes.

    Raises:
        ConfigError: it is not known yet, or images would be turned twice.
    """
    if config.turned_classes and config.view.quarter_turns:
        raise ConfigError(
            "turned_classes: true turns every image already, and view.quarter_turns: true would "
            "turn it away from its label; set view.quarter_turns: false"
        )
    if config.classes is None:
        raise ConfigError(
            "classes: null stands for the classes of the training split, which a train stage "
            "fills in; outside of one set it to their number, e.g. classes: 64"
        )
    return config.classes


def checked_counts(config: SupervisedConfig) -> tuple[int, ...]:
    """Return the training images of each class; raises ConfigError unless one number each."""
    classes = checked_classes(config)
    if config.class_counts is None or len(config.class_counts) != classes:
        raise ConfigError(
            f"class_counts: {config.class_counts}, but balanced needs the training images of each "
            f"of {classes} classes; null in a train stage takes them from the data"
        )
    return config.class_counts

"""A method made without memory, data or fetched weights: what its settings alone tell of it."""

from __future__ import annotations

from typing import Any

import torch

from fsl.backbones.features import FeaturesConfig
from fsl.method import Method
from pipelines.model import fresh_method
from pipelines.train_config import TrainConfig

SOME = 8
SOME_CLASSES = {f"attribute object{number}": SOME for number in range(SOME)}
"""They stand for what only the data tell: classes, the length of feature vectors."""


def with_stand_ins(config: TrainConfig) -> TrainConfig:
    """Return resolved settings in which something stands for what only the data tell."""
    backbone = config.backbone
    if isinstance(backbone, FeaturesConfig) and backbone.size is None:
        backbone = FeaturesConfig(size=SOME)
    method = config.method.knowing(SOME_CLASSES)
    return config.model_copy(update={"backbone": backbone, "method": method})


def hollow_method(config: TrainConfig) -> Method[Any]:
    """Return the method of resolved settings; its tensors have shapes, but no values."""
    with torch.device("meta"):
        return fresh_method(with_stand_ins(config), pretrained=False)
